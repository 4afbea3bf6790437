/** Names and their values: what a block sets is gone with it, and what stands outside of it is seen. */
import { Undefined, type Value } from './values.ts'

export class Scope {
  readonly #values = new Map<string, Value>()
  readonly #outer: Scope | undefined

  constructor(outer?: Scope, values: Iterable<[string, Value]> = []) {
    this.#outer = outer
    for (const [name, value] of values) this.#values.set(name, value)
  }

  get(name: string): Value {
    for (let scope: Scope | undefined = this; scope; scope = scope.#outer) {
      const value = scope.#values.get(name)
      if (value !== undefined) return value
    }
    return Undefined.named(name)
  }

  set(name: string, value: Value): void {
    this.#values.set(name, value)
  }
}

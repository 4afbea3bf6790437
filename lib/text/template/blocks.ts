/** `self`: the blocks of a template by their names, each as a function that renders it. */
import { SPECIAL } from './dialect.ts'
import { spend } from './meter.ts'
import type { CallBlock, Statement } from './nodes.ts'
import { type Attributes, Callable, type Value } from './values.ts'

export class Blocks implements Attributes {
  readonly label = 'TemplateReference'
  readonly #body: readonly Statement[]
  readonly #render: (body: readonly Statement[]) => string
  #bodies: Map<string, Statement[]> | undefined

  constructor(body: readonly Statement[], render: (body: readonly Statement[]) => string) {
    this.#body = body
    this.#render = render
  }

  attribute(name: string): Value | undefined {
    this.#bodies ??= new Map(namedBlocks(this.#body))
    const body = this.#bodies.get(name)
    return body && new Callable(name, () => this.#render(body))
  }
}

function* namedBlocks(node: unknown): Generator<[string, Statement[]], void, undefined> {
  if (typeof node !== 'object' || node === null) return
  spend()
  if (!Array.isArray(node) && isNamed(node)) {
    const [name] = node.call.args
    if (name?.type === 'StringLiteral') yield [name.value, node.body]
  }
  for (const inner of Object.values(node)) yield* namedBlocks(inner)
}

export const isNamed = (node: object): node is CallBlock =>
  (node as CallBlock).type === 'CallStatement' &&
  (node as CallBlock).call.callee.type === 'Identifier' &&
  ((node as CallBlock).call.callee as { value: string }).value === SPECIAL.named

/** The variable `loop`, and what else of Jinja's own has attributes. */
import { spend } from './meter.ts'
import { equals } from './operators.ts'
import { typeError } from './problems.ts'
import { type Attributes, Callable, type Named, orElse, Tuple, Undefined, type Value } from './values.ts'

/** Goes through items, those alone that pass; looks ahead no further than it is asked to, as Jinja does. */
export class Loop implements Attributes {
  readonly label = 'LoopContext'
  readonly #items: readonly Value[]
  readonly #passes: (item: Value) => boolean
  readonly #depth: number
  readonly #again: ((items: Value) => Value) | undefined
  #position = 0
  #seen: Value[] = []
  #index = -1
  #last: Tuple | undefined

  constructor(
    items: readonly Value[],
    passes: (item: Value) => boolean,
    depth: number,
    again: ((items: Value) => Value) | undefined,
  ) {
    this.#items = items
    this.#passes = passes
    this.#depth = depth
    this.#again = again
  }

  /** The next item, undefined at the end. */
  next(): Value | undefined {
    this.#index++
    return this.#at(this.#index)
  }

  #at(index: number): Value | undefined {
    while (this.#seen.length <= index && this.#position < this.#items.length) {
      spend()
      const item = this.#items[this.#position++]!
      if (this.#passes(item)) this.#seen.push(item)
    }
    return this.#seen[index]
  }

  #length(): number {
    while (this.#at(this.#seen.length) !== undefined);
    return this.#seen.length
  }

  attribute(name: string): Value | undefined {
    const index = this.#index
    switch (name) {
      case 'index':
        return index + 1
      case 'index0':
        return index
      case 'first':
        return index === 0
      case 'last':
        return this.#at(index + 1) === undefined
      case 'length':
        return this.#length()
      case 'revindex':
        return this.#length() - index
      case 'revindex0':
        return this.#length() - index - 1
      case 'depth':
        return this.#depth
      case 'depth0':
        return this.#depth - 1
      case 'previtem':
        return orElse(this.#seen[index - 1], () => Undefined.named('there is no previous item'))
      case 'nextitem':
        return orElse(this.#at(index + 1), () => Undefined.named('there is no next item'))
      case 'cycle':
        return new Callable('cycle', (args) => {
          if (args.length === 0) throw typeError('no items for cycling given')
          return args[index % args.length]!
        })
      case 'changed':
        return new Callable('changed', (args) => {
          const now = new Tuple([...args])
          const isSame = this.#last !== undefined && equals(this.#last, now)
          this.#last = now
          return !isSame
        })
    }
    return undefined
  }

  call([items]: Value[]): Value {
    if (!this.#again) throw typeError("the loop must have the 'recursive' marker to be called recursively.")
    return this.#again(items!)
  }
}

/** cycler('a', 'b') */
export class Cycler implements Attributes {
  readonly label = 'Cycler'
  readonly #items: Value[]
  #position = 0

  constructor(items: Value[]) {
    if (items.length === 0) throw typeError('at least one item has to be provided')
    this.#items = items
  }

  attribute(name: string): Value | undefined {
    if (name === 'current') return this.#items[this.#position]!
    if (name === 'next') {
      return new Callable(name, () => {
        const item = this.#items[this.#position]!
        this.#position = (this.#position + 1) % this.#items.length
        return item
      })
    }
    if (name !== 'reset') return undefined
    return new Callable(name, () => {
      this.#position = 0
      return null
    })
  }
}

/** joiner(', '): nothing when it is called first, its separator after that. */
export function joiner(separator: Value): Callable {
  let isFirst = true
  return new Callable('joiner', (_args: Value[], _named: Named) => {
    if (!isFirst) return separator
    isFirst = false
    return ''
  })
}

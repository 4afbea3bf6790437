/** A short look at whether shapes contradict themselves. */
import { accepts, isNothing } from '../dfa.ts'
import type { Shapes } from './expand.ts'
import type { Literal } from './nodes.ts'
import type { Scalars } from './scalars.ts'
import { numberOf, type Shape } from './shapes.ts'

/** How deep the look goes. */
const MAX_LOOK = 5

export class Contradictions {
  readonly #scalars: Scalars
  readonly #looked = new Map<string, boolean>()
  #look = 0
  /** To be set before anything is asked. */
  shapes!: Shapes

  constructor(scalars: Scalars) {
    this.#scalars = scalars
  }

  /** Surely no value is like that. */
  contradicts(shape: Shape): boolean {
    if (shape.minimum > shape.maximum) return true
    if (shape.type === 'array') {
      if (shape.witnesses.length > 0 && shape.maximum === 0) return true
      for (let place = 0; place < Math.min(shape.minimum, 4); place++) {
        const literals = shape.specs.flatMap(({ places, rest }) =>
          place < places.length ? places[place]! : (rest ?? []),
        )
        if (this.#isSurelyNothing(literals)) return true
      }
      return false
    }
    if (shape.required.size > shape.maximum) return true
    for (const name of shape.required) {
      if (shape.forbidden.has(name)) return true
      const literals = shape.specs.flatMap((spec) => {
        const own = spec.named.get(name)
        const matched = spec.patterns.filter(({ source }) => accepts(this.#scalars.pattern(source), name))
        if (own === undefined && matched.length === 0) return spec.rest ?? []
        return [...(own ?? []), ...matched.flatMap(({ value }) => value)]
      })
      if (this.#isSurelyNothing(literals)) return true
    }
    return false
  }

  #isSurelyNothing(literals: readonly Literal[]): boolean {
    if (literals.length === 0) return false
    if (literals.some(({ node, negative }) => node.schema === negative)) return true
    if (this.#look >= MAX_LOOK) return false
    const key = `${[...new Set(literals.map(numberOf))].sort((a, b) => a - b)}`
    const known = this.#looked.get(key)
    if (known !== undefined) return known
    this.#looked.set(key, false)
    this.#look++
    const answer = this.#isNothing(literals)
    this.#look--
    // At the bottom nothing was found for want of looking.
    if (answer || this.#look < 2) this.#looked.set(key, answer)
    else this.#looked.delete(key)
    return answer
  }

  #isNothing(literals: readonly Literal[]): boolean {
    const { texts, numbers, booleans, mayBeNull } = this.#scalars
    if (mayBeNull.call(this.#scalars, literals) || booleans.call(this.#scalars, literals).includes(true)) return false
    if (numbers(literals).length > 0) return false
    const set = texts(literals)
    if (set.minimum <= set.maximum && !isNothing(set.dfa)) return false
    const isEmpty = (shape: Shape) => this.contradicts(shape)
    return this.shapes.objects(literals).every(isEmpty) && this.shapes.arrays(literals).every(isEmpty)
  }
}

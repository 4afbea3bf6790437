/** What a schema lets values be: each list of literals once, in terms of others. */
import { ANY } from '../dfa.ts'
import type { NumberSet } from '../numbers.ts'
import { type Meter, tooLarge } from '../problems.ts'
import type { Names } from './members.ts'
import type { Literal } from './nodes.ts'
import type { TextSet } from './scalars.ts'
import { type ArrayShape, numberOf, type ObjectShape } from './shapes.ts'

const MAX_VALUES = 60_000

/** A value with so many bits set by it. */
export interface Choice {
  value: number
  sets: readonly number[]
}

export interface ObjectPlan {
  type: 'object'
  shape: ObjectShape
  names: readonly string[]
  /** Of each name what it may be; none: it may not be there. */
  named: Choice[][]
  automaton: Names
  /** Of other names. */
  kinds: { key: string; choices: Choice[] }[]
}

export interface ArrayPlan {
  type: 'array'
  shape: ArrayShape
  places: Choice[][]
  rest: Choice[] | undefined
  bits: number
}

/** What a list of literals lets a value be. */
export interface Value {
  literals: readonly Literal[]
  texts: TextSet
  numbers: NumberSet
  constants: ('null' | 'true' | 'false')[]
  objects: ObjectPlan[]
  arrays: ArrayPlan[]
  isPossible: boolean
  rule: number
  users: Set<Value>
}

/** Numbers of values, from 0 on as they are first met. */
export class Values {
  readonly list: Value[] = []
  readonly #byKey = new Map<string, number>()
  readonly #meter: Meter

  constructor(meter: Meter) {
    this.#meter = meter
  }

  of(literals: readonly Literal[]): number {
    const numbers = [
      ...new Set(literals.filter(({ node, negative }) => node.schema !== true || negative).map(numberOf)),
    ]
    const key = numbers.sort((a, b) => a - b).join(' ')
    const known = this.#byKey.get(key)
    if (known !== undefined) return known
    if (this.list.length >= MAX_VALUES) throw tooLarge(`more than ${MAX_VALUES} kinds of values`)
    const value = this.list.length
    this.list.push({
      literals,
      texts: { dfa: ANY, minimum: 0, maximum: Number.POSITIVE_INFINITY },
      numbers: [],
      constants: [],
      objects: [],
      arrays: [],
      isPossible: false,
      rule: -1,
      users: new Set(),
    })
    this.#byKey.set(key, value)
    this.#meter.spend(100)
    return value
  }
}

/** With any of the conditions that an item can fulfil, or none: the value then, and the bits that it sets. */
export function choicesWith(
  conditions: readonly number[],
  valueWith: (chosen: readonly number[]) => number,
  bitOf: (condition: number) => number,
): Choice[] {
  const out: Choice[] = []
  for (let chosen = 0; chosen < 1 << conditions.length; chosen++) {
    const own = conditions.filter((_, at) => (chosen >> at) & 1)
    out.push({ value: valueWith(own), sets: own.map(bitOf) })
  }
  return out
}

export function* choicesOf(plan: ObjectPlan | ArrayPlan): Iterable<Choice> {
  if (plan.type === 'object') {
    for (const choices of plan.named) yield* choices
    for (const { choices } of plan.kinds) yield* choices
  } else {
    for (const choices of plan.places) yield* choices
    if (plan.rest) yield* plan.rest
  }
}

/** What a schema says of texts, numbers, null and booleans: sets, which know union, intersection and complement. */
import { ANY, type Dfa, isAny, isNothing, NOTHING, ofLength, ofTexts } from '../dfa.ts'
import { both, either, without } from '../dfa_algebra.ts'
import { formatRegex, isUnsupportedFormat } from '../formats.ts'
import {
  bothNumbers,
  EVERY_NUMBER,
  eitherNumbers,
  multiplesOf,
  NO_NUMBER,
  type NumberSet,
  neighbour,
  notNumbers,
  range,
} from '../numbers.ts'
import { invalid, type Meter, unsupported } from '../problems.ts'
import { regexDfa } from '../regex.ts'
import type { Json, JsonObject, Literal, Node, Nodes, TypeName } from './nodes.ts'

/** Texts of an automaton whose length lies between two bounds. */
export interface TextSet {
  dfa: Dfa
  minimum: number
  maximum: number
}

const INFINITY = Number.POSITIVE_INFINITY
export const EVERY_TEXT: TextSet = { dfa: ANY, minimum: 0, maximum: INFINITY }
export const NO_TEXT: TextSet = { dfa: NOTHING, minimum: 0, maximum: INFINITY }

/** An algebra of sets that schemas are read into. */
interface Algebra<Set> {
  type: TypeName
  every: Set
  none: Set
  both(a: Set, b: Set): Set
  either(a: Set, b: Set): Set
  not(a: Set): Set
  isNone(a: Set): boolean
  isEvery(a: Set): boolean
  /** Of the keywords of the type itself. */
  own(schema: JsonObject, node: Node): Set
  of(values: readonly Json[]): Set
}

class Reader<Set> {
  readonly #nodes: Nodes
  readonly #algebra: Algebra<Set>
  readonly #meter: Meter
  readonly #known = new Map<Node, Set | 'open'>()

  constructor(nodes: Nodes, algebra: Algebra<Set>, meter: Meter) {
    this.#nodes = nodes
    this.#algebra = algebra
    this.#meter = meter
  }

  all(literals: readonly Literal[]): Set {
    const { every, both, not, isNone } = this.#algebra
    let out = every
    for (const { node, negative } of literals) {
      if (isNone(out)) return out
      const set = this.read(node)
      out = both(out, negative ? not(set) : set)
    }
    return out
  }

  read(node: Node): Set {
    const known = this.#known.get(node)
    if (known === 'open') throw invalid('a JSON schema refers to itself before it says anything')
    if (known !== undefined) return known
    this.#known.set(node, 'open')
    const set = this.#read(node)
    this.#known.set(node, set)
    return set
  }

  #read(node: Node): Set {
    const { type, every, none, both, either, not, isNone, own, of } = this.#algebra
    this.#meter.spend(20)
    if (node.schema === true) return every
    if (node.schema === false) return none
    const schema = this.#nodes.check(node)
    if (node.types && !node.types.names.has(type)) return none
    const sub = (keyword: string, value: Json | undefined) => this.read(this.#nodes.of(node, keyword, value))
    let out = own(schema, node)
    const narrow = (set: Set) => {
      out = both(out, set)
    }
    if (schema.const !== undefined) narrow(of([schema.const]))
    if (schema.enum !== undefined) narrow(of(schema.enum as Json[]))
    if (schema.$ref !== undefined && !isNone(out)) narrow(this.read(this.#nodes.target(node)))
    for (const part of (schema.allOf ?? []) as Json[]) if (!isNone(out)) narrow(sub('allOf', part))
    if (schema.anyOf !== undefined && !isNone(out)) {
      narrow((schema.anyOf as Json[]).reduce<Set>((all, part) => either(all, sub('anyOf', part)), none))
    }
    if (schema.oneOf !== undefined && !isNone(out)) {
      let [one, some] = [none, none]
      for (const part of schema.oneOf as Json[]) {
        const set = sub('oneOf', part)
        if (isNone(set)) continue
        one = either(isNone(one) ? one : both(one, not(set)), isNone(some) ? set : both(set, not(some)))
        some = either(some, set)
      }
      narrow(one)
    }
    if (schema.not !== undefined && !isNone(out)) narrow(not(sub('not', schema.not)))
    if (schema.if !== undefined && (schema.then !== undefined || schema.else !== undefined) && !isNone(out)) {
      const condition = sub('if', schema.if)
      const then = schema.then === undefined ? every : sub('then', schema.then)
      const otherwise = schema.else === undefined ? every : sub('else', schema.else)
      narrow(either(both(condition, then), both(not(condition), otherwise)))
    }
    return out
  }
}

export class Scalars {
  readonly #meter: Meter
  readonly #texts: Reader<TextSet>
  readonly #numbers: Reader<NumberSet>
  readonly #booleans: Reader<number>
  readonly #nulls: Reader<number>
  readonly #patterns = new Map<string, Dfa>()

  constructor(nodes: Nodes, meter: Meter) {
    this.#meter = meter
    this.#texts = new Reader(nodes, this.#textAlgebra(), meter)
    this.#numbers = new Reader(nodes, numberAlgebra, meter)
    this.#booleans = new Reader(nodes, bitAlgebra('boolean', [false, true]), meter)
    this.#nulls = new Reader(nodes, bitAlgebra('null', [null]), meter)
  }

  texts = (literals: readonly Literal[]): TextSet => this.#texts.all(literals)
  numbers = (literals: readonly Literal[]): NumberSet => this.#numbers.all(literals)
  /** false, true. */
  booleans(literals: readonly Literal[]): [boolean, boolean] {
    const bits = this.#booleans.all(literals)
    return [(bits & 1) !== 0, (bits & 2) !== 0]
  }
  mayBeNull = (literals: readonly Literal[]): boolean => this.#nulls.all(literals) !== 0

  /** Texts that have a pattern somewhere. */
  pattern(source: string): Dfa {
    let dfa = this.#patterns.get(source)
    if (!dfa) {
      dfa = regexDfa(source, 'anywhere', {}, this.#meter)
      this.#patterns.set(source, dfa)
    }
    return dfa
  }

  #format(format: string): Dfa {
    if (isUnsupportedFormat(format)) throw unsupported(`the format '${format}' of JSON schemas`)
    if (format === 'regex') throw unsupported(`the format '${format}' of JSON schemas`)
    const source = formatRegex(format)
    if (source === undefined) return ANY
    const key = `format ${format}`
    let dfa = this.#patterns.get(key)
    if (!dfa) {
      dfa = regexDfa(source, 'whole', {}, this.#meter)
      this.#patterns.set(key, dfa)
    }
    return dfa
  }

  /** One automaton of a set, its bounds of length within. */
  whole({ dfa, minimum, maximum }: TextSet): Dfa {
    if (minimum === 0 && maximum === INFINITY) return dfa
    return both(dfa, ofLength(minimum, maximum, this.#meter), this.#meter)
  }

  #textAlgebra(): Algebra<TextSet> {
    const meter = this.#meter
    const isNone = ({ dfa, minimum, maximum }: TextSet) => minimum > maximum || isNothing(dfa)
    const isEvery = ({ dfa, minimum, maximum }: TextSet) => minimum === 0 && maximum === INFINITY && isAny(dfa)
    const plain = (dfa: Dfa): TextSet => ({ dfa, minimum: 0, maximum: INFINITY })
    return {
      type: 'string',
      every: EVERY_TEXT,
      none: NO_TEXT,
      isNone,
      isEvery,
      both: (a, b) => ({
        dfa: both(a.dfa, b.dfa, meter),
        minimum: Math.max(a.minimum, b.minimum),
        maximum: Math.min(a.maximum, b.maximum),
      }),
      either: (a, b) => {
        if (isNone(a)) return b
        if (isNone(b)) return a
        if (isEvery(a) || isEvery(b)) return EVERY_TEXT
        return plain(either(this.whole(a), this.whole(b), meter))
      },
      not: (a) => {
        if (isNone(a)) return EVERY_TEXT
        if (isEvery(a)) return NO_TEXT
        // Most are bounds of one side.
        if (isAny(a.dfa) && a.minimum === 0) return { dfa: ANY, minimum: a.maximum + 1, maximum: INFINITY }
        if (isAny(a.dfa) && a.maximum === INFINITY) return { dfa: ANY, minimum: 0, maximum: a.minimum - 1 }
        return plain(without(ANY, this.whole(a), meter))
      },
      of: (values) =>
        plain(
          ofTexts(
            values.filter((value) => typeof value === 'string'),
            meter,
          ),
        ),
      own: ({ minLength = 0, maxLength = INFINITY, pattern, format }) => {
        let dfa = ANY
        if (pattern !== undefined) dfa = both(dfa, this.pattern(pattern as string), meter)
        if (format !== undefined) dfa = both(dfa, this.#format(format as string), meter)
        return { dfa, minimum: minLength as number, maximum: maxLength as number }
      },
    }
  }
}

const numberAlgebra: Algebra<NumberSet> = {
  type: 'number',
  every: EVERY_NUMBER,
  none: NO_NUMBER,
  both: bothNumbers,
  either: eitherNumbers,
  not: notNumbers,
  isNone: (set) => set.length === 0,
  isEvery: (set) => set === EVERY_NUMBER,
  of: (values) =>
    values
      .filter((value) => typeof value === 'number')
      .reduce<NumberSet>((all, value) => eitherNumbers(all, range(value, value)), NO_NUMBER),
  own: (schema, node) => {
    const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema
    let lowest = -Number.MAX_VALUE
    let highest = Number.MAX_VALUE
    const above = (value: number) => {
      lowest = Math.max(lowest, neighbour(value, 1))
    }
    const below = (value: number) => {
      highest = Math.min(highest, neighbour(value, -1))
    }
    if (typeof minimum === 'number') {
      // As draft 4 has it.
      if (exclusiveMinimum === true) above(minimum)
      else lowest = Math.max(lowest, minimum)
    }
    if (typeof maximum === 'number') {
      if (exclusiveMaximum === true) below(maximum)
      else highest = Math.min(highest, maximum)
    }
    if (typeof exclusiveMinimum === 'number') above(exclusiveMinimum)
    if (typeof exclusiveMaximum === 'number') below(exclusiveMaximum)
    let out = lowest === -Number.MAX_VALUE && highest === Number.MAX_VALUE ? EVERY_NUMBER : range(lowest, highest)
    if (node.types?.integer) out = bothNumbers(out, multiplesOf(1))
    if (multipleOf !== undefined) out = bothNumbers(out, multiplesOf(multipleOf as number))
    return out
  },
}

/** Sets of few values, as bits. */
function bitAlgebra(type: TypeName, values: readonly Json[]): Algebra<number> {
  const every = (1 << values.length) - 1
  return {
    type,
    every,
    none: 0,
    both: (a, b) => a & b,
    either: (a, b) => a | b,
    not: (a) => every & ~a,
    isNone: (set) => set === 0,
    isEvery: (set) => set === every,
    of: (given) =>
      given.reduce<number>((bits, value) => {
        const index = values.indexOf(value)
        return index === -1 ? bits : bits | (1 << index)
      }, 0),
    own: () => every,
  }
}

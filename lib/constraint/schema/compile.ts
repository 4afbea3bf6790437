/** A JSON schema -> rules. */

import { ANY, type Dfa, accepts as isAccepted, isNothing } from '../dfa.ts'
import { both, without } from '../dfa_algebra.ts'
import { countTexts } from '../dfa_measures.ts'
import { jsonFragment } from '../json_text.ts'
import type { NumberSet } from '../numbers.ts'
import { type Meter, tooLarge, unsupported } from '../problems.ts'
import { type Alternative, type RuleSet, type State, sortEdges } from '../rules.ts'
import { liveNames, type Names, nameAutomaton, sortNames } from './members.ts'
import { type Json, type Literal, Nodes } from './nodes.ts'
import { ScalarRules } from './scalar_rules.ts'
import { Scalars, type TextSet } from './scalars.ts'
import { type ArrayShape, holds, type MemberSpec, numberOf, type ObjectShape, type Shape, Shapes } from './shapes.ts'

const INFINITY = Number.POSITIVE_INFINITY
/** Members of one object that are named, and values that are told apart. */
const MAX_MEMBERS = 8000
/** Of names without one. */
const MAX_KINDS = 31
const MAX_VALUES = 60_000
/** How deep a short look for contradictions goes. */
const MAX_LOOK = 5
const MAX_WITNESSES = 6
const MAX_PLACES = 4000

/** A value with so many bits set by it. */
interface Choice {
  value: number
  sets: readonly number[]
}

interface ObjectPlan {
  type: 'object'
  shape: ObjectShape
  names: readonly string[]
  /** Of each name what it may be; none: it may not be there. */
  named: Choice[][]
  automaton: Names
  /** Of other names; `texts`: how many there are. */
  kinds: { key: string; choices: Choice[]; texts: number }[]
}

interface ArrayPlan {
  type: 'array'
  shape: ArrayShape
  places: Choice[][]
  rest: Choice[] | undefined
  bits: number
}

/** What a list of literals lets a value be. */
interface Value {
  literals: readonly Literal[]
  texts: TextSet
  numbers: NumberSet
  constants: readonly ('null' | 'true' | 'false')[]
  objects: ObjectPlan[]
  arrays: ArrayPlan[]
  isPossible: boolean
  rule: number
  users: Set<Value>
}

export class SchemaCompiler {
  readonly #meter: Meter
  readonly #rules: RuleSet
  readonly #nodes: Nodes
  readonly #scalars: Scalars
  readonly #shapes: Shapes
  readonly #values: Value[] = []
  readonly #byKey = new Map<string, number>()
  readonly #looked = new Map<string, boolean>()
  #look = 0
  readonly #scalarRules: ScalarRules

  constructor(schema: Json, rules: RuleSet, meter: Meter) {
    this.#meter = meter
    this.#rules = rules
    this.#nodes = new Nodes(schema)
    this.#scalars = new Scalars(this.#nodes, meter)
    this.#scalarRules = new ScalarRules(this.#scalars, rules, meter)
    this.#shapes = new Shapes(this.#nodes, meter, (shape) => this.#contradicts(shape))
  }

  /** The rule of the schema's values; undefined if there are none. */
  compile(): number | undefined {
    const root = this.#value([holds(this.#nodes.root)])
    for (let at = 0; at < this.#values.length; at++) this.#plan(this.#values[at]!)
    this.#findPossible()
    return this.#values[root]!.isPossible ? this.#emit(root) : undefined
  }

  // ---- What values there are

  #value(literals: readonly Literal[]): number {
    const numbers = [
      ...new Set(literals.filter(({ node, negative }) => node.schema !== true || negative).map(numberOf)),
    ]
    const key = numbers.sort((a, b) => a - b).join(' ')
    let value = this.#byKey.get(key)
    if (value === undefined) {
      if (this.#values.length >= MAX_VALUES) throw tooLarge(`more than ${MAX_VALUES} kinds of values`)
      value =
        this.#values.push({
          literals,
          texts: { dfa: ANY, minimum: 0, maximum: INFINITY },
          numbers: [],
          constants: [],
          objects: [],
          arrays: [],
          isPossible: false,
          rule: -1,
          users: new Set(),
        }) - 1
      this.#byKey.set(key, value)
      this.#meter.spend(100)
    }
    return value
  }

  #plan(value: Value): void {
    const { literals } = value
    value.texts = this.#scalars.texts(literals)
    value.numbers = this.#scalars.numbers(literals)
    const [no, yes] = this.#scalars.booleans(literals)
    value.constants = [
      ...(this.#scalars.mayBeNull(literals) ? (['null'] as const) : []),
      ...(yes ? (['true'] as const) : []),
      ...(no ? (['false'] as const) : []),
    ]
    for (const shape of this.#shapes.objects(literals)) {
      if (!this.#contradicts(shape)) value.objects.push(this.#planObject(shape))
    }
    for (const shape of this.#shapes.arrays(literals)) {
      if (!this.#contradicts(shape)) value.arrays.push(this.#planArray(shape))
    }
  }

  #planObject(shape: ObjectShape): ObjectPlan {
    const { specs, required, forbidden, implications, witnesses } = shape
    const mentioned = new Set([...required, ...forbidden])
    for (const spec of specs) for (const name of spec.named.keys()) mentioned.add(name)
    for (const [name, others] of implications) for (const one of [name, ...others]) mentioned.add(one)
    for (const { name } of witnesses)
      if ('unlike' in name) for (const one of name.unlike.named.keys()) mentioned.add(one)
    const names = sortNames(mentioned)
    if (names.length > MAX_MEMBERS) throw tooLarge(`more than ${MAX_MEMBERS} properties of one object`)
    if (witnesses.length > MAX_WITNESSES) throw tooLarge('too many conditions on properties without a name')

    // Automata that tell other names apart: one a pattern, and those of what names must be.
    const sources: string[] = []
    const automata: Dfa[] = []
    const indexOf = (key: string, make: () => Dfa) => {
      const known = sources.indexOf(key)
      if (known !== -1) return known
      automata.push(make())
      return sources.push(key) - 1
    }
    const pattern = (source: string) => indexOf(`/${source}`, () => this.#scalars.pattern(source))
    const ofNames = shape.names.map((literal) => {
      return indexOf(`name ${numberOf(literal)}`, () => this.#scalars.whole(this.#scalars.texts([literal])))
    })
    for (const spec of specs) for (const { source } of spec.patterns) pattern(source)
    for (const { name } of witnesses) {
      if ('pattern' in name) pattern(name.pattern)
      else if ('unlike' in name) for (const { source } of name.unlike.patterns) pattern(source)
      else indexOf(`name ${numberOf(name.literal)}`, () => this.#scalars.whole(this.#scalars.texts([name.literal])))
    }

    const choices = (name: string | undefined, matches: (automaton: number) => boolean): Choice[] => {
      if (!ofNames.every(matches)) return []
      const unlike = (spec: MemberSpec) =>
        !(name !== undefined && spec.named.has(name)) && !spec.patterns.some(({ source }) => matches(pattern(source)))
      const literals = specs.flatMap((spec) => {
        const own = name === undefined ? [] : (spec.named.get(name) ?? [])
        const matched = spec.patterns.filter(({ source }) => matches(pattern(source))).flatMap(({ value }) => value)
        return [...own, ...matched, ...(unlike(spec) ? (spec.rest ?? []) : [])]
      })
      const bits = witnesses.flatMap((witness, index) => {
        const { name: which } = witness
        const is =
          'pattern' in which
            ? matches(pattern(which.pattern))
            : 'unlike' in which
              ? unlike(which.unlike)
              : matches(sources.indexOf(`name ${numberOf(which.literal)}`))
        return is ? [index] : []
      })
      // With any of the witnesses that it can be, or none.
      const out: Choice[] = []
      for (let chosen = 0; chosen < 1 << bits.length; chosen++) {
        const own = bits.filter((_, at) => (chosen >> at) & 1)
        const all = [...literals, ...own.flatMap((index) => witnesses[index]!.value)]
        out.push({ value: this.#value(all), sets: own.map((index) => names.length + index) })
      }
      return out
    }

    const named = names.map((name) => {
      if (forbidden.has(name)) return []
      return choices(name, (index) => isAccepted(automata[index]!, name))
    })
    const kinds: ObjectPlan['kinds'] = []
    const automaton = nameAutomaton(
      names,
      automata,
      (name) => name,
      (kind) => {
        const own = choices(undefined, (index) => kind[index] === '1')
        if (own.length === 0) return -1
        const texts = shape.minimum > 0 ? this.#countNames(kind, automata, shape.minimum) : INFINITY
        // Kinds of one meaning are one.
        const key = JSON.stringify(own)
        const known = kinds.findIndex((other) => other.key === key)
        if (known !== -1) {
          kinds[known]!.texts += texts
          return names.length + known
        }
        if (kinds.length >= MAX_KINDS) throw tooLarge(`more than ${MAX_KINDS} kinds of property names`)
        return names.length + kinds.push({ key, choices: own, texts }) - 1
      },
      this.#meter,
    )
    return { type: 'object', shape, names, named, automaton, kinds }
  }

  /** How many names there are of a kind: an object may need more. */
  #countNames(kind: string, automata: readonly Dfa[], limit: number): number {
    if (!kind.includes('1')) return INFINITY
    let dfa = ANY
    automata.forEach((own, index) => {
      dfa = kind[index] === '1' ? both(dfa, own, this.#meter) : without(dfa, own, this.#meter)
    })
    const count = countTexts(dfa, limit)
    return count >= limit ? INFINITY : count
  }

  #planArray(shape: ArrayShape): ArrayPlan {
    const { specs, witnesses } = shape
    if (shape.unique && shape.maximum > 1) throw unsupported("the keyword 'uniqueItems' of JSON schemas")
    if (witnesses.length > MAX_WITNESSES) throw tooLarge("too many 'contains' of one array")
    const count = Math.max(0, ...specs.map(({ places }) => places.length), ...witnesses.map(({ from }) => from))
    if (Math.min(count, shape.maximum) > MAX_PLACES) throw tooLarge(`more than ${MAX_PLACES} places of one array`)
    const choices = (place: number): Choice[] => {
      const literals = specs.flatMap(({ places, rest }) => (place < places.length ? places[place]! : (rest ?? [])))
      const bits = witnesses.flatMap(({ from }, index) => (from <= place ? [index] : []))
      const out: Choice[] = []
      for (let chosen = 0; chosen < 1 << bits.length; chosen++) {
        const own = bits.filter((_, at) => (chosen >> at) & 1)
        out.push({ value: this.#value([...literals, ...own.flatMap((index) => witnesses[index]!.value)]), sets: own })
      }
      return out
    }
    const places = Array.from({ length: Math.min(count, shape.maximum) }, (_, place) => choices(place))
    return {
      type: 'array',
      shape,
      places,
      rest: shape.maximum > count ? choices(count) : undefined,
      bits: witnesses.length,
    }
  }

  // ---- Contradictions that a short look finds

  #contradicts(shape: Shape): boolean {
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
        const matched = spec.patterns.filter(({ source }) => isAccepted(this.#scalars.pattern(source), name))
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
    const isEmpty = (shape: Shape) => this.#contradicts(shape)
    return this.#shapes.objects(literals).every(isEmpty) && this.#shapes.arrays(literals).every(isEmpty)
  }

  // ---- Which values there are after all

  #findPossible(): void {
    for (const value of this.#values) {
      for (const plan of [...value.objects, ...value.arrays]) {
        for (const { value: used } of choicesOf(plan)) this.#values[used]!.users.add(value)
      }
    }
    const open = [...this.#values]
    const tried = new Set<Value>()
    for (let value = open.pop(); value; value = open.pop()) {
      this.#meter.spend(10)
      if (value.isPossible) continue
      const isPossible = (!tried.has(value) && this.#isScalar(value)) || this.#isStructure(value)
      tried.add(value)
      if (!isPossible) continue
      value.isPossible = true
      open.push(...value.users)
    }
  }

  #isScalar({ texts, numbers, constants }: Value): boolean {
    return constants.length > 0 || this.#scalarRules.hasText(texts) || this.#scalarRules.hasNumber(numbers)
  }

  #isStructure({ objects, arrays }: Value): boolean {
    return objects.some((plan) => this.#objectIsPossible(plan)) || arrays.some((plan) => this.#arrayIsPossible(plan))
  }

  #may = ({ value }: Choice) => this.#values[value]!.isPossible

  #objectIsPossible({ shape, names, named, kinds }: ObjectPlan): boolean {
    const { required, minimum, maximum, implications, witnesses } = shape
    const isThere = (name: string) => named[names.indexOf(name)]?.some(this.#may) === true
    const needed = new Set(required)
    for (let size = -1; size !== needed.size; ) {
      size = needed.size
      for (const [name, others] of implications) if (needed.has(name)) for (const other of others) needed.add(other)
    }
    if (needed.size > maximum || ![...needed].every(isThere)) return false
    const others = kinds.filter(({ choices }) => choices.some(this.#may))
    const can = (bit: number) =>
      [...named, ...others.map(({ choices }) => choices)].some((choices) =>
        choices.some((choice) => choice.sets.includes(bit) && this.#may(choice)),
      )
    if (!witnesses.every((_, index) => can(names.length + index))) return false
    if (witnesses.length > 0 && maximum === 0) return false
    const members = named.filter((choices) => choices.some(this.#may)).length
    return others.reduce((sum, { texts }) => sum + texts, members) >= minimum
  }

  #arrayIsPossible(plan: ArrayPlan): boolean {
    const { shape, bits } = plan
    const longest = this.#longest(plan)
    if (longest < shape.minimum) return false
    if (bits === 0) return true
    if (longest === 0) return false
    return Array.from({ length: bits }, (_, bit) => bit).every((bit) =>
      [...plan.places.slice(0, longest), ...(longest > plan.places.length && plan.rest ? [plan.rest] : [])].some(
        (choices) => choices.some((choice) => choice.sets.includes(bit) && this.#may(choice)),
      ),
    )
  }

  /** Items that an array can have. */
  #longest({ shape, places, rest }: ArrayPlan): number {
    const short = places.findIndex((choices) => !choices.some(this.#may))
    if (short !== -1) return short
    return rest?.some(this.#may) ? shape.maximum : Math.min(places.length, shape.maximum)
  }

  // ---- Rules

  /** Rules are declared as they are met and defined one after the other: nesting takes no stack. */
  #emit(root: number): number {
    const open: number[] = []
    const ruleOf = (value: number) => {
      const own = this.#values[value]!
      if (own.rule === -1) {
        own.rule = this.#rules.declare()
        open.push(value)
      }
      return own.rule
    }
    ruleOf(root)
    for (let value = open.pop(); value !== undefined; value = open.pop()) this.#emitValue(this.#values[value]!, ruleOf)
    return this.#values[root]!.rule
  }

  #emitValue({ rule, texts, numbers, constants, objects, arrays }: Value, ruleOf: (value: number) => number): void {
    const start: State = { edges: [], calls: [] }
    const states: State[] = [start, { edges: [], accepts: true }]
    const call = (called: number) => start.calls!.push(called, 1)
    for (const scalar of this.#scalarRules.of(texts, numbers)) call(scalar)
    for (const word of constants) {
      let from = start
      for (let at = 0; at < word.length; at++) {
        const byte = word.charCodeAt(at)
        const to = at === word.length - 1 ? 1 : states.push({ edges: [] }) - 1
        from.edges.push(byte, byte, 0, to)
        from = states[to]!
      }
    }
    start.edges = sortEdges(start.edges)
    for (const plan of objects) if (this.#objectIsPossible(plan)) call(this.#emitObject(plan, ruleOf))
    for (const plan of arrays) if (this.#arrayIsPossible(plan)) call(this.#emitArray(plan, ruleOf))
    this.#rules.automaton(rule, { states, start: 0 })
  }

  #emitObject({ shape, names, named, automaton, kinds }: ObjectPlan, ruleOf: (value: number) => number): number {
    const { required, minimum, maximum, implications, witnesses } = shape
    const alternatives = (choices: readonly Choice[]) => choices.filter(this.#may)
    let present = names.map((_, index) => alternatives(named[index]!).length > 0)
    // A member that needs one which may not be there may not be there either.
    for (let changed = true; changed; ) {
      changed = false
      for (const [name, others] of implications) {
        const at = names.indexOf(name)
        if (!present[at] || others.every((other) => present[names.indexOf(other)])) continue
        present = present.map((is, index) => is && index !== at)
        changed = true
      }
    }
    const memberOf: number[] = []
    let members = 0
    for (const is of present) memberOf.push(is ? members++ : -1)
    const kindOf: number[] = []
    let others = 0
    for (const { choices } of kinds) kindOf.push(alternatives(choices).length > 0 ? members + others++ : -1)
    const relabel = (label: number) => (label < names.length ? memberOf[label]! : kindOf[label - names.length]!)
    const live = liveNames(automaton, relabel, members)
    const bit = (bit: number) => (bit < names.length ? memberOf[bit]! : members + bit - names.length)
    const values: Alternative[][] = []
    names.forEach((_, index) => {
      if (present[index]) values.push(convert(alternatives(named[index]!), bit, ruleOf))
    })
    for (const { choices } of kinds) {
      const own = alternatives(choices)
      if (own.length > 0) values.push(convert(own, bit, ruleOf))
    }
    const needed = [...required].map((name) => memberOf[names.indexOf(name)]!)
    return this.#rules.object(this.#rules.declare(), {
      names: jsonFragment(live.dfa, { counted: false, names: { labels: live.labels, reach: live.reach } }, this.#meter),
      members,
      bits: members + witnesses.length,
      tracksNames: others > 0 && (minimum > 1 || witnesses.length > 0),
      minimum,
      maximum,
      required: [...needed, ...witnesses.map((_, index) => members + index)],
      implications: implications.flatMap(([name, wanted]) => {
        const member = memberOf[names.indexOf(name)]!
        return member === -1 ? [] : [{ member, required: wanted.map((other) => memberOf[names.indexOf(other)]!) }]
      }),
      others,
      values,
    })
  }

  #emitArray(plan: ArrayPlan, ruleOf: (value: number) => number): number {
    const { shape, places, rest, bits } = plan
    const longest = this.#longest(plan)
    const list = (choices: readonly Choice[]) => convert(choices.filter(this.#may), (bit) => bit, ruleOf)
    const own = places.slice(0, longest).map(list)
    const maximum = longest
    return this.#rules.array(this.#rules.declare(), {
      places: own,
      rest: maximum > own.length && rest ? list(rest) : undefined,
      bits,
      minimum: Math.min(shape.minimum, 0xffffff),
      maximum: maximum > 0xfffffe ? INFINITY : maximum,
    })
  }
}

const convert = (choices: readonly Choice[], bit: (bit: number) => number, ruleOf: (value: number) => number) =>
  choices.map(({ value, sets }) => ({ rule: ruleOf(value), sets: sets.map(bit) }))

function* choicesOf(plan: ObjectPlan | ArrayPlan): Iterable<Choice> {
  if (plan.type === 'object') {
    for (const choices of plan.named) yield* choices
    for (const { choices } of plan.kinds) yield* choices
  } else {
    for (const choices of plan.places) yield* choices
    if (plan.rest) yield* plan.rest
  }
}

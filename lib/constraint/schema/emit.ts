/** Plans of values -> rules. */
import { jsonFragment } from '../json_text.ts'
import type { Meter } from '../problems.ts'
import { type Alternative, type RuleSet, type State, sortEdges } from '../rules.ts'
import { liveNames } from './members.ts'
import type { Possible } from './possible.ts'
import type { ScalarRules } from './scalar_rules.ts'
import type { ArrayPlan, Choice, ObjectPlan, Value, Values } from './values.ts'

const INFINITY = Number.POSITIVE_INFINITY

export class Emitter {
  readonly #values: Values
  readonly #possible: Possible
  readonly #scalarRules: ScalarRules
  readonly #rules: RuleSet
  readonly #meter: Meter

  constructor(values: Values, possible: Possible, scalarRules: ScalarRules, rules: RuleSet, meter: Meter) {
    this.#values = values
    this.#possible = possible
    this.#scalarRules = scalarRules
    this.#rules = rules
    this.#meter = meter
  }

  /** Rules are declared as they are met and defined one after the other: nesting takes no stack. */
  emit(root: number): number {
    const open: number[] = []
    const ruleOf = (value: number) => {
      const own = this.#values.list[value]!
      if (own.rule === -1) {
        own.rule = this.#rules.declare()
        open.push(value)
      }
      return own.rule
    }
    ruleOf(root)
    for (let value = open.pop(); value !== undefined; value = open.pop())
      this.#emitValue(this.#values.list[value]!, ruleOf)
    return this.#values.list[root]!.rule
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
    for (const plan of objects) if (this.#possible.object(plan)) call(this.#emitObject(plan, ruleOf))
    for (const plan of arrays) if (this.#possible.array(plan)) call(this.#emitArray(plan, ruleOf))
    this.#rules.automaton(rule, { states, start: 0 })
  }

  #emitObject({ shape, names, named, automaton, kinds }: ObjectPlan, ruleOf: (value: number) => number): number {
    const { required, minimum, maximum, implications, witnesses } = shape
    const alternatives = (choices: readonly Choice[]) => choices.filter(this.#possible.may)
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
    const longest = this.#possible.longest(plan)
    const list = (choices: readonly Choice[]) => convert(choices.filter(this.#possible.may), (bit) => bit, ruleOf)
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

/** Rules as the native matcher takes them: see csrc/constraint/program.h, which says what each word is. */
import type { Run } from './classes.ts'
import { invalid, type Meter } from './problems.ts'

export const MAGIC = 0x4d524332
export const UNLIMITED = 0xffffffff
/** Of an edge's target: a member's name is whole. */
export const NAME = 0x80000000

export const COUNTS = 1
export const ENDS = 2
const ACCEPTS = 1
const IS_NAME = 2

export interface State {
  /** [lowest byte, highest, flags, target], flat, ascending. */
  edges: number[]
  /** [rule, state to go on in], flat. */
  calls?: number[]
  accepts?: boolean
  /** Any text of these classes may follow (classes.ts). */
  run?: Run
  /** Characters that it takes at least to an end. */
  needs?: number
  /** Of an object's names: members that it can come to, and kinds of others. */
  reach?: { first: number; end: number; others: number }
}

/** By bytes. */
export function sortEdges(edges: readonly number[]): number[] {
  const quads: number[][] = []
  for (let at = 0; at < edges.length; at += 4) quads.push(edges.slice(at, at + 4) as number[])
  return quads.sort((a, b) => a[0]! - b[0]!).flat()
}

export interface Fragment {
  states: State[]
  start: number
}

export interface Alternative {
  rule: number
  /** Bits. */
  sets: readonly number[]
}

export interface ObjectRule {
  names: Fragment
  members: number
  /** Members and what else must be met. */
  bits: number
  tracksNames: boolean
  minimum: number
  maximum: number
  required: readonly number[]
  implications: readonly { member: number; required: readonly number[] }[]
  others: number
  values: readonly (readonly Alternative[])[]
}

export interface ArrayRule {
  places: readonly (readonly Alternative[])[]
  rest: readonly Alternative[] | undefined
  bits: number
  minimum: number
  maximum: number
}

type Kind = 0 | 1 | 2

/** Rules may be called before they are defined. */
export class RuleSet {
  readonly #meter: Meter
  readonly #rules: { kind: Kind; start: number; minimum: number; maximum: number }[] = []
  readonly #states: State[] = []
  readonly #words: number[] = []

  constructor(meter: Meter) {
    this.#meter = meter
  }

  /** A rule to be defined once. */
  declare(): number {
    this.#meter.states(1)
    return this.#rules.push({ kind: 0, start: -1, minimum: 0, maximum: UNLIMITED }) - 1
  }

  automaton(rule: number, fragment: Fragment, minimum = 0, maximum = Number.POSITIVE_INFINITY): number {
    const start = this.#add(fragment)
    this.#rules[rule] = { kind: 0, start, minimum, maximum: bound(maximum) }
    return rule
  }

  object(rule: number, object: ObjectRule): number {
    const names = this.#add(object.names)
    const words = Math.max(1, Math.ceil(object.bits / 32))
    const set = (bits: readonly number[]) => {
      const out = new Array<number>(words).fill(0)
      for (const bit of bits) out[bit >> 5] = (out[bit >> 5]! | (1 << (bit & 31))) >>> 0
      return out
    }
    const start = this.#words.length
    this.#push(names, object.members, words, object.tracksNames ? 1 : 0, object.minimum, bound(object.maximum))
    this.#push(...set(object.required), object.implications.length)
    for (const { member, required } of object.implications) this.#push(member, ...set(required))
    this.#push(object.others)
    for (const alternatives of object.values) {
      this.#push(alternatives.length)
      for (const { rule, sets } of alternatives) this.#push(rule, ...set(sets))
    }
    this.#rules[rule] = { kind: 1, start, minimum: 0, maximum: UNLIMITED }
    return rule
  }

  array(rule: number, { places, rest, bits, minimum, maximum }: ArrayRule): number {
    const start = this.#words.length
    this.#push(places.length, rest ? 1 : 0, (1 << bits) - 1, minimum, bound(maximum))
    for (const alternatives of rest ? [...places, rest] : places) {
      this.#push(alternatives.length)
      for (const { rule, sets } of alternatives)
        this.#push(
          rule,
          sets.reduce((all, bit) => all | (1 << bit), 0),
        )
    }
    this.#rules[rule] = { kind: 2, start, minimum: 0, maximum: UNLIMITED }
    return rule
  }

  #push(...words: number[]): void {
    this.#meter.spend(words.length)
    for (const word of words) this.#words.push(word)
  }

  #add({ states, start }: Fragment): number {
    const base = this.#states.length
    this.#meter.states(states.length)
    for (const state of states) {
      const { edges, calls } = state
      for (let at = 3; at < edges.length; at += 4) if (edges[at]! < NAME) edges[at]! += base
      if (calls) for (let at = 1; at < calls.length; at += 2) calls[at]! += base
      this.#states.push(state)
    }
    return base + start
  }

  /** Rules that call themselves before they have read anything would never come to an end. */
  #checkCalls(): void {
    const empty = new Uint8Array(this.#rules.length)
    const isEmpty = (rule: number) => empty[rule] === 1
    for (let changed = true; changed; ) {
      changed = false
      this.#rules.forEach(({ kind, start }, rule) => {
        if (kind !== 0 || empty[rule]) return
        if (!this.#silent(start, isEmpty).some((state) => this.#states[state]!.accepts)) return
        empty[rule] = 1
        changed = true
      })
    }
    const leads = this.#rules.map(({ kind, start }) => {
      if (kind !== 0) return []
      const states = this.#silent(start, isEmpty)
      return [...new Set(states.flatMap((state) => even(this.#states[state]!.calls ?? [])))]
    })
    const done = new Uint8Array(this.#rules.length)
    for (let root = 0; root < leads.length; root++) {
      const path: [number, number][] = done[root] ? [] : [[root, 0]]
      if (path.length > 0) done[root] = 1
      while (path.length > 0) {
        const top = path.at(-1)!
        const next = leads[top[0]]![top[1]++]
        if (next === undefined) {
          done[top[0]] = 2
          path.pop()
        } else if (done[next] === 1) {
          throw invalid('a rule calls itself before it has read anything (left recursion)')
        } else if (done[next] === 0) {
          done[next] = 1
          path.push([next, 0])
        }
      }
    }
  }

  /** The states that a rule comes to from one without reading. */
  #silent(start: number, isEmpty: (rule: number) => boolean): number[] {
    const met = new Set([start])
    for (const state of met) {
      const { calls = [] } = this.#states[state]!
      for (let at = 0; at < calls.length; at += 2) if (isEmpty(calls[at]!)) met.add(calls[at + 1]!)
    }
    this.#meter.spend(met.size)
    return [...met]
  }

  /** The program that begins with a rule. */
  program(start: number, flexible: boolean): Uint32Array<ArrayBuffer> {
    this.#checkCalls()
    let edges = 0
    let calls = 0
    let names = 0
    for (const state of this.#states) {
      edges += state.edges.length / 4
      calls += (state.calls?.length ?? 0) / 2
      if (state.reach) names++
    }
    const out = new Uint32Array(
      8 + 4 * this.#rules.length + 6 * this.#states.length + 2 * (edges + calls + names) + this.#words.length,
    )
    out.set([MAGIC, flexible ? 1 : 0, start, this.#rules.length, this.#states.length, edges, calls, this.#words.length])
    let at = 8
    for (const { kind, start, minimum, maximum } of this.#rules) {
      out[at++] = kind
      out[at++] = start
      out[at++] = minimum
      out[at++] = maximum
    }
    edges = 0
    calls = 0
    for (const state of this.#states) {
      out[at++] = edges
      out[at++] = calls
      out[at++] = (state.accepts ? ACCEPTS : 0) | (state.reach ? IS_NAME : 0)
      out[at++] = Math.min(state.needs ?? 0, 0x7fffffff)
      out[at++] = state.run?.classes ?? 0
      out[at++] = bound(state.run?.length ?? 0)
      edges += state.edges.length / 4
      calls += (state.calls?.length ?? 0) / 2
    }
    for (const { edges: own } of this.#states) {
      for (let edge = 0; edge < own.length; edge += 4) {
        out[at++] = own[edge]! | (own[edge + 1]! << 8) | (own[edge + 2]! << 16)
        out[at++] = own[edge + 3]!
      }
    }
    for (const { calls: own = [] } of this.#states) for (const word of own) out[at++] = word
    for (const word of this.#words) out[at++] = word
    for (const { reach } of this.#states) {
      if (!reach) continue
      out[at++] = reach.first | (reach.end << 16)
      out[at++] = reach.others
    }
    return out
  }
}

const bound = (maximum: number) => (maximum >= UNLIMITED ? UNLIMITED : maximum)
const even = (list: readonly number[]) => list.filter((_, index) => index % 2 === 0)

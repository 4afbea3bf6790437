/** Automata of characters and calls in the making: with edges that read nothing, made deterministic in the end. */
import { rawFragment } from './bytes.ts'
import { type CharSet, LAST, single } from './charset.ts'
import { pushArc } from './dfa.ts'
import { type Meter, tooLarge } from './problems.ts'
import type { Fragment } from './rules.ts'

const MAX_STATES = 100_000

export class Graph {
  readonly start: number
  readonly end: number
  readonly #meter: Meter
  readonly #free: number[][] = []
  readonly #sets: { set: CharSet; to: number }[][] = []
  readonly #calls: { rule: number; to: number }[][] = []

  constructor(meter: Meter) {
    this.#meter = meter
    this.start = this.state()
    this.end = this.state()
  }

  state(): number {
    this.#meter.spend(4)
    if (this.#free.length >= MAX_STATES) throw tooLarge('a rule of too many parts')
    this.#sets.push([])
    this.#calls.push([])
    return this.#free.push([]) - 1
  }

  link(from: number, to: number): void {
    this.#free[from]!.push(to)
  }

  read(from: number, set: CharSet, to: number): void {
    this.#sets[from]!.push({ set, to })
  }

  text(from: number, text: string, to: number): void {
    let at = from
    for (const character of text) {
      const next = this.state()
      this.read(at, single(character.codePointAt(0)!), next)
      at = next
    }
    this.link(at, to)
  }

  call(from: number, rule: number, to: number): void {
    this.#calls[from]!.push({ rule, to })
  }

  fragment(): Fragment {
    const numbers = new Map<string, number>()
    const groups: number[][] = []
    const numberOf = (seeds: Iterable<number>) => {
      const met = new Set(seeds)
      for (const state of met) for (const to of this.#free[state]!) met.add(to)
      const group = [...met].filter(
        (state) => state === this.end || this.#sets[state]!.length > 0 || this.#calls[state]!.length > 0,
      )
      const key = group.sort((a, b) => a - b).join(' ')
      let number = numbers.get(key)
      if (number === undefined) {
        number = groups.push(group) - 1
        numbers.set(key, number)
        this.#meter.states(1)
      }
      this.#meter.spend(met.size)
      return number
    }
    numberOf([this.start])
    const arcs: number[][] = []
    const calls: number[][] = []
    for (let at = 0; at < groups.length; at++) {
      const group = groups[at]!
      const sets = group.flatMap((state) => this.#sets[state]!)
      const cuts = new Set<number>()
      for (const { set } of sets) {
        for (let range = 0; range < set.length; range += 2) cuts.add(set[range]!).add(set[range + 1]! + 1)
      }
      const sorted = [...cuts].sort((a, b) => a - b)
      const own: number[] = []
      sorted.forEach((first, index) => {
        if (first > LAST) return
        const last = Math.min(LAST, (sorted[index + 1] ?? LAST + 1) - 1)
        const to = sets.filter(({ set }) => holds(set, first)).map(({ to }) => to)
        this.#meter.spend(sets.length)
        if (to.length > 0) pushArc(own, first, last, numberOf(to))
      })
      arcs.push(own)
      const byRule = new Map<number, number[]>()
      for (const state of group) {
        for (const { rule, to } of this.#calls[state]!) byRule.set(rule, [...(byRule.get(rule) ?? []), to])
      }
      calls.push([...byRule].flatMap(([rule, to]) => [rule, numberOf(to)]))
    }
    const accepts = groups.map((group) => group.includes(this.end))
    return rawFragment({ start: 0, arcs, accepts }, this.#meter, { calls })
  }
}

function holds(set: CharSet, point: number): boolean {
  for (let at = 0; at < set.length && set[at]! <= point; at += 2) if (point <= set[at + 1]!) return true
  return false
}

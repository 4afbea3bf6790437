/** Automata over code points -> automata over bytes: UTF-8. */
import { LAST } from './charset.ts'
import type { Arcs } from './dfa.ts'
import type { Meter } from './problems.ts'
import { COUNTS, type State } from './rules.ts'

/** [first code point, last, target]; a state below 0 is none. */
type Piece = [first: number, last: number, target: number]

export interface Reach {
  first: number
  end: number
  others: number
}

/** Of characters of so many bytes, what the first has beside their bits. */
const LEADS = [0, 0, 0xc0, 0xe0, 0xf0]

/** Puts edges together whose bytes touch, and that lead to one state. */
export function pushEdge(edges: number[], low: number, high: number, flags: number, target: number): void {
  const end = edges.length
  if (end > 0 && edges[end - 1] === target && edges[end - 2] === flags && edges[end - 3] === low - 1) {
    edges[end - 3] = high
  } else edges.push(low, high, flags, target)
}

/** Puts states of bytes between those of code points, each kept once. */
export class Encoder {
  readonly states: State[]
  readonly #known = new Map<string, number>()
  /** Edges for all characters beyond ASCII, by their target. */
  readonly #beyond = new Map<number, readonly number[]>()
  readonly #meter: Meter
  /** Characters to an end, of the states that were there first. */
  readonly #far: readonly number[] | undefined
  readonly #reach: readonly Reach[] | undefined

  constructor(count: number, meter: Meter, far?: readonly number[], reach?: readonly Reach[]) {
    this.states = Array.from({ length: count }, () => ({ edges: [] }))
    this.#meter = meter
    this.#far = far
    this.#reach = reach
  }

  /** Edges for all characters of the arcs. */
  edges(arcs: Arcs): number[] {
    const out: number[] = []
    for (let at = 0; at < arcs.length && arcs[at]! < 0x80; at += 3) {
      pushEdge(out, arcs[at]!, Math.min(arcs[at + 1]!, 0x7f), COUNTS, arcs[at + 2]!)
    }
    this.beyond(arcs, out)
    return out
  }

  /** Adds those for the characters beyond ASCII. */
  beyond(arcs: Arcs, out: number[]): void {
    const length = arcs.length
    if (length === 0 || arcs[length - 2]! < 0x80) return
    // Most states have one state for all of it.
    const target = arcs[length - 1]!
    const isOne = arcs[length - 3]! <= 0x80 && arcs[length - 2] === LAST
    let edges: readonly number[] | undefined = isOne ? this.#beyond.get(target) : undefined
    if (!edges) {
      const pieces = piecesOf(arcs)
      const made: number[] = []
      this.#level(clip(pieces, 0x80, 0x7ff), 2, 0, made)
      this.#level([...clip(pieces, 0x800, 0xd7ff), ...clip(pieces, 0xe000, 0xffff)], 3, 0, made)
      this.#level(clip(pieces, 0x10000, LAST), 4, 0, made)
      if (isOne) this.#beyond.set(target, made)
      edges = made
    }
    for (const word of edges) out.push(word)
  }

  /** Edges of a leading byte, or of one that continues: `left` bytes with this one. */
  #level(pieces: readonly Piece[], left: number, continued: number, out: number[]): void {
    if (pieces.length === 0) return
    const shift = 6 * (left - 1)
    const lead = continued ? 0x80 : LEADS[left]!
    const mask = continued ? 0x3f : 0xff
    const byteOf = (point: number) => lead | ((point >> shift) & mask)
    const put = (low: number, high: number, target: number) => pushEdge(out, low, high, left === 1 ? COUNTS : 0, target)
    if (left === 1) {
      for (const [first, last, target] of pieces) put(byteOf(first), byteOf(last), target)
      return
    }
    const size = 1 << shift
    for (let index = 0; index < pieces.length; ) {
      const [first, last, target] = pieces[index]!
      const block = first - (first % size)
      // Whole blocks of one target at once.
      if (first === block && last >= block + size - 1) {
        const blocks = Math.floor((last + 1 - block) / size)
        put(
          byteOf(first),
          byteOf(block + (blocks - 1) * size),
          this.#between([[block, block + size - 1, target]], left - 1),
        )
        const next = block + blocks * size
        if (next > last) index++
        else pieces = [...pieces.slice(0, index), [next, last, target], ...pieces.slice(index + 1)]
        continue
      }
      const inside: Piece[] = []
      while (index < pieces.length && pieces[index]![0] < block + size) {
        const [from, to, state] = pieces[index]!
        inside.push([from, Math.min(to, block + size - 1), state])
        if (to >= block + size) {
          pieces = [...pieces.slice(0, index), [block + size, to, state], ...pieces.slice(index + 1)]
          break
        }
        index++
      }
      put(byteOf(block), byteOf(block), this.#between(inside, left - 1))
    }
  }

  /** The state from which the rest of a character's bytes leads to its piece's target. */
  #between(pieces: readonly Piece[], left: number): number {
    const edges: number[] = []
    this.#level(pieces, left, 1, edges)
    return this.state(edges)
  }

  /** A state within a character. */
  state(edges: number[]): number {
    const key = edges.join(' ')
    const known = this.#known.get(key)
    if (known !== undefined) return known
    this.#meter.spend(8 + edges.length)
    const state: State = { edges }
    const far = this.#far
    const reach = this.#reach
    if (far) state.needs = Number.POSITIVE_INFINITY
    for (let at = 0; at < edges.length; at += 4) {
      const target = edges[at + 3]!
      if (far) {
        const needs = (target < far.length ? far[target]! : this.states[target]!.needs!) + (edges[at + 2]! & COUNTS)
        state.needs = Math.min(state.needs!, needs)
      }
      if (reach) {
        const to = target < reach.length ? reach[target]! : this.states[target]!.reach!
        state.reach = state.reach ? joinReach(state.reach, to) : to
      }
    }
    const number = this.states.push(state) - 1
    this.#known.set(key, number)
    return number
  }
}

export function joinReach(a: Reach, b: Reach): Reach {
  if (a.first === a.end) return { ...b, others: a.others | b.others }
  if (b.first === b.end) return { ...a, others: a.others | b.others }
  return { first: Math.min(a.first, b.first), end: Math.max(a.end, b.end), others: a.others | b.others }
}

function clip(pieces: readonly Piece[], low: number, high: number): Piece[] {
  const out: Piece[] = []
  for (const [first, last, target] of pieces) {
    if (last >= low && first <= high) out.push([Math.max(first, low), Math.min(last, high), target])
  }
  return out
}

function piecesOf(arcs: Arcs): Piece[] {
  const out: Piece[] = []
  for (let at = 0; at < arcs.length; at += 3) out.push([arcs[at]!, arcs[at + 1]!, arcs[at + 2]!])
  return out
}

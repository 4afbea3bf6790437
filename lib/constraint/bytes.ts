/** Automata over code points -> automata over bytes: UTF-8, as it is or within a JSON text. */
import { LAST } from './charset.ts'
import { RAW, runsOf } from './classes.ts'
import { type Arcs, type Dfa, distances, isAnyState } from './dfa.ts'
import type { Meter } from './problems.ts'
import { COUNTS, ENDS, type Fragment, NAME, type State } from './rules.ts'

/** [first code point, last, target]; a state below 0 is none. */
type Piece = [first: number, last: number, target: number]

export interface Reach {
  first: number
  end: number
  others: number
}

/** The characters that end a JSON text, or begin something within it. */
const QUOTE = 0x22
const BACKSLASH = 0x5c
const SHORT_ESCAPES = new Map([
  [0x08, 0x62],
  [0x09, 0x74],
  [0x0a, 0x6e],
  [0x0c, 0x66],
  [0x0d, 0x72],
  [QUOTE, QUOTE],
  [BACKSLASH, BACKSLASH],
])

const isRaw = (point: number) => point >= 0x20 && point !== QUOTE && point !== BACKSLASH

/** Puts states of bytes between those of code points, each kept once. */
class Encoder {
  readonly states: State[]
  readonly #known = new Map<string, number>()
  /** Edges for all characters beyond ASCII, by their target. */
  readonly #beyond = new Map<number, readonly number[]>()
  /** States behind a backslash, by the target of all characters. */
  readonly escapes = new Map<number, number>()
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

  /** Edges for the characters of the arcs that `takes` holds of. */
  edges(arcs: readonly Piece[]): number[] {
    const out: number[] = []
    this.#level(clip(arcs, 0, 0x7f), 1, 0, out)
    // Most states have nothing beyond ASCII, or one state for all of it.
    const last = arcs.at(-1)
    if (last === undefined || last[1] < 0x80) return out
    const isOne = last[0] <= 0x80 && last[1] === LAST
    const known = isOne ? this.#beyond.get(last[2]) : undefined
    if (known) return out.concat(known)
    const beyond: number[] = []
    this.#level(clip(arcs, 0x80, 0x7ff), 2, 0, beyond)
    this.#level([...clip(arcs, 0x800, 0xd7ff), ...clip(arcs, 0xe000, 0xffff)], 3, 0, beyond)
    this.#level(clip(arcs, 0x10000, LAST), 4, 0, beyond)
    if (isOne) this.#beyond.set(last[2], beyond)
    return out.concat(beyond)
  }

  /** Edges of a leading byte, or of one that continues: `left` bytes with this one. */
  #level(pieces: readonly Piece[], left: number, continued: number, out: number[]): void {
    if (pieces.length === 0) return
    const shift = 6 * (left - 1)
    const lead = continued ? 0x80 : [0, 0, 0xc0, 0xe0, 0xf0][left]!
    const mask = continued ? 0x3f : 0xff
    const byteOf = (point: number) => lead | ((point >> shift) & mask)
    const put = (low: number, high: number, target: number) => {
      const flags = left === 1 ? COUNTS : 0
      const end = out.length
      if (end > 0 && out[end - 1] === target && out[end - 2] === flags && out[end - 3] === low - 1) out[end - 3] = high
      else out.push(low, high, flags, target)
    }
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

/** The texts themselves, and the calls that stand beside them. */
export function rawFragment(
  dfa: Dfa,
  meter: Meter,
  { calls, counted = false }: { calls?: readonly (readonly number[])[]; counted?: boolean } = {},
): Fragment {
  const far = counted ? distances(dfa) : undefined
  const encoder = new Encoder(dfa.arcs.length, meter, far)
  const runs = runsOf(dfa, meter, { alone: counted })
  dfa.arcs.forEach((arcs, state) => {
    const own = encoder.states[state]!
    own.edges = encoder.edges(piecesOf(arcs))
    if (calls?.[state]?.length) own.calls = [...calls[state]!]
    if (dfa.accepts[state]) own.accepts = true
    if (far) own.needs = far[state]!
    own.run = runs[state]!
  })
  return { states: encoder.states, start: dfa.start }
}

export interface JsonTextOptions {
  /** Lengths are counted. */
  counted: boolean
  /** A text's states are those of names: where the closing quote leads, and what can be come to. */
  names?: { labels: readonly number[]; reach: readonly Reach[] }
}

/** The texts in quotes, escaped as JSON.stringify does it; texts without a rule of their own may have any escape. */
export function jsonFragment(dfa: Dfa, { counted, names }: JsonTextOptions, meter: Meter): Fragment {
  const count = dfa.arcs.length
  const far = counted ? distances(dfa) : undefined
  // One more for what begins with the quote, and one for the end.
  const encoder = new Encoder(count, meter, far, names?.reach)
  const { states } = encoder
  const end = names ? -1 : states.push({ edges: [], accepts: true }) - 1
  const runs = runsOf(dfa, meter, { alone: counted, ends: names && ((state) => names.reach[state]!.others === 0) })
  dfa.arcs.forEach((arcs, state) => {
    const own = states[state]!
    const pieces = piecesOf(arcs)
    const raw = pieces.flatMap(([first, last, target]) => rawParts(first, last, target))
    const edges = encoder.edges(raw)
    if (far) own.needs = far[state]!
    if (names) own.reach = names.reach[state]!
    if (names ? names.labels[state]! >= 0 : dfa.accepts[state]) {
      insertEdge(edges, QUOTE, ENDS, names ? NAME + names.labels[state]! : end)
    }
    const escaped = escapeState(encoder, pieces, !names && isAnyState(dfa, state))
    if (escaped !== undefined) insertEdge(edges, BACKSLASH, 0, escaped)
    own.edges = edges
    own.run = { ...runs[state]!, classes: runs[state]!.classes & RAW }
  })
  if (names) return { states, start: dfa.start }
  const start = states.push({ edges: [QUOTE, QUOTE, 0, dfa.start], needs: far?.[dfa.start] ?? 0 }) - 1
  return { states, start }
}

function rawParts(first: number, last: number, target: number): Piece[] {
  const out: Piece[] = []
  for (const [low, high] of [
    [0x20, QUOTE - 1],
    [QUOTE + 1, BACKSLASH - 1],
    [BACKSLASH + 1, LAST],
  ] as const) {
    if (last >= low && first <= high) out.push([Math.max(first, low), Math.min(last, high), target])
  }
  return out
}

const hexDigit = (value: number) => '0123456789abcdef'.charCodeAt(value)

/** Behind a backslash; undefined where no character needs one. */
function escapeState(encoder: Encoder, pieces: readonly Piece[], any: boolean): number | undefined {
  const first = pieces[0]
  if (first === undefined || first[0] > BACKSLASH) return undefined
  // Of most states one target has all that needs a backslash.
  const isOne = !any && first[0] === 0 && first[1] >= BACKSLASH
  const known = isOne ? encoder.escapes.get(first[2]) : undefined
  if (known !== undefined) return known
  const state = escapeStateOf(encoder, pieces, any)
  if (isOne && state !== undefined) encoder.escapes.set(first[2], state)
  return state
}

function escapeStateOf(encoder: Encoder, pieces: readonly Piece[], any: boolean): number | undefined {
  const edges: number[] = []
  const long: [number, number][] = []
  for (const [first, last, target] of pieces) {
    for (let point = first; point <= Math.min(last, BACKSLASH); point++) {
      if (isRaw(point)) continue
      const short = SHORT_ESCAPES.get(point)
      if (short !== undefined) edges.push(short, short, COUNTS, target)
      else long.push([point, target])
    }
  }
  if (any) {
    const target = pieces[0]![2]
    edges.push(0x2f, 0x2f, COUNTS, target, 0x75, 0x75, 0, anyLongEscape(encoder, target))
  } else if (long.length > 0) {
    const second = [0, 1].map((high) => {
      const own = long.filter(([point]) => point >> 4 === high)
      if (own.length === 0) return -1
      return encoder.state(
        own.flatMap(([point, target]) => [hexDigit(point & 15), hexDigit(point & 15), COUNTS, target]),
      )
    })
    const third = encoder.state(
      second.flatMap((state, high) => (state === -1 ? [] : [0x30 + high, 0x30 + high, 0, state])),
    )
    const zero = (to: number) => encoder.state([0x30, 0x30, 0, to])
    edges.push(0x75, 0x75, 0, zero(zero(third)))
  }
  return edges.length === 0 ? undefined : encoder.state(sortEdges(edges))
}

/** Four hexadecimal digits; a surrogate with its other half, which are one character. */
function anyLongEscape(encoder: Encoder, target: number): number {
  const digits = (to: number, counts: boolean, low: string): number => {
    const edges: number[] = []
    for (const digit of [...low].sort()) edges.push(digit.charCodeAt(0), digit.charCodeAt(0), counts ? COUNTS : 0, to)
    return encoder.state(mergeEdges(edges))
  }
  const all = '0123456789abcdefABCDEF'
  const last = digits(target, true, all)
  const third = digits(last, false, all)
  const second = digits(third, false, all)
  // The other half, \uDC00 to \uDFFF.
  const half = digits(digits(third, false, 'cdefCDEF'), false, 'dD')
  const pair = encoder.state([BACKSLASH, BACKSLASH, 0, encoder.state([0x75, 0x75, 0, half])])
  const high = digits(digits(pair, false, all), false, all)
  const edges: number[] = []
  for (const digit of '01234567') edges.push(digit.charCodeAt(0), digit.charCodeAt(0), 0, third)
  for (const digit of '89abAB') edges.push(digit.charCodeAt(0), digit.charCodeAt(0), 0, high)
  const surrogate = encoder.state(mergeEdges(sortEdges(edges)))
  const first: number[] = []
  for (const digit of '0123456789abcefABCEF') first.push(digit.charCodeAt(0), digit.charCodeAt(0), 0, second)
  for (const digit of 'dD') first.push(digit.charCodeAt(0), digit.charCodeAt(0), 0, surrogate)
  return encoder.state(mergeEdges(sortEdges(first)))
}

/** Of one byte, which no other edge has. */
function insertEdge(edges: number[], byte: number, flags: number, target: number): void {
  let at = 0
  while (at < edges.length && edges[at]! < byte) at += 4
  edges.splice(at, 0, byte, byte, flags, target)
}

export function sortEdges(edges: readonly number[]): number[] {
  const quads: number[][] = []
  for (let at = 0; at < edges.length; at += 4) quads.push(edges.slice(at, at + 4) as number[])
  return quads.sort((a, b) => a[0]! - b[0]!).flat()
}

function mergeEdges(edges: readonly number[]): number[] {
  const out: number[] = []
  for (let at = 0; at < edges.length; at += 4) {
    const [low, high, flags, target] = edges.slice(at, at + 4) as [number, number, number, number]
    const end = out.length
    if (end > 0 && out[end - 1] === target && out[end - 2] === flags && out[end - 3] === low - 1) out[end - 3] = high
    else out.push(low, high, flags, target)
  }
  return out
}

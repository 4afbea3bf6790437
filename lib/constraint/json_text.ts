/** Automata over code points -> rules of JSON texts: in quotes, escaped as JSON.stringify does it. */
import { RAW, runsOf } from './classes.ts'
import { type Arcs, type Dfa, follow, isAnyState } from './dfa.ts'
import { distances } from './dfa_measures.ts'
import type { Meter } from './problems.ts'
import { COUNTS, ENDS, type Fragment, NAME, sortEdges } from './rules.ts'
import { Encoder, pushEdge, type Reach } from './utf8.ts'

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
/** Characters that have no other than a long one. */
const LONG_ESCAPES = Array.from({ length: 0x20 }, (_, point) => point).filter((point) => !SHORT_ESCAPES.has(point))

/** Those that come as they are, of the ones that ASCII has. */
const RAW_ASCII = [
  [0x20, QUOTE - 1],
  [QUOTE + 1, BACKSLASH - 1],
  [BACKSLASH + 1, 0x7f],
] as const

export interface JsonTextOptions {
  /** Lengths are counted. */
  counted: boolean
  /** A text's states are those of names: where the closing quote leads, and what can be come to. */
  names?: { labels: readonly number[]; reach: readonly Reach[] }
}

/** Texts without a rule of their own may have any escape. */
export function jsonFragment(dfa: Dfa, { counted, names }: JsonTextOptions, meter: Meter): Fragment {
  const far = counted ? distances(dfa) : undefined
  // One more for what begins with the quote, and one for the end.
  const encoder = new Encoder(dfa.arcs.length, meter, far, names?.reach)
  const escapes = new Escapes(encoder)
  const { states } = encoder
  const end = names ? -1 : states.push({ edges: [], accepts: true }) - 1
  const runs = runsOf(dfa, meter, { alone: counted, ends: names && ((state) => names.reach[state]!.others === 0) })
  dfa.arcs.forEach((arcs, state) => {
    const own = states[state]!
    const { edges } = own
    if (far) own.needs = far[state]!
    if (names) own.reach = names.reach[state]!
    const closes = names ? names.labels[state]! >= 0 : dfa.accepts[state]
    const escaped = escapes.of(arcs, !names && isAnyState(dfa, state))
    let at = 0
    for (const [first, last] of RAW_ASCII) {
      // The quote stands before the second range, the backslash before the third.
      if (first === QUOTE + 1 && closes) edges.push(QUOTE, QUOTE, ENDS, names ? NAME + names.labels[state]! : end)
      if (first === BACKSLASH + 1 && escaped !== -1) edges.push(BACKSLASH, BACKSLASH, 0, escaped)
      while (at < arcs.length && arcs[at + 1]! < first) at += 3
      for (let arc = at; arc < arcs.length && arcs[arc]! <= last; arc += 3) {
        pushEdge(edges, Math.max(first, arcs[arc]!), Math.min(last, arcs[arc + 1]!), COUNTS, arcs[arc + 2]!)
      }
    }
    encoder.beyond(arcs, edges)
    own.run = { ...runs[state]!, classes: runs[state]!.classes & RAW }
  })
  if (names) return { states, start: dfa.start }
  const start = states.push({ edges: [QUOTE, QUOTE, 0, dfa.start], needs: far?.[dfa.start] ?? 0 }) - 1
  return { states, start }
}

const hexDigit = (value: number) => '0123456789abcdef'.charCodeAt(value)

/** Where all characters lead that are escaped; -1 where that is several states, or none. */
function onlyTarget(arcs: Arcs): number {
  const target = arcs[2]!
  if (arcs[0] !== 0 || arcs[1]! < 0x1f) return -1
  return follow(arcs, QUOTE) === target && follow(arcs, BACKSLASH) === target ? target : -1
}

/** States behind a backslash, each kept once. */
class Escapes {
  readonly #encoder: Encoder
  readonly #known = new Map<string, number>()
  /** Of states whose escapes all lead to one. */
  readonly #knownOfOne = new Map<number, number>()
  readonly #long = new Map<number, number>()

  constructor(encoder: Encoder) {
    this.#encoder = encoder
  }

  /** Of a state's arcs; -1 where no character of them needs one. `any`: all characters may be escaped. */
  of(arcs: Arcs, any: boolean): number {
    if (arcs.length === 0 || arcs[0]! > BACKSLASH) return -1
    if (any) return this.#any(arcs[2]!)
    const only = onlyTarget(arcs)
    if (only === -1) return this.#ofTargets(arcs)
    let state = this.#knownOfOne.get(only)
    if (state === undefined) {
      state = this.#ofTargets(arcs)
      this.#knownOfOne.set(only, state)
    }
    return state
  }

  #ofTargets(arcs: Arcs): number {
    const targets = [...SHORT_ESCAPES.keys()].map((point) => follow(arcs, point))
    // Those that have a long one most often lead to one state.
    const isOne = arcs[0]! === 0 && arcs[1]! >= 0x1f
    const long = isOne ? arcs[2]! : -1
    const longs = isOne || arcs[0]! >= 0x20 ? [] : LONG_ESCAPES.map((point) => follow(arcs, point))
    const key = `${targets} ${long} ${longs}`
    let state = this.#known.get(key)
    if (state === undefined) {
      state = this.#make(targets, long, longs)
      this.#known.set(key, state)
    }
    return state
  }

  #make(targets: readonly number[], long: number, longs: readonly number[]): number {
    const edges: number[] = []
    let index = 0
    for (const letter of SHORT_ESCAPES.values()) {
      const target = targets[index++]!
      if (target !== -1) edges.push(letter, letter, COUNTS, target)
    }
    let zero = -1
    if (long !== -1) {
      zero =
        this.#long.get(long) ??
        this.#zero(
          LONG_ESCAPES,
          LONG_ESCAPES.map(() => long),
        )
      this.#long.set(long, zero)
    } else if (longs.some((target) => target !== -1)) zero = this.#zero(LONG_ESCAPES, longs)
    if (zero !== -1) edges.push(0x75, 0x75, 0, zero)
    return edges.length === 0 ? -1 : this.#encoder.state(sortEdges(edges))
  }

  /** Behind \u: 00, and two digits more. */
  #zero(points: readonly number[], targets: readonly number[]): number {
    const encoder = this.#encoder
    const third: number[] = []
    for (const high of [0, 1]) {
      const last: number[] = []
      points.forEach((point, index) => {
        if (point >> 4 !== high || targets[index] === -1) return
        last.push(hexDigit(point & 15), hexDigit(point & 15), COUNTS, targets[index]!)
      })
      if (last.length > 0) third.push(0x30 + high, 0x30 + high, 0, encoder.state(last))
    }
    const zero = (to: number) => encoder.state([0x30, 0x30, 0, to])
    return zero(zero(encoder.state(third)))
  }

  #any(target: number): number {
    const edges: number[] = [0x2f, 0x2f, COUNTS, target, 0x75, 0x75, 0, anyLongEscape(this.#encoder, target)]
    for (const letter of SHORT_ESCAPES.values()) edges.push(letter, letter, COUNTS, target)
    return this.#encoder.state(sortEdges(edges))
  }
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

function mergeEdges(edges: readonly number[]): number[] {
  const out: number[] = []
  for (let at = 0; at < edges.length; at += 4) pushEdge(out, edges[at]!, edges[at + 1]!, edges[at + 2]!, edges[at + 3]!)
  return out
}

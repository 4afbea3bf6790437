/** Deterministic automata over code points, and their algebra. Every state of one can come to an end: there are no dead ones. */
import { LAST } from './charset.ts'
import type { Meter } from './problems.ts'

/** [first, last, state] ascending, flat; code points of no range lead nowhere. */
export type Arcs = readonly number[]

export interface Dfa {
  readonly start: number
  readonly arcs: readonly Arcs[]
  readonly accepts: readonly boolean[]
}

export const ANY: Dfa = { start: 0, arcs: [[0, LAST, 0]], accepts: [true] }
/** Of no text. */
export const NOTHING: Dfa = { start: 0, arcs: [[]], accepts: [false] }
export const EMPTY_TEXT: Dfa = { start: 0, arcs: [[]], accepts: [true] }

export const isNothing = (dfa: Dfa) => !dfa.accepts[dfa.start] && dfa.arcs[dfa.start]!.length === 0
export const isAny = (dfa: Dfa) => isAnyState(dfa, dfa.start)

/** Whatever follows in this state is accepted. */
export function isAnyState({ arcs, accepts }: Dfa, state: number): boolean {
  const own = arcs[state]!
  return accepts[state] === true && own.length === 3 && own[0] === 0 && own[1] === LAST && own[2] === state
}

export function follow(arcs: Arcs, point: number): number {
  for (let at = 0; at < arcs.length && arcs[at]! <= point; at += 3) if (point <= arcs[at + 1]!) return arcs[at + 2]!
  return -1
}

export function accepts(dfa: Dfa, text: string): boolean {
  let state = dfa.start
  for (const character of text) {
    state = follow(dfa.arcs[state]!, character.codePointAt(0)!)
    if (state === -1) return false
  }
  return dfa.accepts[state]!
}

/** Puts arcs together whose ranges touch and whose states are one. */
export function pushArc(arcs: number[], first: number, last: number, state: number): void {
  const end = arcs.length
  if (end > 0 && arcs[end - 1] === state && arcs[end - 2] === first - 1) arcs[end - 2] = last
  else arcs.push(first, last, state)
}

/**
 * The automaton of whatever keys name: `arcs` gives, of a key, ranges with keys, which may overlap no more than those of
 * an automaton. -1 of a key's `accepts` is no end.
 */
export function explore<Key>(
  start: Key,
  nameOf: (key: Key) => string | number,
  step: (key: Key, arc: (first: number, last: number, to: Key) => void) => boolean,
  meter: Meter,
): Dfa {
  const numbers = new Map<string | number, number>()
  const keys: Key[] = []
  const numberOf = (key: Key) => {
    const name = nameOf(key)
    let number = numbers.get(name)
    if (number === undefined) {
      number = keys.length
      numbers.set(name, number)
      keys.push(key)
    }
    return number
  }
  numberOf(start)
  const arcs: number[][] = []
  const accepting: boolean[] = []
  for (let at = 0; at < keys.length; at++) {
    const own: number[] = []
    accepting.push(step(keys[at]!, (first, last, to) => pushArc(own, first, last, numberOf(to))))
    arcs.push(own)
    meter.spend(8 + own.length)
  }
  return trim({ start: 0, arcs, accepts: accepting })
}

/** Of each state those that lead to it: `list` from begins[state] to begins[state + 1], once an arc. */
export function predecessors(arcs: readonly Arcs[]): { begins: Int32Array; list: Int32Array } {
  const begins = new Int32Array(arcs.length + 1)
  for (const own of arcs) for (let at = 2; at < own.length; at += 3) begins[own[at]! + 1]!++
  for (let state = 0; state < arcs.length; state++) begins[state + 1]! += begins[state]!
  const list = new Int32Array(begins[arcs.length]!)
  const next = begins.slice()
  arcs.forEach((own, state) => {
    for (let at = 2; at < own.length; at += 3) list[next[own[at]!]!++] = state
  })
  return { begins, list }
}

/** Without the states that come to no end, and those that nothing comes to. */
export function trim(dfa: Dfa): Dfa {
  const { arcs } = dfa
  const before = predecessors(arcs)
  const alive = new Uint8Array(arcs.length)
  const open: number[] = []
  dfa.accepts.forEach((is, state) => {
    if (!is) return
    alive[state] = 1
    open.push(state)
  })
  for (let state = open.pop(); state !== undefined; state = open.pop()) {
    for (let at = before.begins[state]!; at < before.begins[state + 1]!; at++) {
      const from = before.list[at]!
      if (alive[from]) continue
      alive[from] = 1
      open.push(from)
    }
  }
  if (!alive[dfa.start]) return NOTHING
  // States that accept whatever follows are one.
  const numbers = new Int32Array(arcs.length).fill(-1)
  const order: number[] = []
  let any = -1
  const numberOf = (state: number) => {
    if (numbers[state] === -1) {
      if (isAnyState(dfa, state)) {
        if (any === -1) any = order.push(state) - 1
        numbers[state] = any
      } else numbers[state] = order.push(state) - 1
    }
    return numbers[state]!
  }
  numberOf(dfa.start)
  const kept: number[][] = []
  for (let at = 0; at < order.length; at++) {
    const own = arcs[order[at]!]!
    const out: number[] = []
    for (let arc = 0; arc < own.length; arc += 3) {
      if (alive[own[arc + 2]!]) pushArc(out, own[arc]!, own[arc + 1]!, numberOf(own[arc + 2]!))
    }
    kept.push(out)
  }
  return { start: 0, arcs: kept, accepts: order.map((state) => dfa.accepts[state]!) }
}

/** Of some texts. */
export function ofTexts(texts: readonly string[], meter: Meter): Dfa {
  interface Node {
    children: Map<number, Node>
    end: boolean
  }
  const root: Node = { children: new Map(), end: false }
  for (const text of texts) {
    meter.spend(4 + text.length)
    let node = root
    for (const character of text) {
      const point = character.codePointAt(0)!
      let child = node.children.get(point)
      if (!child) {
        child = { children: new Map(), end: false }
        node.children.set(point, child)
      }
      node = child
    }
    node.end = true
  }
  const arcs: number[][] = []
  const ends: boolean[] = []
  const make = (root: Node) => {
    const nodes = [root]
    for (let at = 0; at < nodes.length; at++) {
      const own: number[] = []
      for (const [point, child] of [...nodes[at]!.children].sort((a, b) => a[0] - b[0])) {
        own.push(point, point, nodes.push(child) - 1)
      }
      arcs.push(own)
      ends.push(nodes[at]!.end)
    }
  }
  make(root)
  return texts.length === 0 ? NOTHING : { start: 0, arcs, accepts: ends }
}

/** Of texts with so many code points. */
export function ofLength(minimum: number, maximum: number, meter: Meter): Dfa {
  if (minimum > maximum) return NOTHING
  const last = maximum === Number.POSITIVE_INFINITY ? minimum : maximum
  meter.states(last + 1)
  return {
    start: 0,
    arcs: Array.from({ length: last + 1 }, (_, length) =>
      length < last ? [0, LAST, length + 1] : maximum === Number.POSITIVE_INFINITY ? [0, LAST, length] : [],
    ),
    accepts: Array.from({ length: last + 1 }, (_, length) => length >= minimum),
  }
}

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

/** Without the states that come to no end, and those that nothing comes to. */
export function trim(dfa: Dfa): Dfa {
  const { arcs } = dfa
  const before: number[][] = arcs.map(() => [])
  arcs.forEach((own, state) => {
    for (let at = 2; at < own.length; at += 3) before[own[at]!]!.push(state)
  })
  const alive = new Uint8Array(arcs.length)
  const open: number[] = []
  dfa.accepts.forEach((is, state) => {
    if (!is) return
    alive[state] = 1
    open.push(state)
  })
  for (let state = open.pop(); state !== undefined; state = open.pop()) {
    for (const from of before[state]!) {
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

/** Both arcs' ranges at once: of each range the two states, -1 where one has none. */
function zip(a: Arcs, b: Arcs, take: (first: number, last: number, x: number, y: number) => void): void {
  let i = 0
  let j = 0
  let at = 0
  while (at <= LAST) {
    while (i < a.length && a[i + 1]! < at) i += 3
    while (j < b.length && b[j + 1]! < at) j += 3
    const inA = i < a.length && a[i]! <= at
    const inB = j < b.length && b[j]! <= at
    const endA = inA ? a[i + 1]! : i < a.length ? a[i]! - 1 : LAST
    const endB = inB ? b[j + 1]! : j < b.length ? b[j]! - 1 : LAST
    const last = Math.min(endA, endB)
    if (inA || inB) take(at, last, inA ? a[i + 2]! : -1, inB ? b[j + 2]! : -1)
    at = last + 1
  }
}

function product(a: Dfa, b: Dfa, ends: (x: boolean, y: boolean) => boolean, meter: Meter): Dfa {
  // Where one has died: whether the other alone can still come to an end.
  const aAlone = ends(true, false)
  const bAlone = ends(false, true)
  return explore<readonly [number, number]>(
    [a.start, b.start],
    ([x, y]) => (x + 1) * (b.arcs.length + 1) + y + 1,
    ([x, y], arc) => {
      zip(x === -1 ? [] : a.arcs[x]!, y === -1 ? [] : b.arcs[y]!, (first, last, toX, toY) => {
        if ((toX === -1 && !bAlone) || (toY === -1 && !aAlone)) return
        arc(first, last, [toX, toY])
      })
      return ends(x !== -1 && a.accepts[x]!, y !== -1 && b.accepts[y]!)
    },
    meter,
  )
}

export function both(a: Dfa, b: Dfa, meter: Meter): Dfa {
  if (a === b || isAny(b)) return a
  if (isAny(a)) return b
  return product(a, b, (x, y) => x && y, meter)
}

export function either(a: Dfa, b: Dfa, meter: Meter): Dfa {
  if (a === b || isNothing(b)) return a
  if (isNothing(a)) return b
  if (isAny(a) || isAny(b)) return ANY
  return product(a, b, (x, y) => x || y, meter)
}

export function without(a: Dfa, b: Dfa, meter: Meter): Dfa {
  if (isNothing(a) || isNothing(b)) return a
  if (a === b || isAny(b)) return NOTHING
  return product(a, b, (x, y) => x && !y, meter)
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

/** Of each state, how many code points lie at least before an end. */
export function distances({ arcs, accepts }: Dfa): number[] {
  const before: number[][] = arcs.map(() => [])
  arcs.forEach((own, state) => {
    for (let at = 2; at < own.length; at += 3) before[own[at]!]!.push(state)
  })
  const out = arcs.map(() => Number.POSITIVE_INFINITY)
  let open = arcs.map((_, state) => state).filter((state) => accepts[state])
  for (let distance = 0; open.length > 0; distance++) {
    for (const state of open) out[state] = distance
    const next: number[] = []
    for (const state of open) {
      for (const from of before[state]!) {
        if (out[from] !== Number.POSITIVE_INFINITY) continue
        out[from] = distance + 1
        next.push(from)
      }
    }
    open = next
  }
  return out
}

/** Where an end can be reached in some number of code points, it can in any greater one: counting then is enough. */
export function isElastic(dfa: Dfa, far: readonly number[]): boolean {
  return dfa.arcs.every((own, state) => {
    for (let at = 2; at < own.length; at += 3) if (far[own[at]!]! <= far[state]!) return true
    return false
  })
}

/** How many texts there are, up to a limit. */
export function countTexts(dfa: Dfa, limit: number): number {
  if (!hasEnd(dfa)) return limit
  const known = new Map<number, number>()
  const count = (state: number): number => {
    const before = known.get(state)
    if (before !== undefined) return before
    const own = dfa.arcs[state]!
    let sum = dfa.accepts[state] ? 1 : 0
    for (let at = 0; at < own.length && sum < limit; at += 3) sum += (own[at + 1]! - own[at]! + 1) * count(own[at + 2]!)
    known.set(state, Math.min(sum, limit))
    return Math.min(sum, limit)
  }
  return count(dfa.start)
}

/** Its texts are so many and no more. */
function hasEnd(dfa: Dfa): boolean {
  const state = new Uint8Array(dfa.arcs.length)
  const path: [number, number][] = [[dfa.start, 2]]
  state[dfa.start] = 1
  while (path.length > 0) {
    const top = path.at(-1)!
    const own = dfa.arcs[top[0]]!
    if (top[1] >= own.length) {
      state[top[0]] = 2
      path.pop()
      continue
    }
    const to = own[top[1]]!
    top[1] += 3
    if (state[to] === 1) return false
    if (state[to] === 0) {
      state[to] = 1
      path.push([to, 2])
    }
  }
  return true
}

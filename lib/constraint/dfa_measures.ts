/** How long the texts of an automaton are, and how many there are. */
import { type Dfa, predecessors } from './dfa.ts'

/** Of each state, how many code points lie at least before an end. */
export function distances({ arcs, accepts }: Dfa): number[] {
  const before = predecessors(arcs)
  const out = arcs.map(() => Number.POSITIVE_INFINITY)
  let open = arcs.map((_, state) => state).filter((state) => accepts[state])
  for (let distance = 0; open.length > 0; distance++) {
    for (const state of open) out[state] = distance
    const next: number[] = []
    for (const state of open) {
      for (let at = before.begins[state]!; at < before.begins[state + 1]!; at++) {
        const from = before.list[at]!
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

/** Code points of the longest text; infinity where there is none. */
export function longest(dfa: Dfa): number {
  if (!hasEnd(dfa)) return Number.POSITIVE_INFINITY
  const known = new Int32Array(dfa.arcs.length).fill(-1)
  // A state behind all that it leads to.
  const open = [dfa.start]
  for (let state = open.at(-1); state !== undefined; state = open.at(-1)) {
    const own = dfa.arcs[state]!
    let most = 0
    let isReady = true
    for (let at = 2; at < own.length; at += 3) {
      if (known[own[at]!] === -1) {
        isReady = false
        open.push(own[at]!)
      } else most = Math.max(most, known[own[at]!]! + 1)
    }
    if (!isReady) continue
    known[state] = most
    open.pop()
  }
  return known[dfa.start]!
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

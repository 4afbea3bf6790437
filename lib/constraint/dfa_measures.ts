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

/** All its texts, if there are no more than so many. */
export function fewTexts(dfa: Dfa, most: number): string[] | undefined {
  if (!hasEnd(dfa)) return undefined
  const out: string[] = []
  const open: [state: number, text: string][] = [[dfa.start, '']]
  for (let next = open.pop(); next; next = open.pop()) {
    const [state, text] = next
    if (dfa.accepts[state]) out.push(text)
    const own = dfa.arcs[state]!
    for (let at = 0; at < own.length; at += 3) {
      if (own[at + 1]! - own[at]! >= most) return undefined
      for (let point = own[at]!; point <= own[at + 1]!; point++) {
        open.push([own[at + 2]!, text + String.fromCodePoint(point)])
      }
    }
    // Every state comes to an end.
    if (out.length + open.length > most) return undefined
  }
  return out
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

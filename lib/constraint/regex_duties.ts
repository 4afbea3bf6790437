/**
 * What the rest of a text must fulfil, of ways through a regular expression with look-aheads: [look, state of its
 * automaton], flat, ascending, each once.
 */
import { type Dfa, follow, isAnyState } from './dfa.ts'

/** In place of a look: the text ends here. */
export const END = -1

export function everyDuty(duties: readonly number[], holds: (look: number, state: number) => boolean): boolean {
  for (let at = 0; at < duties.length; at += 2) if (!holds(duties[at]!, duties[at + 1]!)) return false
  return true
}

/** Duties are in ascending order, each once. */
export function withDuty(duties: readonly number[], look: number, state: number): readonly number[] {
  const list: [number, number][] = [[look, state]]
  for (let at = 0; at < duties.length; at += 2) {
    if (duties[at] === look && duties[at + 1] === state) return duties
    list.push([duties[at]!, duties[at + 1]!])
  }
  return list.sort((a, b) => a[0] - b[0] || a[1] - b[1]).flat()
}

/** undefined: one of them can be fulfilled no more. */
export function moveDuties(
  ahead: readonly Dfa[],
  duties: readonly number[],
  point: number,
): readonly number[] | undefined {
  let out: readonly number[] = []
  for (let at = 0; at < duties.length; at += 2) {
    const look = duties[at]!
    if (look === END) return undefined
    const dfa = ahead[look]!
    const to = follow(dfa.arcs[duties[at + 1]!]!, point)
    if (to === -1) return undefined
    if (!isAnyState(dfa, to)) out = withDuty(out, look, to)
  }
  return out
}

export const compareDuties = (a: readonly number[], b: readonly number[]) => {
  for (let at = 0; at < Math.min(a.length, b.length); at++) if (a[at] !== b[at]) return a[at]! - b[at]!
  return a.length - b.length
}

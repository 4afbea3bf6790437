/** Sets of texts put together: both, either, one without the other; in the fewest states. */
import { LAST } from './charset.ts'
import { ANY, type Arcs, type Dfa, isAny, isNothing, NOTHING, pushArc, trim } from './dfa.ts'
import { minimal } from './dfa_minimal.ts'
import type { Meter } from './problems.ts'

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

/** Of which each has as few states as can be: sums and products of what was made so stay small. */
const MANY_STATES = 48

function product(a: Dfa, b: Dfa, ends: (x: boolean, y: boolean) => boolean, meter: Meter): Dfa {
  // Where one has died: whether the other alone can still come to an end.
  const aAlone = ends(true, false)
  const bAlone = ends(false, true)
  const width = b.arcs.length + 1
  const numbers = new Map<number, number>()
  const xs: number[] = []
  const ys: number[] = []
  const numberOf = (x: number, y: number) => {
    const key = (x + 1) * width + y + 1
    let number = numbers.get(key)
    if (number === undefined) {
      number = xs.push(x) - 1
      ys.push(y)
      numbers.set(key, number)
    }
    return number
  }
  numberOf(a.start, b.start)
  const arcs: number[][] = []
  const accepts: boolean[] = []
  let own: number[] = []
  const take = (first: number, last: number, x: number, y: number) => {
    if ((x === -1 && !bAlone) || (y === -1 && !aAlone)) return
    pushArc(own, first, last, numberOf(x, y))
  }
  for (let at = 0; at < xs.length; at++) {
    const [x, y] = [xs[at]!, ys[at]!]
    own = []
    zip(x === -1 ? NO_ARCS : a.arcs[x]!, y === -1 ? NO_ARCS : b.arcs[y]!, take)
    arcs.push(own)
    accepts.push(ends(x !== -1 && a.accepts[x]!, y !== -1 && b.accepts[y]!))
    meter.spend(8 + own.length)
  }
  const out = trim({ start: 0, arcs, accepts })
  return out.arcs.length > MANY_STATES ? minimal(out, meter) : out
}

const NO_ARCS: Arcs = []

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

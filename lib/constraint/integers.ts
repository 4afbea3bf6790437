/** Integers of which remainders decide: sets put together, and the texts that stand for them. */
import { type Dfa, explore, ofTexts } from './dfa.ts'
import type { NumberRange, NumberSet } from './numbers.ts'
import type { Meter } from './problems.ts'

/** From `lowest` to `highest`, those whose remainder of `modulus` is taken. */
export interface Remainders {
  lowest: number
  highest: number
  modulus: number
  taken: readonly number[]
}

/** So few that each is written out. */
export interface Listed {
  values: readonly number[]
}

const MAX_LISTED = 4000
const MAX_MODULUS = 50_000
/** Beyond it, equal remainders are not looked for. */
const MAX_MERGED = 2500

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b))
const isOpen = (bound: number) => Math.abs(bound) === Number.MAX_VALUE

/** The set, and apart from it what there is of integers told apart by more than their bounds. */
export function withRemainders(set: NumberSet): { ranges: NumberSet; integers: (Remainders | Listed)[] } {
  const isWanted = ({ lowest, highest, multiples, others }: NumberRange) => {
    const steps = [...multiples, ...others]
    return (
      multiples.some(Number.isInteger) &&
      steps.every(Number.isInteger) &&
      steps.some((step) => step !== 1) &&
      [lowest, highest].every((bound) => isOpen(bound) || Number.isSafeInteger(bound))
    )
  }
  const wanted = set.filter(isWanted)
  const apart = { ranges: set, integers: [] }
  if (wanted.length === 0) return apart
  const steps = wanted.flatMap(({ multiples, others }) => [...multiples, ...others])
  const modulus = steps.reduce((all, step) => (all / gcd(all, step)) * step, 1)
  const begins = new Set<number>()
  for (const { lowest, highest } of wanted) {
    begins.add(lowest)
    if (!isOpen(highest)) begins.add(highest + 1)
  }
  const sorted = [...begins].sort((a, b) => a - b)
  const integers: (Remainders | Listed)[] = []
  for (const [index, lowest] of sorted.entries()) {
    const highest = (sorted[index + 1] ?? Number.POSITIVE_INFINITY) - 1
    const own = wanted.filter((one) => one.lowest <= lowest && lowest <= one.highest)
    if (own.length === 0) continue
    const takes = (value: number) =>
      own.some(
        ({ multiples, others }) =>
          multiples.every((step) => value % step === 0) && others.every((step) => value % step !== 0),
      )
    if (highest - lowest <= MAX_LISTED) {
      const values: number[] = []
      for (let value = lowest; value <= highest; value++) if (takes(value)) values.push(value)
      integers.push({ values })
      continue
    }
    if (modulus > MAX_MODULUS) return apart
    const taken: number[] = []
    for (let value = 0; value < modulus; value++) if (takes(value)) taken.push(value)
    const end = highest === Number.POSITIVE_INFINITY ? Number.MAX_VALUE : highest
    const last = integers.at(-1)
    // A bound that changes nothing, as of alternatives that go on with the same.
    if (last && 'taken' in last && last.highest === lowest - 1 && String(last.taken) === String(taken)) {
      last.highest = end
    } else if (taken.length > 0) integers.push({ lowest, highest: end, modulus, taken })
  }
  return { ranges: set.filter((one) => !isWanted(one)), integers }
}

export function integerDfa(one: Remainders | Listed, meter: Meter): Dfa {
  if ('values' in one)
    return ofTexts(
      one.values.map((value) => String(value === 0 ? 0 : value)),
      meter,
    )
  const { lowest, highest } = one
  const { next, accepts } = remainderAutomaton(one, meter)
  // Digits of the bounds, of which a text of as many is less, equal or greater so far.
  const low = isOpen(lowest) ? undefined : String(Math.abs(lowest))
  const high = isOpen(highest) ? undefined : String(Math.abs(highest))
  const longest = Math.max(low?.length ?? 0, high?.length ?? 0) + 1
  const order = (length: number, compared: number, digits: string) =>
    length === digits.length ? compared : Math.sign(length - digits.length)
  const within = (negative: boolean, length: number, toLow: number, toHigh: number, isZero: boolean) => {
    const against = (bound: number, digits: string, compared: number) => {
      if (isZero) return -Math.sign(bound)
      const sign = negative ? -1 : 1
      return bound === 0 || Math.sign(bound) !== sign ? sign : sign * order(length, compared, digits)
    }
    return (
      (low === undefined || against(lowest, low, toLow) >= 0) &&
      (high === undefined || against(highest, high, toHigh) <= 0)
    )
  }
  interface Reading {
    negative: boolean
    length: number
    toLow: number
    toHigh: number
    class: number
  }
  const ZERO = -1
  return explore<Reading>(
    { negative: false, length: 0, toLow: 0, toHigh: 0, class: 0 },
    (at) =>
      ((((at.class + 2) * (longest + 2) + at.length + 1) * 3 + at.toLow + 1) * 3 + at.toHigh + 1) * 2 +
      (at.negative ? 1 : 0),
    (at, arc) => {
      meter.spend(20)
      if (at.length === ZERO) return accepts[0] === 1 && within(at.negative, 1, 0, 0, true)
      if (at.length === 0 && !at.negative && lowest < 0) arc(0x2d, 0x2d, { ...at, negative: true })
      for (let digit = 0; digit <= 9; digit++) {
        if (digit === 0 && at.length === 0) {
          arc(0x30, 0x30, { ...at, length: ZERO })
          continue
        }
        const compare = (before: number, digits: string | undefined) =>
          before !== 0 || digits === undefined || at.length >= digits.length
            ? before
            : Math.sign(digit - Number(digits[at.length]))
        const length = Math.min(at.length + 1, longest)
        const isLong = length === longest
        arc(0x30 + digit, 0x30 + digit, {
          negative: at.negative,
          length,
          // Longer ones than both are all alike.
          toLow: isLong ? 0 : compare(at.toLow, low),
          toHigh: isLong ? 0 : compare(at.toHigh, high),
          class: next[at.class * 10 + digit]!,
        })
      }
      return at.length > 0 && accepts[at.class] === 1 && within(at.negative, at.length, at.toLow, at.toHigh, false)
    },
    meter,
  )
}

/** Remainders as digits are read, 0 the first; those that nothing tells apart are one. */
function remainderAutomaton({ modulus, taken }: Remainders, meter: Meter): { next: Int32Array; accepts: Uint8Array } {
  const isTaken = new Uint8Array(modulus)
  for (const value of taken) isTaken[value] = 1
  const step = (value: number, digit: number) => (value * 10 + digit) % modulus
  let classes = Int32Array.from(isTaken, (is) => is ^ isTaken[0]!)
  let count = new Set(classes).size
  if (modulus > MAX_MERGED) {
    classes = Int32Array.from({ length: modulus }, (_, value) => value)
    count = modulus
  }
  for (let before = 0; before !== count && count < modulus; ) {
    before = count
    meter.spend(20 * modulus)
    const known = new Map<string, number>()
    classes = classes.map((own, value) => {
      const key = `${own} ${Array.from({ length: 10 }, (_, digit) => classes[step(value, digit)]!)}`
      const number = known.get(key) ?? known.size
      known.set(key, number)
      return number
    })
    count = known.size
  }
  const next = new Int32Array(10 * count)
  const accepts = new Uint8Array(count)
  classes.forEach((own, value) => {
    accepts[own] = isTaken[value]!
    for (let digit = 0; digit <= 9; digit++) next[own * 10 + digit] = classes[step(value, digit)]!
  })
  return { next, accepts }
}

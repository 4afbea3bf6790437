/** Integers of which remainders decide: sets put together, and the texts that stand for them. */
import { boundedDfa } from './decimals.ts'
import { type Dfa, ofTexts } from './dfa.ts'
import { both } from './dfa_algebra.ts'
import type { NumberRange, NumberSet } from './numbers.ts'
import type { Meter } from './problems.ts'
import { remainderDfa } from './remainders.ts'

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
  const taken = new Set(one.taken)
  const remainders = remainderDfa(one.modulus, (value) => taken.has(value), meter)
  return both(boundedDfa(one.lowest, one.highest, true, meter), remainders, meter)
}

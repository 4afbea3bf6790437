/** The JSON texts of sets of numbers. */
import { boundedDfa, multipleDfa } from './decimals.ts'
import { type Dfa, isNothing } from './dfa.ts'
import { both, without } from './dfa_algebra.ts'
import { distances, isElastic } from './dfa_measures.ts'
import { bothSigns, HUGE, hugeTexts, MAXIMAL, MINIMAL, TINY, tinyTexts } from './exponents.ts'
import { integerDfa, type Listed, type Remainders } from './integers.ts'
import type { NumberRange } from './numbers.ts'
import type { Meter } from './problems.ts'
import { regexDfa } from './regex.ts'

const HIGHEST = Number.MAX_VALUE

const FRACTION = '(\\.\\d{1,25})?'

const integers = `-?(0|[1-9]\\d{0,20}|${HUGE}|${MAXIMAL})`
const plainIntegers = '-?(0|[1-9]\\d{0,20})'
const numbers = `-?((0|[1-9]\\d{0,20})${FRACTION}([eE][+-]?\\d{1,2})?|${HUGE}|${TINY}|${MAXIMAL}|${MINIMAL})`

/** JSON texts of numbers: so many characters at most, where the automaton knows no end. */
export interface NumberTexts {
  dfa: Dfa
  maximum: number
}

/**
 * JSON texts of the numbers, in parts that may overlap. With `exponents` integers from 1e21 on are among them, as
 * JSON.stringify writes them; nobody means 7e+59 by an integer, but a model may write it where it can.
 */
export function numberTexts(part: NumberRange | Remainders | Listed, exponents: boolean, meter: Meter): NumberTexts[] {
  const texts =
    'multiples' in part ? rangeTexts(part, exponents, meter) : [bounded(integerDfa(part, meter), EXACT_INTEGER)]
  return texts.filter(({ dfa }) => !isNothing(dfa))
}

/**
 * Characters of texts whose doubles are exact enough to tell multiples, integers and others; and of what JSON.stringify
 * writes without an exponent.
 */
const EXACT_INTEGER = 15
const EXACT_FRACTION = 17
const MOST_CHARACTERS = 26

/** An automaton whose texts have an end needs no bound. */
const bounded = (dfa: Dfa, most: number): NumberTexts => ({
  dfa,
  maximum: isElastic(dfa, distances(dfa)) ? most : Number.POSITIVE_INFINITY,
})

function rangeTexts(one: NumberRange, exponents: boolean, meter: Meter): NumberTexts[] {
  const { lowest, highest, multiples, others } = one
  const unbounded = lowest === -HIGHEST && highest === HIGHEST
  const isInteger = multiples.some(Number.isInteger)
  const regex = (source: string) => ({ dfa: regexDfa(source, 'whole', {}, meter), maximum: Number.POSITIVE_INFINITY })
  if (unbounded && others.length === 0) {
    if (multiples.length === 0) return [regex(numbers)]
    if (multiples.length === 1 && multiples[0] === 1) return [regex(exponents ? integers : plainIntegers)]
  }
  let dfa = boundedDfa(lowest, highest, isInteger, meter)
  // Of what has no point all are multiples of 1.
  for (const step of multiples) if (step !== 1) dfa = both(dfa, multipleDfa(step, meter), meter)
  for (const step of others) dfa = without(dfa, multipleDfa(step, meter), meter)
  const counts = others.length > 0 || multiples.some((step) => step !== 1)
  const plain = bounded(dfa, !counts ? MOST_CHARACTERS : isInteger ? EXACT_INTEGER : EXACT_FRACTION)
  if (multiples.some((step) => step !== 1) || others.some((step) => step !== 1)) return [plain]
  const parts: string[] = []
  // Of numbers that are no integers, the huge ones are none.
  if ((exponents || !isInteger) && !others.includes(1)) parts.push(...bothSigns(lowest, highest, hugeTexts))
  if (!isInteger) parts.push(...bothSigns(lowest, highest, tinyTexts))
  return parts.length === 0 ? [plain] : [plain, regex(parts.join('|'))]
}

/** Sets of numbers, and the JSON texts that stand for them. */
import { type Dfa, distances, explore, isElastic, isNothing } from './dfa.ts'
import { integerDfa, type Listed, type Remainders } from './integers.ts'
import { type Meter, tooLarge, unsupported } from './problems.ts'
import { regexDfa } from './regex.ts'

/** From `lowest` to `highest`, multiples of all of `multiples` and of none of `others`; integers are multiples of 1. */
export interface NumberRange {
  lowest: number
  highest: number
  multiples: readonly number[]
  others: readonly number[]
}

/** Any of the ranges. */
export type NumberSet = readonly NumberRange[]

const HIGHEST = Number.MAX_VALUE

export const EVERY_NUMBER: NumberSet = [{ lowest: -HIGHEST, highest: HIGHEST, multiples: [], others: [] }]
export const NO_NUMBER: NumberSet = []

const MAX_RANGES = 64

const view = new DataView(new ArrayBuffer(8))

/** The next greater number, or the next smaller one. */
export function neighbour(value: number, direction: 1 | -1): number {
  if (value === 0) return direction * Number.MIN_VALUE
  if (Math.abs(value) === HIGHEST && Math.sign(value) === direction) return direction * Number.POSITIVE_INFINITY
  view.setFloat64(0, value)
  const away = Math.sign(value) === direction
  view.setBigInt64(0, view.getBigInt64(0) + (away ? 1n : -1n))
  return view.getFloat64(0)
}

export const range = (lowest: number, highest: number): NumberSet =>
  lowest > highest ? [] : [{ lowest, highest, multiples: [], others: [] }]

/** Of a step that is a decimal, multiples are what the texts say, whatever a quotient of doubles comes to. */
export function multiplesOf(step: number): NumberSet {
  const { fraction } = decimalOf(step)
  if (fraction.length > 8 || step * 10 ** fraction.length > 2 ** 24) throw unsupported(`multipleOf: ${step}`)
  return [{ lowest: -HIGHEST, highest: HIGHEST, multiples: [step], others: [] }]
}

export function bothNumbers(a: NumberSet, b: NumberSet): NumberSet {
  const out: NumberRange[] = []
  for (const x of a) {
    for (const y of b) {
      const one = tidy({
        lowest: Math.max(x.lowest, y.lowest),
        highest: Math.min(x.highest, y.highest),
        multiples: [...new Set([...x.multiples, ...y.multiples])],
        others: [...new Set([...x.others, ...y.others])],
      })
      if (one) out.push(one)
    }
  }
  return eachOnce(out)
}

export const eitherNumbers = (a: NumberSet, b: NumberSet): NumberSet =>
  a === EVERY_NUMBER || b === EVERY_NUMBER ? EVERY_NUMBER : eachOnce([...a, ...b])

export function notNumbers(set: NumberSet): NumberSet {
  let out = EVERY_NUMBER
  for (const { lowest, highest, multiples, others } of set) {
    const whole = { lowest, highest, multiples: [] as number[], others: [] as number[] }
    const outside: NumberRange[] = [
      ...range(-HIGHEST, neighbour(lowest, -1)),
      ...range(neighbour(highest, 1), HIGHEST),
      ...multiples.map((step) => ({ ...whole, others: [step] })),
      ...others.map((step) => ({ ...whole, multiples: [step] })),
    ]
    out = bothNumbers(
      out,
      outside.filter(({ lowest, highest }) => lowest <= highest),
    )
  }
  return out
}

function eachOnce(set: NumberRange[]): NumberSet {
  const seen = new Map(set.map((one) => [JSON.stringify([one.lowest, one.highest, one.multiples, one.others]), one]))
  if (seen.size > MAX_RANGES) throw tooLarge('too many ranges of numbers')
  return [...seen.values()]
}

/** undefined: there is no such number. */
function tidy(one: NumberRange): NumberRange | undefined {
  const { multiples, others } = one
  const isInteger = multiples.some(Number.isInteger)
  const lowest = isInteger ? Math.ceil(one.lowest) : one.lowest
  const highest = isInteger ? Math.floor(one.highest) : one.highest
  if (lowest > highest) return undefined
  // What is a multiple of 6 is one of 3.
  if (others.some((other) => multiples.some((step) => step % other === 0))) return undefined
  const coarse = multiples.filter(
    (step, index) =>
      !multiples.some((other, at) => at !== index && other % step === 0 && (other !== step || at < index)),
  )
  if (coarse.length === 1 && Number.isInteger(4 * coarse[0]!) && (highest - lowest) / coarse[0]! < 1e6) {
    const first = Math.ceil(lowest / coarse[0]!) * coarse[0]!
    if (first > highest) return undefined
  }
  return { lowest, highest, multiples: coarse.sort((a, b) => a - b), others: [...others].sort((a, b) => a - b) }
}

// ---- Texts

/** As many digits as JSON.stringify writes at most, so that no text stands for infinity. */
const FRACTION = '(\\.\\d{1,25})?'
const HUGE = '([1-9](\\.\\d{1,17})?e\\+(2[1-9]|[3-9]\\d|[12]\\d\\d|30[0-7])|1(\\.[0-6]\\d{0,17})?e\\+308)'
const TINY = '[1-9](\\.\\d{1,17})?e-([7-9]|[1-9]\\d|[12]\\d\\d|3[01]\\d|32[0-3])'
const MAXIMAL = '1\\.7976931348623157e\\+308'
const MINIMAL = '5e-324'

const integers = `-?(0|[1-9]\\d{0,20}|${HUGE}|${MAXIMAL})`
const numbers = `-?((0|[1-9]\\d{0,20})${FRACTION}([eE][+-]?\\d{1,2})?|${HUGE}|${TINY}|${MAXIMAL}|${MINIMAL})`

/** JSON texts of numbers: so many characters at most, where the automaton knows no end. */
export interface NumberTexts {
  dfa: Dfa
  maximum: number
}

/** JSON texts of the numbers, in parts that may overlap. */
export function numberTexts(part: NumberRange | Remainders | Listed, meter: Meter): NumberTexts[] {
  const texts = 'multiples' in part ? rangeTexts(part, meter) : [bounded(integerDfa(part, meter), EXACT_INTEGER)]
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

function rangeTexts(one: NumberRange, meter: Meter): NumberTexts[] {
  const { lowest, highest, multiples, others } = one
  const unbounded = lowest === -HIGHEST && highest === HIGHEST
  const isInteger = multiples.some(Number.isInteger)
  const regex = (source: string) => ({ dfa: regexDfa(source, 'whole', {}, meter), maximum: Number.POSITIVE_INFINITY })
  if (unbounded && others.length === 0) {
    if (multiples.length === 0) return [regex(numbers)]
    if (multiples.length === 1 && multiples[0] === 1) return [regex(integers)]
  }
  const dfa = decimalDfa(one, isInteger, meter)
  const counts = others.length > 0 || multiples.some((step) => step !== 1)
  const plain = bounded(dfa, !counts ? MOST_CHARACTERS : isInteger ? EXACT_INTEGER : EXACT_FRACTION)
  if (multiples.some((step) => step !== 1) || others.some((step) => step !== 1)) return [plain]
  // What JSON.stringify writes with an exponent: of bounds in between only the sign matters.
  const parts: string[] = []
  const fits = (bound: number) => bound === 0 || (Math.abs(bound) >= 1e-6 && Math.abs(bound) < 1e21)
  // Of numbers that are no integers, the huge ones are none.
  if (!others.includes(1)) {
    if (highest === HIGHEST && (fits(lowest) || lowest === -HIGHEST)) parts.push(HUGE, MAXIMAL)
    if (lowest === -HIGHEST && (fits(highest) || highest === HIGHEST)) {
      parts.push(`-(${HUGE}|${MAXIMAL})`)
    }
  }
  if (!isInteger) {
    if (lowest <= 0 && highest >= 1e-6) parts.push(TINY, MINIMAL)
    if (highest >= 0 && lowest <= -1e-6) parts.push(`-(${TINY}|${MINIMAL})`)
  }
  return parts.length === 0 ? [plain] : [plain, regex(parts.join('|'))]
}

/** A number without its sign: digits before the point, without leading zeros, and behind it. */
interface Decimal {
  whole: string
  fraction: string
}

function decimalOf(value: number): Decimal {
  const [mantissa, exponent = '0'] = String(Math.abs(value)).split('e')
  const [whole = '', fraction = ''] = mantissa!.split('.')
  const shift = Number(exponent)
  const digits = whole + fraction
  const point = whole.length + shift
  const all = point <= 0 ? '0'.repeat(1 - point) + digits : digits.padEnd(point, '0')
  const at = Math.max(point, 1)
  return { whole: all.slice(0, at).replace(/^0+(?=\d)/, ''), fraction: all.slice(at).replace(/0+$/, '') }
}

/** How a text compares with a bound so far: -1, 0, 1 where the texts are of one length up to here. */
interface Reading {
  phase: 'begin' | 'minus' | 'zero' | 'whole' | 'point' | 'fraction'
  negative: boolean
  /** Digits before the point; -1 behind it, where they have been compared. */
  length: number
  /** Digits behind it. */
  places: number
  compared: readonly [number, number]
  /** Of each step, what is left of the digits so far, in its own units. */
  left: readonly number[]
  isZero: boolean
}

/** Plain decimals within a range, and multiples. */
function decimalDfa({ lowest, highest, multiples, others }: NumberRange, isInteger: boolean, meter: Meter): Dfa {
  const bounds = [decimalOf(lowest), decimalOf(highest)] as const
  const hasBound = [lowest !== -HIGHEST, highest !== HIGHEST] as const
  // A step of 2.5 with one place behind the point is one of 25 tenths.
  const steps = [...multiples, ...others]
  const longest = Math.max(1, ...bounds.map(({ whole }, index) => (hasBound[index] ? whole.length : 0)))
  const places = Math.max(...steps.map((step) => decimalOf(step).fraction.length), 0)
  const deepest = Math.max(places, ...bounds.map(({ fraction }, index) => (hasBound[index] ? fraction.length : 0)))
  const units = steps.map((step) => Math.round(step * 10 ** places))
  const counts = others.length > 0 || multiples.some((step) => step !== 1)
  const begin: Reading = {
    phase: 'begin',
    negative: false,
    length: 0,
    places: 0,
    compared: [0, 0],
    left: units.map(() => 0),
    isZero: true,
  }

  const wholeOrder = ({ length, compared }: Reading, index: 0 | 1, whole: string) =>
    length === -1 || length === whole.length ? compared[index] : Math.sign(length - whole.length)
  const within = (reading: Reading): boolean => {
    const sign = reading.negative && !reading.isZero ? -1 : 1
    const order = (index: 0 | 1, bound: number) => {
      const { whole, fraction } = bounds[index]!
      const boundSign = Math.sign(bound) || 0
      if (reading.isZero) return -boundSign
      if (sign !== boundSign) return sign
      let order = wholeOrder(reading, index, whole)
      // The bound goes on where the text has ended.
      if (order === 0 && reading.places < fraction.length) order = -1
      return sign * order
    }
    return (!hasBound[0] || order(0, lowest) >= 0) && (!hasBound[1] || order(1, highest) <= 0)
  }
  const divides = (reading: Reading): boolean => {
    if (!counts) return true
    return units.every((unit, index) => {
      const left = reading.left[index]!
      const isMultiple = left >= 0 && (left * power(10, places - reading.places, unit)) % unit === 0
      return isMultiple === index < multiples.length
    })
  }
  const isWhole = ({ phase }: Reading) => phase === 'zero' || phase === 'whole' || phase === 'fraction'

  const digit = (reading: Reading, value: number): Reading | undefined => {
    const { phase, length, places: behind, compared, left, isZero } = reading
    const isFraction = phase === 'point' || phase === 'fraction'
    if (phase === 'zero') return undefined
    const compare = (index: 0 | 1) => {
      if (!hasBound[index]) return 0
      const { whole, fraction } = bounds[index]!
      const before = compared[index]!
      if (before !== 0) return before
      const other = isFraction ? (fraction[behind] ?? '0') : whole[length]
      return other === undefined ? 0 : Math.sign(value - Number(other))
    }
    // Beyond the places that matter a multiple has zeros alone.
    if (isFraction && counts && behind >= places && value !== 0 && multiples.length > 0) return undefined
    return {
      phase: isFraction ? 'fraction' : value === 0 && length === 0 ? 'zero' : 'whole',
      negative: reading.negative,
      // Longer ones are all alike.
      length: isFraction ? length : Math.min(length + 1, longest + 1),
      places: isFraction ? Math.min(behind + 1, deepest + 1) : 0,
      compared: [compare(0), compare(1)],
      left: counts
        ? left.map((rest, index) =>
            isFraction && behind >= places
              ? value === 0
                ? rest
                : -1
              : (rest * 10 + value) % Math.max(units[index]!, 1),
          )
        : left,
      isZero: isZero && value === 0,
    }
  }

  return explore<Reading>(
    begin,
    ({ phase, negative, length, places: behind, compared, left, isZero }) =>
      `${phase}${negative ? '-' : ''}${isZero ? 'z' : ''} ${length} ${behind} ${compared} ${left}`,
    (reading, arc) => {
      const { phase } = reading
      if (phase === 'begin' && (!hasBound[0] || lowest < 0)) {
        arc(0x2d, 0x2d, { ...reading, phase: 'minus', negative: true })
      }
      if ((phase === 'zero' || phase === 'whole') && !isInteger) {
        const compared = ([0, 1] as const).map((index) => wholeOrder(reading, index, bounds[index].whole))
        arc(0x2e, 0x2e, { ...reading, phase: 'point', length: -1, compared: compared as [number, number] })
      }
      for (let value = 0; value <= 9; value++) {
        const next = digit(reading, value)
        if (next) arc(0x30 + value, 0x30 + value, next)
      }
      meter.spend(20)
      return isWhole(reading) && within(reading) && divides(reading)
    },
    meter,
  )
}

/** base ** exponent modulo a unit; exponents are small. */
function power(base: number, exponent: number, unit: number): number {
  let out = 1
  for (let count = 0; count < exponent; count++) out = (out * base) % Math.max(unit, 1)
  return out
}

/** Plain decimals as JSON has them, read character by character: within bounds, and multiples of a step. */
import { type Dfa, explore } from './dfa.ts'
import { minimal } from './dfa_minimal.ts'
import type { Meter } from './problems.ts'
import { remainderDfa } from './remainders.ts'

const HIGHEST = Number.MAX_VALUE
const MINUS = 0x2d
const POINT = 0x2e
const ZERO = 0x30

/** A number without its sign: digits before the point, without leading zeros, and behind it. */
export interface Decimal {
  whole: string
  fraction: string
}

export function decimalOf(value: number): Decimal {
  const [mantissa, exponent = '0'] = String(Math.abs(value)).split('e')
  const [whole = '', fraction = ''] = mantissa!.split('.')
  const shift = Number(exponent)
  const digits = whole + fraction
  const point = whole.length + shift
  const all = point <= 0 ? '0'.repeat(1 - point) + digits : digits.padEnd(point, '0')
  const at = Math.max(point, 1)
  return { whole: all.slice(0, at).replace(/^0+(?=\d)/, ''), fraction: all.slice(at).replace(/0+$/, '') }
}

/** Digits behind the point that plain texts have at most, and some: one above 0 is above any number with more zeros. */
const MOST_PLACES = 30

const shortened = ({ whole, fraction }: Decimal): Decimal => ({
  whole,
  fraction: fraction.slice(0, MOST_PLACES).replace(/0+$/, ''),
})

const PHASES = ['begin', 'minus', 'zero', 'whole', 'point', 'fraction'] as const

/** How a text compares with the bounds so far: -1, 0, 1 where the texts are of one length up to here. */
interface Reading {
  phase: (typeof PHASES)[number]
  negative: boolean
  /** Digits before the point; -1 behind it, where they have been compared. */
  length: number
  /** Digits behind it. */
  places: number
  toLow: number
  toHigh: number
  isZero: boolean
}

/** Of which numbers lie between two bounds; integers have no point. */
export function boundedDfa(lowest: number, highest: number, isInteger: boolean, meter: Meter): Dfa {
  const low = lowest === -HIGHEST ? undefined : shortened(decimalOf(lowest))
  const high = highest === HIGHEST ? undefined : shortened(decimalOf(highest))
  const longest = Math.max(1, low?.whole.length ?? 0, high?.whole.length ?? 0)
  const deepest = Math.max(low?.fraction.length ?? 0, high?.fraction.length ?? 0)
  const begin: Reading = {
    phase: 'begin',
    negative: false,
    length: 0,
    places: 0,
    toLow: 0,
    toHigh: 0,
    isZero: true,
  }

  const wholeOrder = (length: number, compared: number, bound: Decimal | undefined) =>
    bound === undefined || length === -1 || length === bound.whole.length
      ? compared
      : Math.sign(length - bound.whole.length)
  const within = ({ negative, isZero, length, places, toLow, toHigh }: Reading): boolean => {
    const sign = negative && !isZero ? -1 : 1
    const order = (compared: number, value: number, bound: Decimal) => {
      const boundSign = Math.sign(value) || 0
      if (isZero) return -boundSign
      if (sign !== boundSign) return sign
      const order = wholeOrder(length, compared, bound)
      // The bound goes on where the text has ended.
      return sign * (order === 0 && places < bound.fraction.length ? -1 : order)
    }
    return (!low || order(toLow, lowest, low) >= 0) && (!high || order(toHigh, highest, high) <= 0)
  }

  const digit = (reading: Reading, value: number): Reading | undefined => {
    const { phase, negative, length, places, isZero } = reading
    if (phase === 'zero') return undefined
    const isFraction = phase === 'point' || phase === 'fraction'
    const compare = (before: number, bound: Decimal | undefined) => {
      if (!bound || before !== 0) return before
      const other = isFraction ? (bound.fraction[places] ?? '0') : bound.whole[length]
      return other === undefined ? 0 : Math.sign(value - Number(other))
    }
    return {
      phase: isFraction ? 'fraction' : value === 0 && length === 0 ? 'zero' : 'whole',
      negative,
      // Longer ones are all alike.
      length: isFraction ? length : Math.min(length + 1, longest + 1),
      places: isFraction ? Math.min(places + 1, deepest + 1) : 0,
      toLow: compare(reading.toLow, low),
      toHigh: compare(reading.toHigh, high),
      isZero: isZero && value === 0,
    }
  }

  const dfa = explore<Reading>(
    begin,
    ({ phase, negative, length, places, toLow, toHigh, isZero }) =>
      (((((length + 1) * (deepest + 2) + places) * 3 + toLow + 1) * 3 + toHigh + 1) * 4 +
        (negative ? 2 : 0) +
        (isZero ? 1 : 0)) *
        PHASES.length +
      PHASES.indexOf(phase),
    (reading, arc) => {
      const { phase, length } = reading
      if (phase === 'begin' && (!low || lowest < 0)) arc(MINUS, MINUS, { ...reading, phase: 'minus', negative: true })
      if ((phase === 'zero' || phase === 'whole') && !isInteger) {
        arc(POINT, POINT, {
          ...reading,
          phase: 'point',
          length: -1,
          toLow: wholeOrder(length, reading.toLow, low),
          toHigh: wholeOrder(length, reading.toHigh, high),
        })
      }
      for (let value = 0; value <= 9; value++) {
        const next = digit(reading, value)
        if (next) arc(ZERO + value, ZERO + value, next)
      }
      meter.spend(20)
      return (phase === 'zero' || phase === 'whole' || phase === 'fraction') && within(reading)
    },
    meter,
  )
  return minimal(dfa, meter)
}

/** Of which numbers are multiples of a step, among texts that are decimals. */
export function multipleDfa(step: number, meter: Meter): Dfa {
  const places = decimalOf(step).fraction.length
  const unit = Math.round(step * 10 ** places)
  const isMultiple = (left: number, behind: number) => (left * power(places - behind, unit)) % unit === 0
  if (places === 0) return withZeros(remainderDfa(unit, (left) => left === 0, meter))
  interface Reading {
    left: number
    /** Digits behind the point; -1 before it. */
    behind: number
  }
  const dfa = explore<Reading>(
    { left: 0, behind: -1 },
    ({ left, behind }) => left * (places + 2) + behind + 1,
    ({ left, behind }, arc) => {
      meter.spend(20)
      if (behind === -1 && left === 0) arc(MINUS, MINUS, { left, behind })
      if (behind === -1) arc(POINT, POINT, { left, behind: 0 })
      if (behind < places) {
        for (let digit = 0; digit <= 9; digit++) {
          const next = { left: (left * 10 + digit) % unit, behind: behind === -1 ? -1 : behind + 1 }
          arc(ZERO + digit, ZERO + digit, next)
        }
      } else if (left === 0) arc(ZERO, ZERO, { left, behind })
      return isMultiple(left, Math.max(behind, 0))
    },
    meter,
  )
  return minimal(dfa, meter)
}

/** With a point and any zeros behind it. */
function withZeros({ start, arcs, accepts }: Dfa): Dfa {
  const zeros = arcs.length
  return {
    start,
    arcs: [
      ...arcs.map((own, state) => {
        if (!accepts[state]) return own
        const at = own[0] === MINUS ? 3 : 0
        return [...own.slice(0, at), POINT, POINT, zeros, ...own.slice(at)]
      }),
      [ZERO, ZERO, zeros],
    ],
    accepts: [...accepts, true],
  }
}

/** 10 ** exponent modulo a unit; exponents are small. */
function power(exponent: number, unit: number): number {
  let out = 1 % unit
  for (let count = 0; count < exponent; count++) out = (out * 10) % unit
  return out
}

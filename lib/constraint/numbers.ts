/** Sets of numbers; number_texts.ts has the JSON texts that stand for them. */
import { decimalOf } from './decimals.ts'
import { tooLarge, unsupported } from './problems.ts'

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

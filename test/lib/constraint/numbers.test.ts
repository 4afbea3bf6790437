/** Numbers against arithmetic on whole numbers of millionths: bounds, multiples, and what is none. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { accepts, ofSchema } from './compiled.ts'

const SCALE = 6
const scaled = (text: string) => {
  const [, sign = '', whole = '', fraction = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text)!
  return BigInt(`${sign}${whole}${fraction.padEnd(SCALE, '0')}`)
}
const decimal = (digits: number, places: number) =>
  fc
    .tuple(fc.integer({ min: -(10 ** digits), max: 10 ** digits }), fc.integer({ min: 0, max: places }))
    .map(([value, shift]) => value / 10 ** shift)
const STEPS = [1, 2, 3, 4, 7, 10, 12, 33, 1000, 0.5, 2.5, 0.01, 0.75, 1.2] as const
const step = fc.constantFrom(...STEPS)

interface Asked {
  type: 'number' | 'integer'
  minimum: number | undefined
  exclusiveMaximum: number | undefined
  multiples: readonly number[]
  others: readonly number[]
}
const asked = fc.record<Asked>({
  type: fc.constantFrom('number' as const, 'integer' as const),
  minimum: fc.option(decimal(5, 3), { nil: undefined }),
  exclusiveMaximum: fc.option(decimal(5, 3), { nil: undefined }),
  multiples: fc.array(step, { maxLength: 2 }),
  others: fc.array(step, { maxLength: 2 }),
})

const schemaOf = ({ type, minimum, exclusiveMaximum, multiples, others }: Asked) => ({
  type,
  ...(minimum === undefined ? {} : { minimum }),
  ...(exclusiveMaximum === undefined ? {} : { exclusiveMaximum }),
  allOf: [...multiples.map((multipleOf) => ({ multipleOf })), ...others.map((multipleOf) => ({ not: { multipleOf } }))],
})

function holds({ type, minimum, exclusiveMaximum, multiples, others }: Asked, text: string): boolean {
  const value = scaled(text)
  const of = (number: number) => scaled(number.toFixed(SCALE))
  const isMultiple = (step: number) => value % of(step) === 0n
  return (
    (type === 'number' || isMultiple(1)) &&
    (minimum === undefined || value >= of(minimum)) &&
    (exclusiveMaximum === undefined || value < of(exclusiveMaximum)) &&
    multiples.every(isMultiple) &&
    !others.some(isMultiple)
  )
}

test('random numbers under random keywords', async () => {
  await fc.assert(
    fc.asyncProperty(asked, fc.array(decimal(6, 4), { minLength: 30, maxLength: 30 }), async (one, values) => {
      const constraint = await ofSchema(schemaOf(one))
      const near = [one.minimum, one.exclusiveMaximum].filter((bound) => bound !== undefined)
      const steps = [...one.multiples, 1].flatMap((step) => [0, step, -3 * step, 1200 * step, 99_900 * step])
      for (const value of [...values, ...near, ...near.map((bound) => bound + 0.001), ...steps]) {
        const text = JSON.stringify(Number(value.toFixed(4)))
        expect(accepts(constraint, text), `${JSON.stringify(schemaOf(one))} of ${text}`).toBe(holds(one, text))
      }
    }),
    { numRuns: 300, seed: 3 },
  )
}, 120_000)

test('many remainders at once, and large ones', async () => {
  const any = (...steps: number[]) => ({ anyOf: steps.map((multipleOf) => ({ multipleOf })) })
  const schema = {
    type: 'integer',
    allOf: [any(33, 12, 77), any(44, 13), { not: { multipleOf: 429 } }],
    exclusiveMaximum: -100_000,
  }
  const constraint = await ofSchema(schema)
  for (let value = -100_400; value <= -99_600; value++) {
    const is = (step: number) => value % step === 0
    const expected = value < -100_000 && (is(33) || is(12) || is(77)) && (is(44) || is(13)) && !is(429)
    expect(accepts(constraint, String(value)), String(value)).toBe(expected)
  }
  const thousands = await ofSchema({ type: 'integer', multipleOf: 100_000 })
  for (const [text, expected] of [
    ['0', true],
    ['-300000', true],
    ['12300000', true],
    ['12310000', false],
    ['10000', false],
  ] as const) {
    expect(accepts(thousands, text), text).toBe(expected)
  }
})

test('numbers that JSON.stringify writes with an exponent, under bounds of any size', async () => {
  const bounds = [0, 1e-9, 5e-324, 3e-7, 9.5e-7, 1e-6, 0.5, 1e20, 1e21, 1.5e21, 2.5e30, 1.7e308].flatMap((bound) => [
    bound,
    -bound,
  ])
  const values = fc.oneof(
    fc.constantFrom(...bounds, Number.MAX_VALUE, -Number.MAX_VALUE, 1e-7, 2.9999999999999993e-7, 3.0000000000000004e-7),
    fc.double({ noNaN: true, noDefaultInfinity: true, min: 1e20, max: 1e33 }),
    fc.double({ noNaN: true, noDefaultInfinity: true, min: -1e-6, max: 1e-6 }),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
  )
  const bound = fc.constantFrom(...bounds)
  await fc.assert(
    fc.asyncProperty(
      bound,
      bound,
      fc.boolean(),
      fc.array(values, { minLength: 40, maxLength: 40 }),
      async (...asked) => {
        const [low, high, exclusive, list] = asked
        const schema = exclusive
          ? { type: 'number', exclusiveMinimum: low, exclusiveMaximum: high }
          : { type: 'number', minimum: low, maximum: high }
        const constraint = await ofSchema(schema)
        for (const value of list) {
          const isWithin = exclusive ? low < value && value < high : low <= value && value <= high
          const text = JSON.stringify(value)
          expect(accepts(constraint, text), `${JSON.stringify(schema)} of ${text}`).toBe(isWithin)
        }
      },
    ),
    { numRuns: 60, seed: 12 },
  )
  const few = await ofSchema({ enum: [1e-7, -2.5e-9, 1e21, 1.25e300] })
  for (const value of [1e-7, -2.5e-9, 1e21, 1.25e300]) expect(accepts(few, JSON.stringify(value))).toBe(true)
  for (const value of [1e-8, 1e-6, 2.5e-9, 1e22, 1.25e301, 10]) expect(accepts(few, JSON.stringify(value))).toBe(false)
}, 120_000)

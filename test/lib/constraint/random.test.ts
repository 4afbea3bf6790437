/** Random schemas and values near them: what is accepted is what ajv says is valid. */
import { Ajv2020 } from 'ajv/dist/2020.js'
import { expect, test } from 'vitest'
import { acceptsJson, ofSchema } from './compiled.ts'
import { Random } from './random_schemas.ts'

/** Of each a dozen values. */
const COUNT = Number(process.env.MILLRACE_RANDOM_SCHEMAS ?? 400)

test(`${COUNT} random schemas`, async () => {
  const random = new Random(7)
  let [tried, valid] = [0, 0]
  for (let index = 0; index < COUNT; index++) {
    const schema = random.schema()
    const validate = new Ajv2020({ strict: false, logger: false, validateSchema: false }).compile(schema)
    const constraint = await ofSchema(schema).catch((error: unknown) => error as Error)
    if (constraint instanceof Error) {
      // A schema whose reference comes back to itself says nothing, and has no end by ajv.
      expect(constraint).toMatchObject({ code: 'CONSTRAINT_INVALID', message: expect.stringContaining('itself') })
      continue
    }
    for (let count = 0; count < 12; count++) {
      const value = random.near(schema, schema)
      const expected = judged(validate, value)
      if (expected === undefined) continue
      tried++
      if (expected) valid++
      expect(acceptsJson(constraint, value), `${JSON.stringify(schema)} of ${JSON.stringify(value)}`).toBe(expected)
    }
  }
  // Neither all nor none.
  expect(valid / tried).toBeGreaterThan(0.4)
  expect(valid / tried).toBeLessThan(0.9)
}, 600_000)

/** undefined where a reference comes back to itself, for which ajv has no end. */
function judged(validate: (value: unknown) => unknown, value: unknown): boolean | undefined {
  try {
    return validate(value) === true
  } catch (error) {
    if (error instanceof RangeError) return undefined
    throw error
  }
}

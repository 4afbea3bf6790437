/** Answers sampled hot under random constraints: each that is whole is what was asked for, as others judge it. */
import { join } from 'node:path'
import { Ajv } from 'ajv'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Constraint } from '../../lib/index.ts'
import { load, type Model } from '../../lib/index.ts'
import { ARITHMETIC, CHESS, isArithmetic, isChess, isJson, JSON_GRAMMAR } from '../lib/constraint/grammars.ts'
import { MODELS } from '../models.ts'

/** Of each kind; .ci/long asks for 1,000. */
const COUNT = Number(process.env.MILLRACE_ANSWERS ?? 40)

let model: Model
beforeAll(async () => {
  model = await load(join(MODELS, 'demo'), { device: 'cpu', contextLength: 512 })
})
afterAll(() => model.close())

/** The whole answers, with the index of what they were held to. */
async function answers(list: readonly Constraint[]): Promise<[index: number, text: string][]> {
  const asked = list.map(
    (constraint, seed) => model.generate('Data:', { constraint, temperature: 1.5, maxTokens: 200, seed }).result,
  )
  const done = await Promise.all(asked)
  return done.flatMap(({ text, finishReason }, index) =>
    finishReason === 'stop' ? [[index, text] as [number, string]] : [],
  )
}

const isDate = (text: string) => {
  const time = Date.parse(text)
  return /^\d{4}-\d\d-\d\d$/.test(text) && new Date(time || 0).toISOString().startsWith(text)
}

const scalar = fc.constantFrom<object>(
  { type: 'integer', minimum: -20, maximum: 500 },
  { type: 'integer', multipleOf: 7, exclusiveMaximum: 1000 },
  { type: 'number', minimum: 0, maximum: 9.5 },
  { type: 'string', maxLength: 8 },
  { type: 'string', minLength: 3, maxLength: 12 },
  { type: 'string', pattern: '^[a-z]{2,5}\\d?$' },
  { type: 'string', pattern: '^[\\w.-]{1,20}$', minLength: 2 },
  { type: 'string', pattern: '^(?!a)[a-f]+$', maxLength: 6 },
  { type: 'string', format: 'date' },
  { enum: ['red', 'green', 7, null, { a: [1] }] },
  { const: 'é"\\😀' },
  { type: ['boolean', 'null'] },
)
const schemas = fc.letrec<{ node: object }>((tie) => ({
  node: fc.oneof(
    { depthSize: 'small', maxDepth: 3, withCrossShrink: true },
    scalar,
    fc.record({
      type: fc.constant('array'),
      items: tie('node'),
      minItems: fc.constantFrom(0, 1),
      maxItems: fc.constantFrom(2, 3),
    }),
    fc.record({ type: fc.constant('array'), items: tie('node'), contains: scalar, maxItems: fc.constant(3) }),
    fc.tuple(tie('node'), tie('node')).map(([a, b]) => ({ anyOf: [a, b] })),
    fc.tuple(tie('node'), scalar).map(([a, not]) => ({ allOf: [a, { not }] })),
    fc.tuple(tie('node'), tie('node'), fc.boolean()).map(([a, b, all]) => ({
      type: 'object',
      properties: { a, b },
      required: all ? ['a', 'b'] : ['b'],
      additionalProperties: false,
    })),
    fc.tuple(tie('node'), fc.boolean()).map(([value, named]) => ({
      type: 'object',
      patternProperties: { '^[a-e]{1,3}$': value },
      propertyNames: named ? { maxLength: 2 } : true,
      additionalProperties: false,
      maxProperties: 3,
    })),
    fc.tuple(tie('node'), tie('node')).map(([a, b]) => ({
      type: 'object',
      properties: { k: { enum: ['a', 'b'] } },
      required: ['k'],
      maxProperties: 2,
      oneOf: [{ properties: { k: { const: 'a' }, v: a } }, { properties: { k: { const: 'b' }, v: b } }],
    })),
  ),
})).node

test(`${COUNT} random schemas: every whole answer parses and is valid`, async () => {
  const ajv = new Ajv({ strict: false, formats: { date: isDate } })
  const possible: object[] = []
  for (const schema of fc.sample(schemas, { numRuns: COUNT, seed: 5 })) {
    // Some contradict themselves.
    const fails = await model.generate('', { constraint: { schema }, maxTokens: 1 }).result.catch((error) => error)
    if (fails instanceof Error) expect(fails).toMatchObject({ code: 'CONSTRAINT_INVALID' })
    else possible.push(schema)
  }
  const whole = await answers(possible.map((schema) => ({ schema })))
  for (const [index, text] of whole) {
    const schema = possible[index]!
    expect(ajv.validate(schema, JSON.parse(text)), `${JSON.stringify(schema)} of ${text}`).toBe(true)
  }
  expect(whole.length).toBeGreaterThan(0.6 * COUNT)
}, 3_000_000)

const atom = fc.constantFrom(
  'a',
  'bc',
  'é',
  '😀',
  '[a-f]',
  '\\d',
  '\\w',
  '[^\\s]',
  '-',
  '(?=[a-c])[a-z]',
  '(?!b)[ab]',
  ' ',
)
const bounds = fc.constantFrom('', '', '?', '{2}', '{1,3}', '{0,4}')
const expressions = fc.letrec<{ node: string }>((tie) => ({
  node: fc.oneof(
    { depthSize: 'small', maxDepth: 3, withCrossShrink: true },
    atom,
    fc
      .tuple(fc.array(tie('node'), { minLength: 1, maxLength: 3 }), bounds)
      .map(([items, many]) => `(?:${items.join('')})${many}`),
    fc.tuple(tie('node'), tie('node')).map(([a, b]) => `(?:${a}|${b})`),
  ),
})).node

test(`${COUNT} random regular expressions: every whole answer is matched by the engine's own`, async () => {
  const list = fc.sample(expressions, { numRuns: COUNT, seed: 6 })
  const whole = await answers(list.map((regex) => ({ regex })))
  for (const [index, text] of whole) expect(text).toMatch(new RegExp(`^(?:${list[index]})$`, 'u'))
  expect(whole.length).toBeGreaterThan(0.8 * COUNT)
}, 3_000_000)

test(`${COUNT} random choices: every answer is one of them`, async () => {
  const texts = fc.array(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 }), { minLength: 1, maxLength: 6 })
  const list = fc.sample(texts, { numRuns: COUNT, seed: 7 })
  const whole = await answers(list.map((choice) => ({ choice })))
  for (const [index, text] of whole) expect(list[index]).toContain(text)
  expect(whole.length).toBeGreaterThan(0.9 * COUNT)
}, 3_000_000)

test.each([
  ['arithmetic', ARITHMETIC, isArithmetic],
  ['JSON', JSON_GRAMMAR, isJson],
  ['moves of chess', CHESS, isChess],
])(
  `a grammar, ${COUNT} times: %s`,
  async (_, grammar, isRight) => {
    const whole = await answers(Array.from({ length: COUNT }, () => ({ grammar })))
    for (const [, text] of whole) expect(isRight(text), text).toBe(true)
    expect(whole.length).toBeGreaterThan(0)
  },
  3_000_000,
)

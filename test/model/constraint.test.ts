/** Answers under constraints, of the model that ships: whole, whatever the seed, the company and the options. */
import { join } from 'node:path'
import { afterAll, beforeAll, expect, expectTypeOf, test } from 'vitest'
import { z } from 'zod'
import { compileConstraint, load, type Model } from '../../lib/index.ts'
import { MODELS } from '../models.ts'

let model: Model
beforeAll(async () => {
  model = await load(join(MODELS, 'demo'), { device: 'cpu', contextLength: 512 })
})
afterAll(() => model.close())

const hot = { temperature: 1.5, maxTokens: 200 }

test('a zod schema gives a typed object', async () => {
  const schema = z.object({
    name: z.string().max(20),
    age: z.int().min(0).max(150),
    tags: z.array(z.enum(['a', 'b'])).max(2),
  })
  const { object, text, finishReason } = await model.generate('A person:', { constraint: { schema }, ...hot, seed: 1 })
    .result
  expectTypeOf(object).toEqualTypeOf<{ name: string; age: number; tags: ('a' | 'b')[] } | undefined>()
  expect(finishReason).toBe('stop')
  expect(object).toEqual(JSON.parse(text))
  expect(schema.parse(object)).toEqual(object)
})

test('what zod makes of a schema is a JSON schema; a schema of another library is refused by name', async () => {
  const schema = z.object({ age: z.int().min(0).max(150) })
  const { object } = await model.generate('A person:', {
    constraint: { schema: z.toJSONSchema(schema) },
    ...hot,
    seed: 1,
  }).result
  expect(schema.safeParse(object).success).toBe(true)
  const other = { type: 'object', '~standard': { version: 1, vendor: 'another', validate: () => ({ value: {} }) } }
  expect(() => model.generate('A person:', { constraint: { schema: other as never } })).toThrow(
    expect.objectContaining({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('a schema of zod 4 or a JSON schema'),
    }),
  )
})

test("where a zod schema's own functions throw, or wait, the request rejects with that", async () => {
  const choice = z.enum(['a', 'b'])
  for (const [schema, word] of [
    [
      choice.transform((): string => {
        throw new Error('not today')
      }),
      'not today',
    ],
    [choice.refine(async () => true), 'zod'],
    [z.object({ a: choice.transform(async (text) => text) }), 'zod'],
  ] as const) {
    const { result } = model.generate('A:', { constraint: { schema }, ...hot, seed: 1 })
    await expect(result).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(word) })
  }
})

test('so it does in a chat', async () => {
  const schema = z.object({ age: z.int().min(0).max(150), tags: z.array(z.enum(['a', 'b'])).max(2) })
  const messages = [{ role: 'user', content: 'A person' }] as const
  const { object, text } = await model.chat(messages, { constraint: { schema }, ...hot, seed: 1 }).result
  expectTypeOf(object).toEqualTypeOf<{ age: number; tags: ('a' | 'b')[] } | undefined>()
  expect(object).toEqual(JSON.parse(text))
  expect(schema.parse(object)).toEqual(object)
})

test('the same seed gives the same answer, alone and in a crowd; log-probabilities are those without a constraint', async () => {
  const constraint = { regex: '(yes|no), [a-z ]{4,30}\\.' }
  const ask = (seed: number) =>
    model.generate('Say', { constraint, ...hot, seed, logprobs: true, topLogprobs: 1 }).result
  const alone = await ask(3)
  const crowd = await Promise.all(Array.from({ length: 8 }, (_, seed) => ask(seed)))
  expect(crowd[3]!.tokens).toEqual(alone.tokens)
  expect(crowd[3]!.logprobs).toEqual(alone.logprobs)
  for (const { text } of crowd) expect(text).toMatch(/^(yes|no), [a-z ]{4,30}\.$/)
  const prompt = await model.tokenizer.encode('Say')
  const score = await model.score([...prompt, ...alone.tokens])
  expect(alone.logprobs![0]).toBeCloseTo(score.logprobs[prompt.length - 1]!, 4)
})

test('preempted sequences go on where they were', async () => {
  const settings = { device: 'cpu', contextLength: 128, cache: false } as const
  const ask = (own: Model, seed: number) =>
    own.generate('Words:', { constraint: { regex: '([a-z]{1,8} ){30,40}end' }, temperature: 1.2, maxTokens: 100, seed })
      .result
  const seeds = [0, 1, 2, 3]
  await using large = await load(join(MODELS, 'demo'), settings)
  await using small = await load(join(MODELS, 'demo'), { ...settings, kvTokens: 160 })
  const alone = []
  for (const seed of seeds) alone.push(await ask(large, seed))
  const together = await Promise.all(seeds.map((seed) => ask(small, seed)))
  expect(small.stats.sequences.preemptions).toBeGreaterThan(0)
  expect(together.map(({ text }) => text)).toEqual(alone.map(({ text }) => text))
  for (const { text } of together) expect(text).toMatch(/^([a-z]{1,8} )*([a-z]*|end)$/)
})

test('an answer that is whole ends, with end tokens or without; stop tokens come nowhere else', async () => {
  for (const options of [{}, { ignoreEos: true }]) {
    const { text, finishReason } = await model.generate('Pick', {
      constraint: { choice: ['left', 'right'] },
      ...options,
      seed: 2,
    }).result
    expect(['left', 'right']).toContain(text)
    expect(finishReason).toBe('stop')
  }
  const comma = model.tokenizer.idOf(',')!
  const constraint = { regex: '[a-z]{3,5}(,[a-z])?' }
  for (let seed = 0; seed < 5; seed++) {
    const { text, finishReason } = await model.generate('abc', { constraint, stopTokens: [comma], ...hot, seed }).result
    expect(text).toMatch(/^[a-z]{3,5}$/)
    expect(finishReason).toBe('stop')
  }
})

test('texts beyond ASCII are whole', async () => {
  const { text } = await model.generate('x', { constraint: { regex: '(é|😀|日){6}' }, ...hot, seed: 6 }).result
  expect(text).toMatch(/^(é|😀|日){6}$/u)
})

test('objects of few names never begin one that they have already', async () => {
  const schema = {
    type: 'object',
    propertyNames: { enum: ['a', 'b', 'ab'] },
    additionalProperties: { type: 'boolean' },
  }
  for (let seed = 0; seed < 6; seed++) {
    const constraint = { schema: { ...schema, minProperties: 3 } }
    const { text, finishReason } = await model.generate('Data:', { constraint, ...hot, seed }).result
    expect(finishReason).toBe('stop')
    expect(Object.keys(JSON.parse(text)).sort()).toEqual(['a', 'ab', 'b'])
  }
})

test('what cannot be fulfilled, or read, rejects', async () => {
  const failing = (constraint: never) => model.generate('x', { constraint }).result
  await expect(failing({ schema: false } as never)).rejects.toMatchObject({ code: 'CONSTRAINT_INVALID' })
  await expect(failing({ regex: '(' } as never)).rejects.toMatchObject({ code: 'CONSTRAINT_INVALID' })
  await expect(failing({ schema: { uniqueItems: true } } as never)).rejects.toMatchObject({
    code: 'CONSTRAINT_UNSUPPORTED',
  })
  for (const bad of [
    {},
    { regex: 'a', choice: ['a'] },
    { regex: 1 },
    { choice: [] },
    { json: false },
    { schem: {} },
    'json',
  ]) {
    expect(() => model.generate('x', { constraint: bad as never })).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    )
  }
})

test('compileConstraint() by itself', async () => {
  const constraint = await compileConstraint({ schema: z.object({ a: z.number() }) }, model.tokenizer)
  expect(constraint.accepts('{"a": 1.5}')).toBe(true)
  expect(constraint.accepts('{"a": "1.5"}')).toBe(false)
  constraint.close()
  expect(() => constraint.accepts('')).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
  await expect(compileConstraint({ json: true }, {} as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})

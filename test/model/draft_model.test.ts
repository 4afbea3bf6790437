/** A draft model beside a large one: the same answers in fewer passes, and a clear word where the two do not fit. */
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type GenerateOptions, load, type Model, plan } from '../../lib/index.ts'
import { findModel, MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
const draft = findModel('demo-draft')
const prompt = 'Once upon a time there was a little boat who wanted to see the sea. One day'

const kinds: [string, GenerateOptions][] = [
  ['greedy', { temperature: 0, logprobs: true, topLogprobs: 4 }],
  ['sampled', { temperature: 1, topP: 0.95, logprobs: true }],
  ['with penalties', { temperature: 0, repetitionPenalty: 1.2, presencePenalty: 0.3, frequencyPenalty: 0.2 }],
  ['until a stop text', { temperature: 0, stop: ['sea.', 'Lily'] }],
  ['of a regular expression', { constraint: { regex: '( ran\\. Tom){12}' } }],
]

describe.skipIf(draft === undefined)('demo with demo-draft', () => {
  let model: Model
  beforeAll(async () => {
    model = await load(demo, { device: 'cpu', threads: 1, draft })
  })
  afterAll(() => model?.close())

  async function answer(text: string, options: GenerateOptions) {
    const { steps } = model.stats
    const { timings: _, usage, ...rest } = await model.generate(text, { seed: 3, maxTokens: 48, ...options }).result
    return { rest, usage, passes: model.stats.steps - steps }
  }

  test.each(kinds)('the same answer: %s', async (_, options) => {
    const without = await answer(prompt, { ...options, speculation: { method: 'off' } })
    for (const speculation of [{ method: 'draft', tokens: 4 }, { method: 'auto' }, { method: 'ngram' }] as const) {
      const drafted = await answer(prompt, { ...options, speculation })
      expect(drafted.rest).toEqual(without.rest)
      expect(drafted.passes).toBeLessThanOrEqual(without.passes)
    }
  })

  test('of two models that were trained on the same texts the small one is right often', async () => {
    const before = model.stats.speculation
    const { usage, passes } = await answer(prompt, { temperature: 0, speculation: { method: 'draft', tokens: 4 } })
    expect(usage.acceptedTokens! / usage.draftedTokens!).toBeGreaterThan(0.4)
    expect(passes).toBeLessThan(usage.completionTokens * 0.7)
    const { draftPasses, draftMs } = model.stats.speculation
    expect(draftPasses - before.draftPasses).toBeGreaterThan(passes)
    expect(draftMs).toBeGreaterThan(before.draftMs)
    expect(model.plan.draft).toMatchObject({ device: 'cpu', contextLength: model.plan.contextLength })
    // Units lie on whole pages.
    expect(model.memory.draft!.hostBytes / model.plan.draft!.hostBytes).toBeCloseTo(1, 1)
  })

  test('the same answers of a crowd', async () => {
    const ask = (method: 'draft' | 'off') =>
      Promise.all(
        Array.from({ length: 12 }, (_, seed) => {
          const options = { seed, maxTokens: 24, temperature: seed % 2, speculation: { method } } as const
          return model.generate(`${prompt} ${'and so '.repeat(seed % 4)}`, options).result
        }),
      )
    const without = await ask('off')
    expect((await ask('draft')).map(({ tokens }) => tokens)).toEqual(without.map(({ tokens }) => tokens))
  })
})

test('another vocabulary is refused, and nothing is left behind', async () => {
  const loaded = load(demo, { device: 'cpu', threads: 1, draft: join(MODELS, 'stories260k') })
  await expect(loaded).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringMatching(/^the draft model has another vocabulary: token \d+ is/),
  })
})

test('drafts of a model that there is not are refused at once', async () => {
  const speculation = { method: 'draft' } as const
  await expect(load(demo, { device: 'cpu', speculation })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  await using model = await load(demo, { device: 'cpu', threads: 1 })
  expect(() => model.generate('Once', { speculation })).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
})

test.each([[{}], [{ model: 'x', tokens: 4 }], [{ model: 'x', device: 'tpu' }], [7]])(
  'draft: %j is refused',
  async (draft) => {
    await expect(load(demo, { draft: draft as never })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  },
)

test('a shape has no draft model of its own in a plan', async () => {
  expect((await plan('millrace-demo', { device: 'cpu' })).draft).toBeUndefined()
})

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

test('a draft model that shares the arena with its large one, and takes turns with others', async () => {
  const shared = { device: 'cpu', threads: 1, placement: 'shared', arena: '6MiB', turnMs: 1 } as const
  await using model = await load(demo, { ...shared, draft: { model: demo, placement: 'shared' } })
  await using other = await load(demo, shared)
  const options = { temperature: 0, maxTokens: 24 } as const
  const [drafted, plain, without] = await Promise.all([
    model.generate(prompt, { ...options, speculation: { method: 'draft', tokens: 5 } }).result,
    other.generate(prompt, options).result,
    model.generate(prompt, { ...options, speculation: { method: 'off' } }).result,
  ])
  expect(drafted.tokens).toEqual(without.tokens)
  expect(plain.tokens).toEqual(without.tokens)
  expect(drafted.usage.acceptedTokens).toBeGreaterThan(15)
})

describe('plans with a draft model', () => {
  const gpu = { memory: '24GiB', link: '25GB' }

  test('the draft model takes its own, and its passes are counted', async () => {
    expect((await plan('millrace-demo', { device: 'cpu' })).draft).toBeUndefined()
    const asked = { gpu, acceptance: 0.8, placement: 'streamed' } as const
    const free = (await plan('llama3-8b', asked)).prediction.drafted!
    const made = await plan('llama3-8b', { ...asked, draft: 'tinyllama-1.1b' })
    const { draft, prediction } = made
    expect(draft!.units).toHaveLength(2 * 22 + 1)
    expect(draft!.vramBytes).toBeGreaterThan(500e6)
    expect(made.vramBytes + draft!.vramBytes).toBeLessThan(24 * 2 ** 30)
    // Of n-grams the same rows cost nothing beside.
    expect(prediction.drafted!.tokensPerSecond).toBeLessThan(free.tokensPerSecond)
    expect(prediction.drafted!.tokensPerSecond).toBeGreaterThan(3 * prediction.single.tokensPerSecond)
    const whole = await plan('llama3-8b', { gpu, draft: { model: 'tinyllama-1.1b', placement: 'shared' } })
    expect(whole.draft!.units.every(({ home }) => home === 'shared')).toBe(true)
  })

  test('what cannot be beside it is refused', async () => {
    const refused = { code: 'INVALID_ARGUMENT' }
    const elsewhere = { model: 'tinyllama-1.1b', device: 'cpu', placement: 'shared' } as const
    await expect(plan('llama3-8b', { gpu, draft: elsewhere })).rejects.toMatchObject(refused)
    await expect(plan('llama3-8b', { gpu, draft: 'no-such-shape' })).rejects.toMatchObject(refused)
    // No drafts by layers that keep a state: as load() has it.
    await expect(plan('llama3-8b', { gpu, draft: 'qwen3.5-27b' })).rejects.toMatchObject(refused)
    await expect(plan(demo, { device: 'cpu', draft: join(MODELS, 'nowhere') })).rejects.toBeInstanceOf(Error)
  })
})

/** Tokens guessed ahead change how many passes an answer takes, and nothing of it. */
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type GenerateOptions, load, type Model, type Speculation } from '../../lib/index.ts'
import { MODELS } from '../models.ts'

const NGRAM: Speculation = { method: 'ngram' }
const OFF: Speculation = { method: 'off' }
const again = 'Tom ran. Tom ran. Tom ran. Tom ran. Tom ran. Tom'
let model: Model
beforeAll(async () => {
  model = await load(join(MODELS, 'demo'), { device: 'cpu', threads: 1, speculation: OFF })
})
afterAll(() => model.close())

async function answer(prompt: string, options: GenerateOptions) {
  const { steps } = model.stats
  const { timings: _, usage, ...rest } = await model.generate(prompt, { seed: 3, maxTokens: 60, ...options }).result
  return { rest, usage, passes: model.stats.steps - steps }
}

const kinds: [string, GenerateOptions][] = [
  ['greedy', { temperature: 0, logprobs: true, topLogprobs: 4 }],
  ['sampled', { temperature: 1, topP: 0.95, logprobs: true }],
  ['with penalties', { temperature: 0, repetitionPenalty: 1.2, presencePenalty: 0.3, frequencyPenalty: 0.2 }],
  ['until a stop text', { temperature: 0, stop: ['ran. T', 'Lily'] }],
  ['with least tokens', { temperature: 0.6, minTokens: 30 }],
  ['of a regular expression', { constraint: { regex: '( ran\\. Tom){12}' } }],
  ['of JSON', { temperature: 1, constraint: { schema: { type: 'array', items: { const: 'again' }, minItems: 9 } } }],
]

describe('the same answer', () => {
  test.each(kinds)('%s', async (_, options) => {
    const without = await answer(again, options)
    expect(without.usage.draftedTokens).toBeUndefined()
    for (const speculation of [NGRAM, { method: 'ngram', tokens: 1 }, { method: 'auto' }] as const) {
      const drafted = await answer(again, { ...options, speculation })
      expect(drafted.rest).toEqual(without.rest)
      expect(drafted.passes).toBeLessThanOrEqual(without.passes)
    }
  })

  test('of a crowd', async () => {
    const prompts = Array.from({ length: 24 }, (_, i) => `${again} ${'and Tom '.repeat(i % 5)}saw`)
    const ask = (speculation: Speculation) =>
      Promise.all(prompts.map((prompt, seed) => model.generate(prompt, { seed, maxTokens: 40, speculation }).result))
    const without = await ask(OFF)
    const drafted = await ask(NGRAM)
    expect(drafted.map(({ tokens }) => tokens)).toEqual(without.map(({ tokens }) => tokens))
    expect(drafted.some(({ usage }) => usage.acceptedTokens! > 0)).toBe(true)
  })
})

test('what repeats itself takes few passes', async () => {
  const options: GenerateOptions = { constraint: { regex: '( one two three four){10}' }, maxTokens: 200 }
  const without = await answer('Count:', options)
  const before = model.stats.speculation
  const drafted = await answer('Count:', { ...options, speculation: NGRAM })
  expect(drafted.rest).toEqual(without.rest)
  expect(drafted.passes).toBeLessThan(without.passes / 3)
  const { draftedTokens, acceptedTokens, completionTokens } = drafted.usage
  expect(acceptedTokens).toBeGreaterThan(0.6 * completionTokens)
  expect(model.stats.speculation).toMatchObject({
    draftedTokens: before.draftedTokens + draftedTokens!,
    acceptedTokens: before.acceptedTokens + acceptedTokens!,
  })
})

test('what the load says holds for requests that say nothing', async () => {
  const options = { device: 'cpu', threads: 1, speculation: { method: 'ngram', tokens: 4 } } as const
  await using asked = await load(join(MODELS, 'demo'), options)
  const constraint = { regex: '( one two){20}' }
  const { usage } = await asked.generate('Count:', { constraint }).result
  expect(usage.acceptedTokens).toBeGreaterThan(0)
  const silent = await asked.generate('Count:', { constraint, speculation: OFF }).result
  expect(silent.usage).not.toHaveProperty('draftedTokens')
})

test.each([
  [{ method: 'medusa' }, "'auto', 'ngram', 'draft' or 'off'"],
  [{ tokens: 0 }, 'speculation.tokens'],
  [{ tokens: 64 }, 'speculation.tokens'],
  ['ngram', 'an object'],
  [{ draft: 4 }, 'draft'],
])('%j is refused', (speculation, word) => {
  const ask = () => model.generate('Once', { speculation: speculation as Speculation })
  expect(ask).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(word) }))
})

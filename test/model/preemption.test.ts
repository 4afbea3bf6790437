/** More requests than the KV cache holds: what moves to system RAM, what is computed again, and that neither shows. */
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { addon } from '../../lib/binding.ts'
import { type GenerateOptions, load, type Model } from '../../lib/index.ts'
import { MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
const contextLength = 128
const prompts = ['Once upon a time', 'The fox', 'One day a bear', 'There was a boat']
const options: GenerateOptions = { maxTokens: 100, ignoreEos: true, logprobs: true }

const answer = async (model: Model, prompt: string) => {
  const { tokens, logprobs } = await model.generate(prompt, options).result
  return { tokens, logprobs }
}

let alone: Awaited<ReturnType<typeof answer>>[]
beforeAll(async () => {
  await using model = await load(demo, { contextLength, device: 'cpu', cache: false })
  alone = []
  for (const prompt of prompts) alone.push(await answer(model, prompt))
})

test.each([
  [0, 'all'],
  ['160KiB', 'some'],
  ['16MiB', 'none'],
] as const)('with kvSwap %s, %s is computed again, and the answers are the same', async (kvSwap, again) => {
  await using model = await load(demo, { contextLength, kvTokens: 160, kvSwap, device: 'cpu', cache: false })
  const { plan } = model
  let most = 0
  const watch = setInterval(() => {
    most = Math.max(most, model.memory.savedKvBytes)
  }, 1)
  const answers = await Promise.all(prompts.map((prompt) => answer(model, prompt)))
  clearInterval(watch)
  expect(answers).toEqual(alone)
  const { sequences, kv } = model.stats
  expect(sequences.preemptions).toBeGreaterThan(0)
  if (again === 'all') expect(sequences.recomputations).toBe(sequences.preemptions)
  if (again === 'some') expect(sequences.recomputations).toBeLessThanOrEqual(sequences.preemptions)
  if (again === 'none') expect(sequences.recomputations).toBe(0)
  expect(plan.kvSwapBytes % (plan.kvBytesPerToken * 16)).toBe(0)
  expect(model.memory).toMatchObject({ kvSwapBytes: plan.kvSwapBytes, savedKvBytes: 0 })
  expect(kv).toMatchObject({ swapBytes: plan.kvSwapBytes, savedBytes: 0 })
  expect(most).toBeLessThanOrEqual(plan.kvSwapBytes)
})

test('a request that forbids every token fails alone, with what to do about it', async () => {
  await using model = await load(demo, { contextLength, device: 'cpu', cache: false })
  const all = new Map(Array.from({ length: model.spec.vocab }, (_, id) => [id, Number.NEGATIVE_INFINITY]))
  const [mine, ...others] = await Promise.allSettled([
    (async () => model.generate(prompts[0]!, { ...options, logitBias: all, temperature: 0.8, topK: 5 }).result)(),
    answer(model, prompts[0]!),
    answer(model, prompts[1]!),
  ])
  expect(mine).toMatchObject({ status: 'rejected', reason: { code: 'INVALID_ARGUMENT' } })
  expect(others).toMatchObject([
    { status: 'fulfilled', value: alone[0] },
    { status: 'fulfilled', value: alone[1] },
  ])
})

test('the native side names the options of sampling that it reads', () => {
  const names = addon().samplingOptions()
  expect(new Set(names).size).toBe(names.length)
  expect(names).toEqual(expect.arrayContaining(['temperature', 'topK', 'topP', 'minP', 'typicalP']))
})

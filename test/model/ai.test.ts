/** The AI SDK over a model that computes. */
import { join } from 'node:path'
import { generateText, streamText } from 'ai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { millrace } from '../../lib/ai/index.ts'
import { load, type Model } from '../../lib/index.ts'
import { collect } from '../collect.ts'
import { MODELS } from '../models.ts'

let model: Model
beforeAll(async () => {
  model = await load(join(MODELS, 'demo'))
})
afterAll(() => model.close())

const PROMPT = 'Once upon a time'
const messages = [{ role: 'user', content: PROMPT }]

test('answers have the text of chat() with the same options', async () => {
  const options = { temperature: 0.8, topK: 20, seed: 3 }
  const wanted = await model.chat(messages, { ...options, maxTokens: 24 }).result
  const { text, usage, finishReason } = await generateText({
    model: millrace(model),
    prompt: PROMPT,
    maxOutputTokens: 24,
    ...options,
  })
  expect(text).toBe(wanted.text)
  expect(finishReason).toBe(wanted.finishReason)
  expect(usage).toMatchObject({
    inputTokens: wanted.usage.promptTokens,
    outputTokens: wanted.usage.completionTokens,
  })
  const { textStream } = streamText({ model: millrace(model), prompt: PROMPT, maxOutputTokens: 24, ...options })
  expect((await collect(textStream)).join('')).toBe(wanted.text)
})

test('an abort frees the engine', async () => {
  const controller = new AbortController()
  const { textStream } = streamText({
    model: millrace(model),
    prompt: PROMPT,
    abortSignal: controller.signal,
    providerOptions: { millrace: { ignoreEos: true } },
  })
  let parts = 0
  for await (const _ of textStream) if (++parts === 2) controller.abort()
  await expect.poll(() => model.stats.sequences.running).toBe(0)
  expect(model.stats.kv.blocksUsed).toBeLessThan(model.stats.kv.blocksTotal)
})

/**
 * The official clients as they are, on the real engine: structured output, errors and aborts. Plain and streamed answers are in
 * openai_client.test.ts and api.test.ts, tools and reasoning in tools.test.ts, embeddings in embeddings.test.ts.
 */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import Anthropic from '@anthropic-ai/sdk'
import { generateText, jsonSchema, Output, streamText } from 'ai'
import OpenAI from 'openai'
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { load, type Model } from '../../../lib/index.ts'
import type { Server } from '../../../lib/server/index.ts'
import { DEMO, start } from './server.ts'

const KEY = 'a-key-of-the-test'
let server: Server
let model: Model
beforeAll(async () => {
  model = await load(DEMO, { device: 'cpu', threads: 1 })
  server = await start({ models: { demo: model }, apiKey: KEY })
})
afterAll(() => model.close())

const openai = (apiKey = KEY) => new OpenAI({ baseURL: `${server.url}/v1`, apiKey, maxRetries: 0 })
const anthropic = (apiKey = KEY) => new Anthropic({ baseURL: server.url, apiKey, maxRetries: 0 })
const sdk = (apiKey = KEY, name = 'demo') =>
  createOpenAICompatible({
    name: 'millrace',
    baseURL: `${server.url}/v1`,
    apiKey,
    supportsStructuredOutputs: true,
  })(name)

const messages = [{ role: 'user' as const, content: 'Tell me of a person.' }]
const person = z.object({ name: z.string().max(12), age: z.int().min(0).max(120), kind: z.enum(['otter', 'fox']) })
const LONG = { max_tokens: 900, ignore_eos: true }

/** Nothing of a request is left with the engine. */
const expectFree = () => expect.poll(() => model.stats.sequences.running, { timeout: 10_000 }).toBe(0)

describe('JSON of a schema', () => {
  test('openai: chats, their streams and responses', async () => {
    const format = { response_format: zodResponseFormat(person, 'person'), max_tokens: 200 }
    const parsed = await openai().chat.completions.parse({ model: 'demo', messages, ...format })
    expect(person.parse(parsed.choices[0]!.message.parsed)).toEqual(parsed.choices[0]!.message.parsed)
    const streamed = await openai()
      .chat.completions.stream({ model: 'demo', messages, ...format })
      .finalChatCompletion()
    expect(streamed.choices[0]!.message.parsed).toEqual(parsed.choices[0]!.message.parsed)
    const response = await openai().responses.parse({
      model: 'demo',
      input: messages,
      max_output_tokens: 200,
      text: { format: zodTextFormat(person, 'person') },
    })
    expect(response.output_parsed).toEqual(parsed.choices[0]!.message.parsed)
    const any = await openai().chat.completions.create({
      model: 'demo',
      messages,
      max_tokens: 200,
      response_format: { type: 'json_object' },
    })
    expect(() => JSON.parse(any.choices[0]!.message.content!)).not.toThrow()
  })

  test('the AI SDK, whole and streamed', async () => {
    const schema = jsonSchema<z.output<typeof person>>(z.toJSONSchema(person) as never)
    const output = Output.object({ schema })
    const request = { model: sdk(), prompt: 'Tell me of a person.', maxOutputTokens: 200 }
    const whole = await generateText({ ...request, output })
    expect(person.parse(whole.output)).toEqual(whole.output)
    const parts: unknown[] = []
    const stream = streamText({ ...request, output })
    for await (const part of stream.partialOutputStream) parts.push(part)
    expect(parts.at(-1)).toEqual(whole.output)
  })
})

describe('errors', () => {
  test('openai', async () => {
    const ask = (client: OpenAI, more: object = {}) =>
      client.chat.completions.create({ model: 'demo', messages, ...more } as never)
    await expect(ask(openai('wrong'))).rejects.toBeInstanceOf(OpenAI.AuthenticationError)
    await expect(ask(openai(), { model: 'none' })).rejects.toMatchObject({ status: 404, code: 'model_not_found' })
    await expect(ask(openai(), { temperature: -1 })).rejects.toMatchObject({ status: 400, param: 'temperature' })
    await expect(ask(openai(), { deadline_ms: 1, ...LONG })).rejects.toMatchObject({ status: 504 })
    // After the stream has begun it is an event, which the client throws.
    const late = await openai().chat.completions.create({
      // More tokens than any machine has made by then.
      ...{ model: 'demo', messages, stream: true, n: 32, deadline_ms: 700, ...LONG },
    } as OpenAI.ChatCompletionCreateParamsStreaming)
    const read = async () => {
      for await (const _ of late) {
      }
    }
    await expect(read()).rejects.toThrow(/deadline/i)
    await expectFree()
  })

  test('the AI SDK', async () => {
    const ask = (model: ReturnType<typeof sdk>) => generateText({ model, prompt: 'a', maxRetries: 0 })
    await expect(ask(sdk('wrong'))).rejects.toMatchObject({ statusCode: 401, isRetryable: false })
    await expect(ask(sdk(KEY, 'none'))).rejects.toMatchObject({ statusCode: 404 })
  })

  test('anthropic', async () => {
    const ask = (client: Anthropic, more: object = {}) =>
      client.messages.create({ model: 'demo', max_tokens: 8, messages, ...more } as never)
    await expect(ask(anthropic('wrong'))).rejects.toBeInstanceOf(Anthropic.AuthenticationError)
    await expect(ask(anthropic(), { model: 'none' })).rejects.toBeInstanceOf(Anthropic.NotFoundError)
    await expect(ask(anthropic(), { max_tokens: -1 })).rejects.toBeInstanceOf(Anthropic.BadRequestError)
  })
})

describe('aborts free the model', () => {
  test('openai, whole and streamed', async () => {
    const controller = new AbortController()
    const whole = openai().chat.completions.create({ model: 'demo', messages, ...LONG } as never, {
      signal: controller.signal,
    })
    whole.catch(() => {})
    await expect.poll(() => model.stats.sequences.running, { timeout: 10_000 }).toBe(1)
    controller.abort()
    await expect(whole).rejects.toBeInstanceOf(OpenAI.APIUserAbortError)
    await expectFree()
    const stream = await openai().chat.completions.create({
      ...{ model: 'demo', messages, stream: true, ...LONG },
    } as OpenAI.ChatCompletionCreateParamsStreaming)
    for await (const _ of stream) break
    await expectFree()
  })

  test('the AI SDK', async () => {
    const controller = new AbortController()
    const providerOptions = { millrace: { ignore_eos: true } }
    const stream = streamText({
      model: sdk(),
      prompt: 'Tell me a story.',
      maxOutputTokens: 900,
      providerOptions,
      abortSignal: controller.signal,
    })
    for await (const part of stream.fullStream) if (part.type === 'text-delta') controller.abort()
    await expectFree()
  })

  test('anthropic', async () => {
    const stream = anthropic().messages.stream({ model: 'demo', messages, ...LONG } as never)
    stream.on('text', () => stream.abort())
    await expect(stream.finalMessage()).rejects.toBeInstanceOf(Anthropic.APIUserAbortError)
    await expectFree()
  })
})

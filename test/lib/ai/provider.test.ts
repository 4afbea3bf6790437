/** The AI SDK's own functions over chats, the engine's part being played by the test. */
import { generateText, jsonSchema, type LanguageModel, stepCountIs, streamText, tool } from 'ai'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { millrace } from '../../../lib/ai/index.ts'
import { load, type Model } from '../../../lib/index.ts'
import type { FakeAddon, FakeModel } from '../model/fake_addon.ts'
import { folderOf, QWEN } from '../model/qwen.ts'

const fake = vi.hoisted(() => ({ addon: undefined as unknown as FakeAddon }))
vi.mock('../../../lib/binding.ts', async (original) => {
  const { FakeAddon } = await import('../model/fake_addon.ts')
  fake.addon = new FakeAddon()
  return { ...(await original<object>()), addon: () => fake.addon }
})

let model: Model
let native: FakeModel
let language: LanguageModel
beforeEach(async () => {
  model = await load(await folderOf(QWEN))
  native = fake.addon.models.at(-1)!
  language = millrace(model)
})
afterEach(async () => {
  const closed = model.close()
  native.finishClose()
  await closed
})

/** The engine's answers to the next requests, one text each. Gives what each prompt was. */
async function play(...answers: string[]): Promise<string[]> {
  const prompts: string[] = []
  for (const answer of answers) {
    const before = native.submitted.length
    await vi.waitFor(() => expect(native.submitted).toHaveLength(before + 1), { timeout: 20_000 })
    prompts.push(model.tokenizer.decode(native.submitted.at(-1)!.request.tokens))
    const tokens = [...(await model.tokenizer.encode(answer, { specialTokens: false }))]
    for (let at = 0; at < tokens.length; at += 3) {
      native.answer(tokens.slice(at, at + 3))
      await new Promise((resolve) => setImmediate(resolve))
    }
    native.answer([], { finish: 'stop' })
  }
  return prompts
}

const call = (place: string) => `<tool_call>\n{"name": "get_weather", "arguments": {"place": "${place}"}}\n</tool_call>`

const placeSchema = jsonSchema<{ place: string }>({
  type: 'object',
  properties: { place: { type: 'string' } },
  required: ['place'],
})
const tools = {
  get_weather: tool({
    description: 'The weather of a place',
    inputSchema: placeSchema,
    execute: async ({ place }) => ({ degrees: place.length }),
  }),
}

describe('generateText', () => {
  test('text, reasoning, usage and figures', async () => {
    const answered = generateText({
      model: language,
      system: 'Be brief.',
      prompt: 'How is it?',
      maxOutputTokens: 40,
      temperature: 0.5,
      topP: 0.9,
      topK: 7,
      presencePenalty: 0.25,
      frequencyPenalty: 0.5,
      seed: 11,
      providerOptions: { millrace: { minP: 0.125, variables: { enable_thinking: true }, logprobs: false } },
    })
    const [prompt] = await play('<think>\nHm.\n</think>\n\nFine.')
    const { text, reasoningText, usage, finishReason, providerMetadata, warnings, response } = await answered
    expect({ text, reasoningText, finishReason, warnings }).toEqual({
      text: 'Fine.',
      reasoningText: 'Hm.',
      finishReason: 'stop',
      warnings: [],
    })
    const { request } = native.submitted.at(-1)!
    expect(prompt).toContain('Be brief.')
    expect(prompt).toContain('How is it?')
    expect(request).toMatchObject({
      ...{ maxTokens: 40, temperature: 0.5, topK: 7, presencePenalty: 0.25, frequencyPenalty: 0.5, seed: 11 },
      ...{ topP: 0.9, minP: 0.125 },
    })
    expect(usage.inputTokens).toBe(request.tokens.length)
    expect(usage.outputTokens).toBe(
      (await model.tokenizer.encode('<think>\nHm.\n</think>\n\nFine.', { specialTokens: false })).length,
    )
    expect(providerMetadata).toEqual({
      millrace: { seed: 11, timings: expect.objectContaining({ totalMs: expect.any(Number) }) },
    })
    expect(response.modelId).toBe(model.path.split('/').at(-1))
  })

  test('tools run, and their results make the next steps', async () => {
    const answered = generateText({ model: language, tools, prompt: 'Weather?', stopWhen: stepCountIs(4) })
    const prompts = await play(`Let me look.\n${call('Oslo')}\n${call('Rome!')}`, call('Bern'), 'Warm.')
    const { text, steps, totalUsage } = await answered
    expect(text).toBe('Warm.')
    expect(steps.map(({ finishReason }) => finishReason)).toEqual(['tool-calls', 'tool-calls', 'stop'])
    expect(steps[0]!.content.map(({ type }) => type)).toEqual([
      'text',
      'tool-call',
      'tool-call',
      'tool-result',
      'tool-result',
    ])
    expect(steps[0]!.toolCalls.map(({ input }) => input)).toEqual([{ place: 'Oslo' }, { place: 'Rome!' }])
    expect(prompts[0]).toContain('get_weather')
    // Special tokens show nothing in a decoded prompt.
    expect(prompts[1]).toContain('Let me look.\n{"name": "get_weather", "arguments": {"place": "Oslo"}}\n')
    expect(prompts[1]).toContain('<tool_response>\n{"degrees":4}\n</tool_response>')
    expect(prompts[1]).toContain('<tool_response>\n{"degrees":5}\n</tool_response>')
    expect(prompts[2]).toContain('"place": "Bern"')
    expect(totalUsage.inputTokens).toBe(native.submitted.reduce((sum, { request }) => sum + request.tokens.length, 0))
  })

  test('toolChoice none shows the model no tools', async () => {
    const answered = generateText({ model: language, tools, toolChoice: 'none', prompt: 'Weather?' })
    const [prompt] = await play('No.')
    expect((await answered).text).toBe('No.')
    expect(prompt).not.toContain('get_weather')
  })

  test('rejects with the errors of chat()', async () => {
    const asked = (more: object) => generateText({ model: language, prompt: 'a', maxRetries: 0, ...more })
    await expect(asked({ temperature: -1 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(asked({ providerOptions: { millrace: { minp: 1 } } })).rejects.toThrow(/minp/)
    await expect(asked({ prompt: 'word '.repeat(9000) })).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
    const tool = { type: 'function' as const, name: 'look', inputSchema: { type: 'object' as const } }
    const call = (options: object) =>
      millrace(model).doGenerate({ prompt: [{ role: 'user', content: [{ type: 'text', text: 'a' }] }], ...options })
    await expect(call({ toolChoice: { type: 'required' } })).rejects.toMatchObject({
      ...{ code: 'INVALID_ARGUMENT', message: 'toolChoice wants a call, and there are no tools' },
    })
    await expect(call({ tools: [tool, { ...tool, name: 'other' }, tool] })).rejects.toMatchObject({
      ...{ code: 'INVALID_ARGUMENT', message: expect.stringContaining('a name of their own') },
    })
    const image = { type: 'image' as const, image: new Uint8Array([137, 80, 78, 71]), mediaType: 'image/png' }
    const messages = [{ role: 'user' as const, content: [image] }]
    await expect(asked({ prompt: undefined, messages })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  test('an abort cancels the request', async () => {
    const controller = new AbortController()
    const answered = generateText({ model: language, prompt: 'a', abortSignal: controller.signal })
    const rejected = expect(answered).rejects.toMatchObject({ name: 'AbortError' })
    await vi.waitFor(() => expect(native.submitted).toHaveLength(1), { timeout: 20_000 })
    controller.abort()
    await rejected
    expect(native.cancelled).toHaveLength(1)
  })

  test('the end that maxOutputTokens makes, and stop sequences', async () => {
    const answered = generateText({ model: language, prompt: 'a', maxOutputTokens: 2 })
    await vi.waitFor(() => expect(native.submitted).toHaveLength(1), { timeout: 20_000 })
    native.answer([...(await model.tokenizer.encode('a b'))].slice(0, 2), { finish: 'length' })
    expect((await answered).finishReason).toBe('length')
    const stopped = generateText({ model: language, prompt: 'a', stopSequences: ['END'] })
    await play('It is so END of it')
    expect(await stopped).toMatchObject({ text: 'It is so ', finishReason: 'stop' })
  })
})

describe('streamText', () => {
  test('parts in their order', async () => {
    const { fullStream, text, reasoningText, toolCalls, finishReason, usage } = streamText({
      model: language,
      tools: { get_weather: tool({ description: 'The weather', inputSchema: placeSchema }) },
      prompt: 'Weather?',
    })
    const parts: { type: string; text?: string; delta?: string }[] = []
    const reading = (async () => {
      for await (const part of fullStream) parts.push(part)
    })()
    await play(`<think>\nI must look.\n</think>\n\nLet me look.\n${call('Oslo')}\n${call('Rome')}`)
    await reading
    const kinds = parts.map(({ type }) => type).filter((type, at, all) => type !== all[at - 1])
    expect(kinds).toEqual([
      ...['start', 'start-step', 'reasoning-start', 'reasoning-delta', 'reasoning-end'],
      ...['text-start', 'text-delta', 'text-end'],
      ...['tool-input-start', 'tool-input-delta', 'tool-input-end', 'tool-call'],
      ...['tool-input-start', 'tool-input-delta', 'tool-input-end', 'tool-call'],
      ...['finish-step', 'finish'],
    ])
    // They come while the answer is written.
    expect(parts.filter(({ type }) => type === 'text-delta').length).toBeGreaterThan(1)
    expect(parts.filter(({ type }) => type === 'tool-input-delta').length).toBeGreaterThan(3)
    expect(await text).toBe('Let me look.')
    expect(await reasoningText).toBe('I must look.')
    expect((await toolCalls).map(({ input }) => input)).toEqual([{ place: 'Oslo' }, { place: 'Rome' }])
    expect(await finishReason).toBe('tool-calls')
    expect((await usage).totalTokens).toBeGreaterThan(0)
  })

  test('tools run between steps', async () => {
    const { textStream, steps } = streamText({ model: language, tools, prompt: 'Weather?', stopWhen: stepCountIs(3) })
    let text = ''
    const reading = (async () => {
      for await (const part of textStream) text += part
    })()
    const [, second] = await play(call('Oslo'), 'Warm.')
    await reading
    expect(text).toBe('Warm.')
    expect(second).toContain('{"degrees":4}')
    expect(await steps).toHaveLength(2)
  })

  test('an error comes as a part, with its code', async () => {
    const told: unknown[] = []
    const { fullStream } = streamText({
      model: language,
      prompt: 'word '.repeat(9000),
      onError: ({ error }) => {
        told.push(error)
      },
    })
    const parts = []
    for await (const part of fullStream) parts.push(part)
    expect(parts.find(({ type }) => type === 'error')).toMatchObject({ error: { code: 'CONTEXT_OVERFLOW' } })
    expect(told).toEqual([expect.objectContaining({ code: 'CONTEXT_OVERFLOW' })])
  })

  test('an abort ends the stream and cancels the request', async () => {
    const controller = new AbortController()
    const { fullStream } = streamText({ model: language, prompt: 'a', abortSignal: controller.signal })
    const types: string[] = []
    const reading = (async () => {
      for await (const { type } of fullStream) types.push(type)
    })()
    await vi.waitFor(() => expect(native.submitted).toHaveLength(1), { timeout: 20_000 })
    native.answer([...(await model.tokenizer.encode('so it is'))].slice(0, 3))
    await vi.waitFor(() => expect(types).toContain('text-delta'), { timeout: 20_000 })
    controller.abort()
    await reading
    expect(types.at(-1)).toBe('abort')
    expect(types).not.toContain('error')
    expect(native.cancelled).toHaveLength(1)
  })

  test('a stream that its reader leaves cancels the request', async () => {
    const { stream } = await millrace(model).doStream({
      prompt: [{ role: 'user', content: [{ type: 'text', text: 'a' }] }],
    })
    const reader = stream.getReader()
    expect((await reader.read()).value).toEqual({ type: 'stream-start', warnings: [] })
    await vi.waitFor(() => expect(native.submitted).toHaveLength(1), { timeout: 20_000 })
    await reader.cancel()
    expect(native.cancelled).toHaveLength(1)
  })
})

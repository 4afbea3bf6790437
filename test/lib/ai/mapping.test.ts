/** What the AI SDK says as what chat() takes, by a model that only notes what it is asked. */
import type { LanguageModelV3CallOptions, LanguageModelV3Prompt } from '@ai-sdk/provider'
import { describe, expect, test } from 'vitest'
import { type ChatModel, type MillraceProviderOptions, millrace } from '../../../lib/ai/index.ts'
import type { ChatMessage, ChatOptions, ChatPart, FinishReason, GenerationChunk } from '../../../lib/index.ts'
import { collect } from '../../collect.ts'

const TIMINGS = { queueMs: 1, firstTokenMs: 2, totalMs: 3 }

class NotingModel implements ChatModel {
  readonly path = '/models/noting'
  asked: { messages: readonly ChatMessage[]; options: ChatOptions | undefined }[] = []
  readonly #parts: ChatPart<FinishReason>[]
  readonly #more: object

  constructor(parts: ChatPart<FinishReason>[] = [], more: object = {}) {
    this.#parts = parts
    this.#more = more
  }

  chat(messages: readonly ChatMessage[], options?: ChatOptions) {
    this.asked.push({ messages, options })
    const parts = this.#parts
    async function* chunks(): AsyncGenerator<GenerationChunk> {
      for (const part of parts) yield { text: part.type === 'text' ? part.text : '', parts: [part], tokens: [1] }
    }
    const result = Promise.resolve({
      ...{ text: '', tokens: [], finishReason: 'stop' as const, timings: TIMINGS, seed: 5 },
      usage: { promptTokens: 3, completionTokens: 4 },
      ...this.#more,
    })
    return Object.assign(chunks(), { result, cancel() {} })
  }
}

const PROMPT: LanguageModelV3Prompt = [{ role: 'user', content: [{ type: 'text', text: 'Hi' }] }]

async function asked(options: Partial<LanguageModelV3CallOptions> = {}) {
  const model = new NotingModel()
  const { warnings } = await millrace(model).doGenerate({ prompt: PROMPT, ...options })
  return { ...model.asked[0]!, warnings }
}

const parameters = { type: 'object' as const, properties: { a: { type: 'string' as const } } }
const TOOL = { type: 'function' as const, name: 'look', description: 'Looks', inputSchema: parameters }

describe('options', () => {
  test('what is not given is not passed on, so that the model’s own defaults rule', async () => {
    expect((await asked()).options).toEqual({})
  })

  test('each by chat()’s name', async () => {
    const { signal } = new AbortController()
    const { options } = await asked({
      ...{ maxOutputTokens: 1, temperature: 0, topP: 0.5, topK: 2, presencePenalty: 3, frequencyPenalty: 4 },
      ...{ stopSequences: ['x'], seed: 6, abortSignal: signal, tools: [TOOL] },
    })
    expect(options).toEqual({
      ...{ maxTokens: 1, temperature: 0, topP: 0.5, topK: 2, presencePenalty: 3, frequencyPenalty: 4 },
      ...{ stop: ['x'], seed: 6, signal },
      tools: [{ type: 'function', function: { name: 'look', description: 'Looks', parameters } }],
    })
  })

  test('those of chat() alone, and where both name one the SDK’s rules', async () => {
    const own = { minP: 0.5, variables: { enable_thinking: false } } satisfies MillraceProviderOptions
    const { options } = await asked({ temperature: 1, providerOptions: { millrace: { ...own, temperature: 2 } } })
    expect(options).toEqual({ ...own, temperature: 1 })
  })

  test.each([
    [{ type: 'auto' as const }, 'auto'],
    [{ type: 'none' as const }, 'none'],
    [{ type: 'required' as const }, 'required'],
    [{ type: 'tool' as const, toolName: 'look' }, { name: 'look' }],
  ])('toolChoice %o', async (toolChoice, wanted) => {
    expect((await asked({ tools: [TOOL], toolChoice })).options).toMatchObject({ toolChoice: wanted })
    const isCall = toolChoice.type === 'required' || toolChoice.type === 'tool'
    expect((await asked({ toolChoice })).options, 'without tools').toEqual(isCall ? { toolChoice: wanted } : {})
  })

  test.each([
    [{ type: 'text' as const }, {}],
    [{ type: 'json' as const }, { constraint: { json: true } }],
    [{ type: 'json' as const, schema: parameters, name: 'a' }, { constraint: { schema: parameters } }],
  ])('responseFormat %o', async (responseFormat, wanted) => {
    expect((await asked({ responseFormat })).options).toEqual(wanted)
  })

  test('what the model has no use for is warned of', async () => {
    const { warnings, options } = await asked({
      tools: [
        { type: 'provider', id: 'other.search', name: 'search', args: {} },
        { ...TOOL, inputExamples: [{ input: { a: 'b' } }] },
      ],
    })
    expect(warnings).toEqual([
      expect.objectContaining({ type: 'unsupported', feature: 'tool other.search' }),
      expect.objectContaining({ type: 'unsupported', feature: 'inputExamples of tool look' }),
    ])
    expect(options?.tools).toHaveLength(1)
  })
})

describe('messages', () => {
  test('of every role', async () => {
    const { messages, warnings } = await asked({
      prompt: [
        { role: 'system', content: 'S' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'a' },
            { type: 'file', mediaType: 'text/plain', data: new TextEncoder().encode('ü') },
            { type: 'file', mediaType: 'text/markdown', data: 'w7w=' },
          ],
        },
        {
          role: 'assistant',
          content: [
            { type: 'reasoning', text: 'Hm' },
            { type: 'text', text: 'b' },
            { type: 'tool-call', toolCallId: '1', toolName: 'look', input: { a: 'ü' } },
            { type: 'tool-call', toolCallId: '2', toolName: 'look', input: '{"a": ' },
            { type: 'tool-call', toolCallId: '3', toolName: 'search', input: {}, providerExecuted: true },
          ],
        },
        {
          role: 'tool',
          content: [
            { type: 'tool-result', toolCallId: '1', toolName: 'look', output: { type: 'json', value: { b: [1] } } },
            { type: 'tool-approval-response', approvalId: 'x', approved: true },
            { type: 'tool-result', toolCallId: '2', toolName: 'look', output: { type: 'error-text', value: 'no' } },
          ],
        },
        { role: 'assistant', content: [{ type: 'text', text: 'c' }] },
      ],
    })
    expect(messages).toEqual([
      { role: 'system', content: 'S' },
      { role: 'user', content: ['a', 'ü', 'ü'].map((text) => ({ type: 'text', text })) },
      {
        role: 'assistant',
        content: 'b',
        reasoning: 'Hm',
        tool_calls: [
          { id: '1', type: 'function', function: { name: 'look', arguments: '{"a":"ü"}' } },
          { id: '2', type: 'function', function: { name: 'look', arguments: '{"a": ' } },
        ],
      },
      { role: 'tool', tool_call_id: '1', name: 'look', content: '{"b":[1]}' },
      { role: 'tool', tool_call_id: '2', name: 'look', content: 'no' },
      { role: 'assistant', content: 'c' },
    ])
    expect(warnings).toEqual([expect.objectContaining({ type: 'unsupported', feature: 'tool search' })])
  })

  test.each([
    [{ type: 'text' as const, value: 'a' }, 'a'],
    [{ type: 'error-json' as const, value: [1] }, '[1]'],
    [{ type: 'execution-denied' as const, reason: 'Not now' }, 'Not now'],
    [{ type: 'json' as const, value: undefined as never }, 'null'],
    [{ type: 'execution-denied' as const }, 'The user did not allow this call.'],
    [
      {
        type: 'content' as const,
        value: [
          { type: 'text' as const, text: 'a' },
          { type: 'text' as const, text: 'b' },
        ],
      },
      'a\nb',
    ],
  ])('the result %o', async (output, wanted) => {
    const result = { type: 'tool-result' as const, toolCallId: '1', toolName: 'look', output }
    const { messages } = await asked({ prompt: [...PROMPT, { role: 'tool', content: [result] }] })
    expect(messages.at(-1)).toMatchObject({ content: wanted })
  })

  test.each(['image/png', 'application/pdf', 'audio/wav'])('%s is refused by name', async (mediaType) => {
    const content = [{ type: 'file' as const, mediaType, data: new Uint8Array(4) }]
    await expect(asked({ prompt: [{ role: 'user', content }] })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining(mediaType),
    })
  })
})

describe('answers', () => {
  const PARTS: ChatPart<FinishReason>[] = [
    { type: 'text', text: 'a' },
    { type: 'reasoning', text: 'b' },
    { type: 'text', text: 'c' },
    { type: 'text', text: 'd' },
    { type: 'call', index: 0, id: 'x', name: 'look' },
    { type: 'call', index: 1, id: 'y', name: 'look' },
    { type: 'arguments', index: 1, text: '{"a":' },
    { type: 'arguments', index: 1, text: '1}' },
    { type: 'text', text: 'e' },
    { type: 'finish', reason: 'tool-calls' },
  ]

  test('content in the order that the model wrote it', async () => {
    const { content } = await millrace(new NotingModel(PARTS)).doGenerate({ prompt: PROMPT })
    expect(content).toEqual([
      { type: 'text', text: 'a' },
      { type: 'reasoning', text: 'b' },
      { type: 'text', text: 'cd' },
      { type: 'tool-call', toolCallId: 'x', toolName: 'look', input: '' },
      { type: 'tool-call', toolCallId: 'y', toolName: 'look', input: '{"a":1}' },
      { type: 'text', text: 'e' },
    ])
  })

  test('a stream whose every block has a start and an end of its own', async () => {
    const { stream } = await millrace(new NotingModel(PARTS)).doStream({ prompt: PROMPT })
    const parts = await collect(stream)
    expect(parts.slice(1, -1)).toEqual([
      { type: 'text-start', id: '0' },
      { type: 'text-delta', id: '0', delta: 'a' },
      { type: 'text-end', id: '0' },
      { type: 'reasoning-start', id: '1' },
      { type: 'reasoning-delta', id: '1', delta: 'b' },
      { type: 'reasoning-end', id: '1' },
      { type: 'text-start', id: '2' },
      { type: 'text-delta', id: '2', delta: 'c' },
      { type: 'text-delta', id: '2', delta: 'd' },
      { type: 'text-end', id: '2' },
      { type: 'tool-input-start', id: 'x', toolName: 'look' },
      { type: 'tool-input-end', id: 'x' },
      { type: 'tool-call', toolCallId: 'x', toolName: 'look', input: '' },
      { type: 'tool-input-start', id: 'y', toolName: 'look' },
      { type: 'tool-input-delta', id: 'y', delta: '{"a":' },
      { type: 'tool-input-delta', id: 'y', delta: '1}' },
      { type: 'tool-input-end', id: 'y' },
      { type: 'tool-call', toolCallId: 'y', toolName: 'look', input: '{"a":1}' },
      { type: 'text-start', id: '3' },
      { type: 'text-delta', id: '3', delta: 'e' },
      { type: 'text-end', id: '3' },
    ])
    expect(parts[0]).toEqual({ type: 'stream-start', warnings: [] })
    expect(parts.at(-1)).toMatchObject({ type: 'finish', finishReason: { unified: 'stop' } })
  })

  test.each([
    ['stop', 'stop'],
    ['length', 'length'],
    ['tool-calls', 'tool-calls'],
    ['abort', 'other'],
  ] as const)('finish reason %s', async (finishReason, unified) => {
    const model = new NotingModel([], { finishReason })
    expect((await millrace(model).doGenerate({ prompt: PROMPT })).finishReason).toEqual({ unified, raw: finishReason })
  })

  test('usage and what else is told', async () => {
    const plain = await millrace(new NotingModel()).doGenerate({ prompt: PROMPT })
    expect(plain.usage).toEqual({
      inputTokens: { total: 3, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
      outputTokens: { total: 4, text: 4, reasoning: 0 },
    })
    expect(plain.providerMetadata).toEqual({ millrace: { seed: 5, timings: TIMINGS } })
    const more = { reasoning: 'b', logprobs: [-1], usage: { promptTokens: 3, completionTokens: 4, truncatedTokens: 9 } }
    const long = await millrace(new NotingModel([], more)).doGenerate({ prompt: PROMPT })
    expect(long.usage.outputTokens).toEqual({ total: 4, text: undefined, reasoning: undefined })
    expect(long.providerMetadata?.millrace).toMatchObject({ logprobs: [-1], truncatedTokens: 9 })
  })
})

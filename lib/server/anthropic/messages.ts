/** POST /v1/messages and /v1/messages/count_tokens. */
import type { ChatTemplateOptions, Generation, GenerationResult } from '../../index.ts'
import { type SegmentEvent, segmentsOf } from '../answer/segments.ts'
import { type Call, newId } from '../context.ts'
import { parseBody } from '../http/body.ts'
import { anthropicError, type Problem } from '../http/problem.ts'
import { namedEvent } from '../http/sse.ts'
import { StreamClock } from '../openai/chat.ts'
import type { Lease } from '../pool/pool.ts'
import { stopping } from '../pool/pool.ts'
import { anthropicChat, countSchema, type MessagesRequest, messagesSchema, messagesTask } from './request.ts'

export async function messages(call: Call, body: unknown): Promise<object> {
  const request = parseBody(messagesSchema, body, call.log)
  const task = messagesTask(request)
  const begin = (lease: Lease) => call.chat(lease, task.messages, task.options)
  if (request.stream) {
    const lease = await call.lease(request.model)
    return call.stream(events(call, lease, request, begin), failedEvent)
  }
  return call.withModel(request.model, async (lease) => {
    const generation = begin(lease)
    const content: object[] = []
    for await (const event of segmentsOf(generation)) {
      if (event.kind === 'close') content.push(blockOf(event))
    }
    const result = await generation.result
    return {
      ...envelope(lease),
      content,
      ...stopOf(lease, request, result),
      usage: usageOf(result.usage.promptTokens, result.usage.completionTokens),
    }
  })
}

export async function countTokens(call: Call, body: unknown): Promise<object> {
  const request = parseBody(countSchema, body, call.log)
  const { messages: chat, options } = anthropicChat(request)
  return call.withModel(request.model, async ({ model }) => {
    const { tools, toolChoice, variables } = options
    const template: ChatTemplateOptions = { variables, tools: toolChoice === 'none' ? undefined : tools }
    const tokens = await model.tokenizer.encodeChat(chat, { ...template, signal: call.signal })
    return { input_tokens: tokens.length }
  })
}

const failedEvent = (problem: Problem) => namedEvent('error', anthropicError(problem))

const envelope = ({ name }: Lease) => ({ id: newId('msg_'), type: 'message', role: 'assistant', model: name })

const usageOf = (input: number, output: number) => ({
  input_tokens: input,
  output_tokens: output,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
})

async function* events(
  call: Call,
  lease: Lease,
  request: MessagesRequest,
  begin: (lease: Lease) => Generation,
): AsyncGenerator<string, void, undefined> {
  let generation: Generation | undefined
  try {
    generation = begin(lease)
    const clock = new StreamClock(call, lease, 1)
    const event = (type: string, fields: object = {}) => namedEvent(type, { type, ...fields })
    const start = () =>
      event('message_start', {
        message: {
          ...envelope(lease),
          content: [],
          stop_reason: null,
          stop_sequence: null,
          usage: usageOf(generation!.promptTokens, 0),
        },
      })
    let begun = false
    for await (const segment of segmentsOf(generation, (chunk) => clock.took(0, chunk))) {
      if (!begun) yield start()
      begun = true
      yield* blockEvents(segment, event)
    }
    const result = await generation.result
    if (!begun) yield start()
    yield event('message_delta', {
      delta: stopOf(lease, request, result),
      usage: usageOf(result.usage.promptTokens, result.usage.completionTokens),
    })
    yield event('message_stop')
  } finally {
    generation?.cancel()
    lease.release()
  }
}

function* blockEvents(
  event: SegmentEvent,
  named: (type: string, fields: object) => string,
): Generator<string, void, undefined> {
  const { kind, segment } = event
  const { index } = segment
  if (kind === 'open') {
    yield named('content_block_start', { index, content_block: emptyBlock(segment) })
  } else if (kind === 'delta') {
    const { text } = event
    const delta =
      segment.type === 'text'
        ? { type: 'text_delta', text }
        : segment.type === 'reasoning'
          ? { type: 'thinking_delta', thinking: text }
          : { type: 'input_json_delta', partial_json: text }
    yield named('content_block_delta', { index, delta })
  } else yield named('content_block_stop', { index })
}

function emptyBlock(segment: SegmentEvent['segment']): object {
  if (segment.type === 'text') return { type: 'text', text: '' }
  if (segment.type === 'reasoning') return { type: 'thinking', thinking: '', signature: '' }
  return { type: 'tool_use', id: segment.id, name: segment.name, input: {} }
}

function blockOf({ segment, text }: Extract<SegmentEvent, { kind: 'close' }>): object {
  if (segment.type === 'text') return { type: 'text', text, citations: null }
  if (segment.type === 'reasoning') return { type: 'thinking', thinking: text, signature: '' }
  return { type: 'tool_use', id: segment.id, name: segment.name, input: inputOf(text) }
}

/** An object; of what the model wrote wrong there is the text. */
function inputOf(text: string): object {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  } catch {}
  return text.trim() === '' ? {} : { arguments: text }
}

function stopOf({ model }: Lease, { stop_sequences: stops = [] }: MessagesRequest, result: GenerationResult) {
  const { finishReason } = result
  if (finishReason === 'abort') throw stopping()
  if (finishReason === 'length') return { stop_reason: 'max_tokens', stop_sequence: null }
  if (finishReason === 'tool-calls') return { stop_reason: 'tool_use', stop_sequence: null }
  // The tokens have the text that ended it; the answer has not.
  const raw = stops.length > 0 ? model.tokenizer.decode(result.tokens) : ''
  const [found] = stops.filter((text) => raw.includes(text)).sort((a, b) => raw.indexOf(a) - raw.indexOf(b))
  if (found !== undefined) return { stop_reason: 'stop_sequence', stop_sequence: found }
  return { stop_reason: 'end_turn', stop_sequence: null }
}

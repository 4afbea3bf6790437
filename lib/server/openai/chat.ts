/** POST /v1/chat/completions. */
import type { ChatPart, FinishReason, Generation, GenerationChunk, GenerationResult } from '../../index.ts'
import { chatLogprobs } from '../answer/logprobs.ts'
import { mergeChunks } from '../answer/merge.ts'
import { type Call, newId } from '../context.ts'
import { parseBody } from '../http/body.ts'
import { dataEvent } from '../http/sse.ts'
import type { Lease } from '../pool/pool.ts'
import { type ChatRequest, type ChatTask, chatSchema, chatTask } from './chat_request.ts'
import { DONE, failedEvent, finishReason, usageOf, variantOf } from './shared.ts'

export async function chatCompletions(call: Call, body: unknown): Promise<object> {
  const request = parseBody(chatSchema, body, call.log)
  const task = chatTask(request)
  if (request.stream) {
    const lease = await call.lease(request.model)
    return call.stream(chatEvents(call, lease, request, task), failedEvent)
  }
  return call.withModel(request.model, async (lease) => {
    const results = await Promise.all(startAll(call, lease, request, task).map(({ result }) => result))
    return {
      ...envelope(call, lease, 'chat.completion'),
      choices: results.map((result, index) => choiceOf(lease, request, result, index)),
      usage: usageOf(results),
    }
  })
}

function startAll(call: Call, lease: Lease, { n = 1 }: ChatRequest, { messages, options }: ChatTask): Generation[] {
  return Array.from({ length: n }, (_, index) => call.chat(lease, messages, variantOf(options, index)))
}

const envelope = (call: Call, { name }: Lease, object: string) => ({
  id: newId('chatcmpl-'),
  object,
  created: call.created,
  model: name,
})

function choiceOf({ model }: Lease, { logprobs }: ChatRequest, result: GenerationResult, index: number) {
  const { text, reasoning, toolCalls = [] } = result
  return {
    index,
    message: {
      role: 'assistant',
      content: toolCalls.length > 0 && text.trim() === '' ? null : text,
      refusal: null,
      ...(reasoning !== undefined ? { reasoning_content: reasoning } : {}),
      ...(toolCalls.length > 0 ? { tool_calls: toolCalls } : {}),
    },
    logprobs: logprobs ? { content: chatLogprobs(model, result), refusal: null } : null,
    finish_reason: finishReason(result.finishReason),
  }
}

async function* chatEvents(
  call: Call,
  lease: Lease,
  request: ChatRequest,
  task: ChatTask,
): AsyncGenerator<string, void, undefined> {
  let generations: Generation[] = []
  try {
    generations = startAll(call, lease, request, task)
    const withUsage = request.stream_options?.include_usage === true
    const head = { ...envelope(call, lease, 'chat.completion.chunk'), ...(withUsage ? { usage: null } : {}) }
    const event = (index: number, delta: object, logprobs: object | null, finish: string | null) =>
      dataEvent({ ...head, choices: [{ index, delta, logprobs, finish_reason: finish }] })
    const clocks = new StreamClock(call, lease, generations.length)
    const begun = new Set<number>()
    for await (const { index, chunk } of mergeChunks(generations)) {
      clocks.took(index, chunk)
      if (!begun.has(index)) {
        begun.add(index)
        yield event(index, { role: 'assistant', content: '', refusal: null }, null, null)
      }
      let logprobs = request.logprobs ? { content: chatLogprobs(lease.model, chunk), refusal: null } : null
      const deltas = deltasOf(chunk)
      if (deltas.length === 0 && logprobs && chunk.tokens.length > 0) deltas.push({ content: '' })
      for (const delta of deltas) {
        yield event(index, delta, logprobs, null)
        logprobs = null // said once
      }
    }
    const results = await Promise.all(generations.map(({ result }) => result))
    for (const [index, result] of results.entries()) {
      if (!begun.has(index)) yield event(index, { role: 'assistant', content: '', refusal: null }, null, null)
      yield event(index, {}, null, finishReason(result.finishReason))
    }
    if (withUsage) yield dataEvent({ ...head, choices: [], usage: usageOf(results) })
    yield DONE
  } finally {
    for (const generation of generations) generation.cancel()
    lease.release()
  }
}

/** One a part; of a model whose format is not known one of all the text. */
export function deltasOf({ text, parts }: GenerationChunk): object[] {
  if (!parts) return text === '' ? [] : [{ content: text }]
  return parts.flatMap((part) => deltaOf(part) ?? [])
}

function deltaOf(part: ChatPart<FinishReason>): object | undefined {
  switch (part.type) {
    case 'text':
      return part.text === '' ? undefined : { content: part.text }
    case 'reasoning':
      return part.text === '' ? undefined : { reasoning_content: part.text }
    case 'call': {
      const { index, id, name } = part
      return { tool_calls: [{ index, id, type: 'function', function: { name, arguments: '' } }] }
    }
    case 'arguments':
      return { tool_calls: [{ index: part.index, function: { arguments: part.text } }] }
    default:
      return undefined
  }
}

/** Times between the tokens of streams. */
export class StreamClock {
  readonly #call: Call
  readonly #name: string
  readonly #last: (number | undefined)[]

  constructor(call: Call, { name }: Lease, streams: number) {
    this.#call = call
    this.#name = name
    this.#last = new Array(streams).fill(undefined)
  }

  took(index: number, { tokens }: GenerationChunk): void {
    const now = performance.now()
    const last = this.#last[index]
    this.#last[index] = now
    if (last === undefined || tokens.length === 0) return
    // What came in one chunk came evenly, as far as the reader can tell.
    const seconds = (now - last) / 1000 / tokens.length
    for (let token = 0; token < tokens.length; token++) this.#call.context.metrics.betweenTokens(this.#name, seconds)
  }
}

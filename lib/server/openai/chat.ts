/** POST /v1/chat/completions. */
import type { ChatPart, FinishReason, Generation, GenerationChunk, GenerationResult } from '../../index.ts'
import { AnswerEvents, type AnswerWriter } from '../answer/events.ts'
import { chatLogprobs } from '../answer/logprobs.ts'
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
    return call.stream(new AnswerEvents(new ChatWriter(call, lease, request, task), lease), failedEvent)
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

/** A stream of chunks: of a crowd of them, a token should cost little more than its text. */
class ChatWriter implements AnswerWriter {
  readonly #call: Call
  readonly #lease: Lease
  readonly #request: ChatRequest
  readonly #task: ChatTask
  readonly #head: object
  readonly #withUsage: boolean
  readonly #clock: StreamClock
  /** Of each answer, once it has begun: what makes its events. */
  readonly #events: ChoiceEvents[] = []

  constructor(call: Call, lease: Lease, request: ChatRequest, task: ChatTask) {
    this.#call = call
    this.#lease = lease
    this.#request = request
    this.#task = task
    this.#withUsage = request.stream_options?.include_usage === true
    this.#head = { ...envelope(call, lease, 'chat.completion.chunk'), ...(this.#withUsage ? { usage: null } : {}) }
    this.#clock = new StreamClock(call, lease, request.n ?? 1)
  }

  start(): Generation[] {
    return startAll(this.#call, this.#lease, this.#request, this.#task)
  }

  chunk(index: number, chunk: GenerationChunk): string {
    this.#clock.took(index, chunk)
    let events = this.#opening(index)
    let logprobs = this.#request.logprobs ? { content: chatLogprobs(this.#lease.model, chunk), refusal: null } : null
    const deltas = deltasOf(chunk)
    if (deltas.length === 0 && logprobs && chunk.tokens.length > 0) deltas.push({ content: '' })
    for (const delta of deltas) {
      events += this.#events[index]!.of(delta, logprobs, null)
      logprobs = null // said once
    }
    return events
  }

  end(results: readonly GenerationResult[]): string {
    let events = ''
    for (const [index, { finishReason: reason }] of results.entries()) {
      events += this.#opening(index) + this.#events[index]!.of({}, null, finishReason(reason))
    }
    if (this.#withUsage) events += dataEvent({ ...this.#head, choices: [], usage: usageOf(results) })
    return events + DONE
  }

  #opening(index: number): string {
    if (this.#events[index]) return ''
    this.#events[index] = new ChoiceEvents(this.#head, index)
    return this.#events[index].of({ role: 'assistant', content: '', refusal: null }, null, null)
  }
}

/** Events of one choice, which differ in three fields: the rest is written once. */
class ChoiceEvents {
  readonly #before: string

  constructor(head: object, index: number) {
    this.#before = `data: ${JSON.stringify({ ...head, choices: [] }).slice(0, -2)}{"index":${index},"delta":`
  }

  of(delta: object, logprobs: object | null, finish: string | null): string {
    const rest = logprobs ? JSON.stringify(logprobs) : 'null'
    const reason = finish === null ? 'null' : `"${finish}"`
    return `${this.#before}${JSON.stringify(delta)},"logprobs":${rest},"finish_reason":${reason}}]}\n\n`
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

/** POST /v1/responses. */
import type { Generation, GenerationResult, Model } from '../../index.ts'
import { chatLogprobs } from '../answer/logprobs.ts'
import { type Segment, type SegmentEvent, segmentsOf } from '../answer/segments.ts'
import { type Call, newId } from '../context.ts'
import { parseBody } from '../http/body.ts'
import { type Problem, problemOf } from '../http/problem.ts'
import { namedEvent } from '../http/sse.ts'
import { StreamClock } from '../openai/chat.ts'
import { type Lease, stopping } from '../pool/pool.ts'
import { type ResponsesRequest, responsesSchema, responsesTask, wantsLogprobs } from './request.ts'

export async function responses(call: Call, body: unknown): Promise<object> {
  const request = parseBody(responsesSchema, body, call.log)
  const task = responsesTask(request)
  const lease = await call.lease(request.model)
  const run = new ResponseRun(call, lease, request)
  const begin = () => call.chat(lease, task.messages, task.options)
  if (request.stream) return call.stream(run.events(begin), (problem) => run.failed(problem))
  // The last event has all of it.
  let response: object = {}
  for await (const event of run.steps(begin)) if ('response' in event) response = event.response as object
  return response
}

type Event = { type: string } & Record<string, unknown>

class ResponseRun {
  readonly #call: Call
  readonly #lease: Lease
  readonly #request: ResponsesRequest
  readonly #id = newId('resp_')
  readonly #output: OutputItem[] = []
  #sequence = 0

  constructor(call: Call, lease: Lease, request: ResponsesRequest) {
    this.#call = call
    this.#lease = lease
    this.#request = request
  }

  async *events(begin: () => Generation): AsyncGenerator<string, void, undefined> {
    for await (const event of this.steps(begin)) yield this.#numbered(event)
  }

  #numbered({ type, ...fields }: Event): string {
    return namedEvent(type, { type, sequence_number: this.#sequence++, ...fields })
  }

  /** For a stream that has begun. */
  failed(problem: Problem): string {
    const { code, message, param } = problem
    const error = { code: 'server_error', message }
    return (
      this.#numbered({ type: 'error', code, message, param }) +
      this.#numbered({ type: 'response.failed', response: this.#response('failed', { error }) })
    )
  }

  async *steps(begin: () => Generation): AsyncGenerator<Event, void, undefined> {
    let generation: Generation | undefined
    try {
      generation = begin()
      const clock = new StreamClock(this.#call, this.#lease, 1)
      let begun = false
      const start = (): Event[] => {
        begun = true
        const response = this.#response('in_progress')
        return [
          { type: 'response.created', response },
          { type: 'response.in_progress', response },
        ]
      }
      for await (const event of segmentsOf(generation, (chunk) => clock.took(0, chunk))) {
        if (!begun) yield* start()
        yield* this.#stepsOf(event)
      }
      const result = await generation.result
      if (result.finishReason === 'abort') throw stopping()
      if (!begun) yield* start()
      const cut = result.finishReason === 'length'
      const last = this.#output.at(-1)
      if (cut && last) last.status = 'incomplete'
      const usage = await usageOf(this.#lease.model, result)
      const details = cut ? { incomplete_details: { reason: 'max_output_tokens' } } : {}
      const status = cut ? 'incomplete' : 'completed'
      yield { type: `response.${status}`, response: this.#response(status, { usage, ...details }) }
    } catch (error) {
      throw problemOf(error)
    } finally {
      generation?.cancel()
      this.#lease.release()
    }
  }

  *#stepsOf(event: SegmentEvent): Generator<Event, void, undefined> {
    const { kind, segment } = event
    const at = segment.index
    if (kind === 'open') {
      const item = emptyItem(segment)
      this.#output.push(item)
      yield { type: 'response.output_item.added', output_index: at, item }
      const part = emptyPart(segment)
      if (part) yield { type: 'response.content_part.added', ...this.#place(at), part }
      return
    }
    const item = this.#output[at]!
    if (kind === 'delta') {
      const { text, chunk } = event
      if (segment.type === 'text') {
        const logprobs = wantsLogprobs(this.#request) && chunk ? chatLogprobs(this.#lease.model, chunk) : []
        item.logprobs.push(...logprobs)
        yield { type: 'response.output_text.delta', ...this.#place(at), delta: text, logprobs }
      } else if (segment.type === 'reasoning') {
        yield { type: 'response.reasoning_text.delta', ...this.#place(at), delta: text }
      } else {
        const delta = { output_index: at, item_id: item.id, delta: text }
        yield { type: 'response.function_call_arguments.delta', ...delta }
      }
      return
    }
    const { text } = event
    item.finish(text)
    if (segment.type === 'call') {
      const done = { output_index: at, item_id: item.id, name: segment.name, arguments: text }
      yield { type: 'response.function_call_arguments.done', ...done }
    } else {
      const name = segment.type === 'text' ? 'output_text' : 'reasoning_text'
      const logprobs = segment.type === 'text' ? { logprobs: item.logprobs } : {}
      yield { type: `response.${name}.done`, ...this.#place(at), text, ...logprobs }
      yield { type: 'response.content_part.done', ...this.#place(at), part: item.part(text) }
    }
    yield { type: 'response.output_item.done', output_index: at, item }
  }

  #place(index: number) {
    return { output_index: index, item_id: this.#output[index]!.id, content_index: 0 }
  }

  #response(status: string, more: object = {}) {
    const request = this.#request
    const { tools = [], tool_choice = 'auto', reasoning, text } = request
    return {
      id: this.#id,
      object: 'response',
      created_at: this.#call.created,
      status,
      background: false,
      error: null,
      incomplete_details: null,
      instructions: request.instructions ?? null,
      max_output_tokens: request.max_output_tokens ?? null,
      model: this.#lease.name,
      output: this.#output,
      parallel_tool_calls: request.parallel_tool_calls ?? true,
      previous_response_id: null,
      reasoning: { effort: reasoning?.effort ?? null, summary: reasoning?.summary ?? null },
      store: false,
      temperature: request.temperature ?? this.#lease.model.samplingDefaults.temperature ?? 0,
      text: { format: text?.format ?? { type: 'text' } },
      tool_choice,
      tools: tools.map((tool) => ({ strict: null, parameters: null, ...tool })),
      top_p: request.top_p ?? this.#lease.model.samplingDefaults.topP ?? 1,
      truncation: request.truncation ?? 'disabled',
      ...(request.user === undefined ? {} : { user: request.user }),
      metadata: request.metadata ?? {},
      ...more,
    }
  }
}

/** As it stands in the output; JSON leaves out what begins with #. */
class OutputItem {
  readonly type: 'message' | 'reasoning' | 'function_call'
  readonly id: string
  status: 'in_progress' | 'completed' | 'incomplete' = 'in_progress'
  readonly #segment: Segment
  #text: string | undefined
  readonly logprobs: object[] = []

  constructor(segment: Segment) {
    this.#segment = segment
    const { type } = segment
    this.type = type === 'text' ? 'message' : type === 'call' ? 'function_call' : 'reasoning'
    this.id = newId({ text: 'msg_', call: 'fc_', reasoning: 'rs_' }[type])
  }

  finish(text: string): void {
    this.#text = text
    this.status = 'completed'
  }

  part(text: string): object {
    return this.#segment.type === 'text'
      ? { type: 'output_text', text, annotations: [], logprobs: this.logprobs }
      : { type: 'reasoning_text', text }
  }

  toJSON(): object {
    const { id, type, status } = this
    const segment = this.#segment
    if (segment.type === 'call') {
      const { id: call_id, name } = segment
      return { id, type, status, call_id, name, arguments: this.#text ?? '' }
    }
    const content = this.#text === undefined ? [] : [this.part(this.#text)]
    return { id, type, status, ...(segment.type === 'text' ? { role: 'assistant' } : { summary: [] }), content }
  }
}

const emptyItem = (segment: Segment) => new OutputItem(segment)

function emptyPart({ type }: Segment): object | undefined {
  if (type === 'call') return undefined
  return type === 'text'
    ? { type: 'output_text', text: '', annotations: [], logprobs: [] }
    : { type: 'reasoning_text', text: '' }
}

async function usageOf(model: Model, { usage, reasoning }: GenerationResult) {
  const thought = reasoning === undefined ? [] : await model.tokenizer.encode(reasoning, { specialTokens: false })
  const { promptTokens, completionTokens } = usage
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 },
    output_tokens: completionTokens,
    output_tokens_details: { reasoning_tokens: Math.min(thought.length, completionTokens) },
    total_tokens: promptTokens + completionTokens,
  }
}

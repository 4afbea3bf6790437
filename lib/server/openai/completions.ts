/** POST /v1/completions. */
import { z } from 'zod'
import type { Generation, GenerationChunk, GenerationResult } from '../../index.ts'
import { AnswerEvents, type AnswerWriter } from '../answer/events.ts'
import { type AnswerOptions, type AnswerRequest, answerOptionsOf, answerShape } from '../answer/options.ts'
import { type Call, newId } from '../context.ts'
import { flag, integer, optional, parseBody, text } from '../http/body.ts'
import { invalid, unsupported } from '../http/problem.ts'
import { dataEvent } from '../http/sse.ts'
import type { Lease } from '../pool/pool.ts'
import { StreamClock } from './chat.ts'
import { type Echo, makeEcho } from './echo.ts'
import { type LegacyLogprobs, LogprobsWriter } from './legacy_logprobs.ts'
import { DONE, failedEvent, finishReason, variantOf } from './shared.ts'

const MAX_TOKENS = 2 ** 27
const MAX_ANSWERS = 1024
/** As OpenAI's and vLLM's. */
const DEFAULT_MAX_TOKENS = 16

const promptError = 'a text, token ids, or a list of either'
const ids = z.array(z.int({ error: promptError }).min(0, { error: promptError })).min(1, { error: promptError })

export const completionSchema = z.object({
  ...answerShape,
  prompt: z.union([text(), ids, z.array(text()).min(1), z.array(ids).min(1)], { error: promptError }),
  max_tokens: optional(integer(0, MAX_TOKENS)),
  echo: optional(flag()),
  logprobs: optional(integer(0, 64)),
  add_special_tokens: optional(flag()),
  // Known, and refused by name.
  suffix: optional(z.unknown()),
  best_of: optional(z.unknown()),
})

type CompletionRequest = z.output<typeof completionSchema>
type Prompt = string | number[]

export async function completions(call: Call, body: unknown): Promise<object> {
  const request = parseBody(completionSchema, body, call.log)
  const { n = 1, suffix, best_of: bestOf, max_tokens: maxTokens = DEFAULT_MAX_TOKENS, echo, stream } = request
  if (suffix !== undefined && suffix !== '') throw unsupported('suffix', 'models here write on, not between')
  if (bestOf !== undefined && bestOf !== n) throw unsupported('best_of', 'ask for n answers and choose')
  if (maxTokens === 0 && !echo)
    throw invalid('expected an integer of at least 1 for max_tokens but received 0', 'max_tokens')
  const prompts = promptsOf(request)
  if (prompts.length * n > MAX_ANSWERS) {
    throw invalid(`expected at most ${MAX_ANSWERS} answers but received a request for ${prompts.length * n}`, 'n')
  }
  const options: AnswerOptions = {
    ...answerOptionsOf(request as AnswerRequest),
    ...(maxTokens > 0 ? { maxTokens } : {}),
  }
  if (request.logprobs !== undefined) {
    options.logprobs = true
    options.topLogprobs = request.logprobs
  }
  const run = (lease: Lease) => new Completion(call, lease, request, prompts, options, maxTokens > 0)
  if (stream) {
    const lease = await call.lease(request.model)
    return call.stream(new AnswerEvents(run(lease), lease), failedEvent)
  }
  return call.withModel(request.model, (lease) => run(lease).whole())
}

function promptsOf({ prompt }: CompletionRequest): Prompt[] {
  if (typeof prompt === 'string') return [prompt]
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as Prompt[])
}

class Completion implements AnswerWriter {
  readonly #call: Call
  readonly #lease: Lease
  readonly #request: CompletionRequest
  readonly #prompts: readonly Prompt[]
  readonly #options: AnswerOptions
  /** Anything is to be written beyond the prompt. */
  readonly #writes: boolean
  readonly #head: object
  readonly #withUsage: boolean
  readonly #before: string
  readonly #clock: StreamClock
  #generations: Generation[] = []
  #echoes: Echo[] = []
  #streamed: LogprobsWriter[] | undefined

  constructor(
    call: Call,
    lease: Lease,
    request: CompletionRequest,
    prompts: readonly Prompt[],
    options: AnswerOptions,
    writes: boolean,
  ) {
    this.#call = call
    this.#lease = lease
    this.#request = request
    this.#prompts = prompts
    this.#options = options
    this.#writes = writes
    this.#head = { id: newId('cmpl-'), object: 'text_completion', created: call.created, model: lease.name }
    this.#withUsage = request.stream_options?.include_usage === true
    const head = { ...this.#head, ...(this.#withUsage ? { usage: null } : {}), choices: [] }
    this.#before = `data: ${JSON.stringify(head).slice(0, -2)}`
    this.#clock = new StreamClock(call, lease, prompts.length * (request.n ?? 1))
  }

  get #n(): number {
    return this.#request.n ?? 1
  }

  async #begin(): Promise<Echo[]> {
    const { echo, logprobs } = this.#request
    if (this.#writes) {
      this.#generations = this.#prompts.flatMap((prompt) =>
        Array.from({ length: this.#n }, (_, index) =>
          this.#call.generate(this.#lease, prompt, variantOf(this.#options, index)),
        ),
      )
    }
    const echoes: Echo[] = []
    if (!echo) return echoes
    // One after the other: the logits of one may take a gigabyte.
    try {
      for (const prompt of this.#prompts) {
        echoes.push(await makeEcho(this.#lease.model, prompt, logprobs, this.#call.signal))
      }
    } catch (error) {
      for (const generation of this.#generations) generation.cancel()
      throw error
    }
    return echoes
  }

  /** Of an echo, then of what the model wrote. */
  #writers(echoes: readonly Echo[]): LogprobsWriter[] | undefined {
    const { logprobs } = this.#request
    if (logprobs === undefined) return undefined
    return Array.from({ length: this.#prompts.length * this.#n }, (_, index) => {
      const writer = new LogprobsWriter(this.#lease.model, logprobs)
      const echo = echoes[Math.floor(index / this.#n)]
      if (echo) writer.echo(echo)
      return writer
    })
  }

  async whole(): Promise<object> {
    try {
      const echoes = await this.#begin()
      const results = await Promise.all(this.#generations.map(({ result }) => result))
      const writers = this.#writers(echoes)
      const choices = Array.from({ length: this.#prompts.length * this.#n }, (_, index) => {
        const result = results[index]
        if (result) writers?.[index]?.add(result)
        return this.#choice(
          index,
          (echoes[Math.floor(index / this.#n)]?.text ?? '') + (result?.text ?? ''),
          writers?.[index]?.take() ?? null,
          result ? finishReason(result.finishReason) : 'length',
        )
      })
      return { ...this.#head, choices, usage: this.#usage(results, echoes) }
    } finally {
      for (const generation of this.#generations) generation.cancel()
    }
  }

  // ---- As the writer of a stream's events

  async start(): Promise<Generation[]> {
    this.#echoes = await this.#begin()
    this.#streamed = this.#writers(this.#echoes)
    return this.#generations
  }

  begin(): string {
    const echoed = this.#echoes.flatMap(({ text }) => new Array<string>(this.#n).fill(text))
    return echoed.map((text, index) => this.#event(index, text, this.#streamed?.[index]?.take() ?? null, null)).join('')
  }

  chunk(index: number, chunk: GenerationChunk): string {
    this.#clock.took(index, chunk)
    return this.#event(index, chunk.text, this.#logprobsOf(this.#streamed?.[index], chunk), null)
  }

  end(results: readonly GenerationResult[]): string {
    let events = ''
    for (let index = 0; index < this.#prompts.length * this.#n; index++) {
      const result = results[index]
      events += this.#event(index, '', null, result ? finishReason(result.finishReason) : 'length')
    }
    const usage = this.#usage(results, this.#echoes)
    if (this.#withUsage) events += dataEvent({ ...this.#head, choices: [], usage })
    return events + DONE
  }

  /** Of a crowd of streams, a token should cost little more than its text: what all events have is written once. */
  #event(index: number, text: string, logprobs: LegacyLogprobs | null, finish: string | null): string {
    const rest = logprobs ? JSON.stringify(logprobs) : 'null'
    const reason = finish === null ? 'null' : `"${finish}"`
    const choice = `{"index":${index},"text":${JSON.stringify(text)},"logprobs":${rest},"finish_reason":${reason}}`
    return `${this.#before}${choice}]}\n\n`
  }

  #logprobsOf(writer: LogprobsWriter | undefined, chunk: GenerationChunk): LegacyLogprobs | null {
    writer?.add(chunk)
    return writer?.take() ?? null
  }

  #choice(index: number, text: string, logprobs: LegacyLogprobs | null, finish: string | null) {
    return { index, text, logprobs, finish_reason: finish }
  }

  /** A prompt counts once, however many answers it gets. */
  #usage(results: readonly GenerationResult[], echoes: readonly Echo[]) {
    const prompt = this.#prompts.reduce(
      (sum, _, index) => sum + (results[index * this.#n]?.usage.promptTokens ?? echoes[index]?.tokens.length ?? 0),
      0,
    )
    const completion = results.reduce((sum, { usage }) => sum + usage.completionTokens, 0)
    return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
  }
}

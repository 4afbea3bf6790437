/** One answer in the making. */
import { randomInt } from 'node:crypto'
import type { NativeFinish, NativeGenerateRequest, NativeTokensEvent } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { AnswerText } from '../text/answer.ts'
import { TextBuffer } from '../text/buffer.ts'
import type { ParsedAnswer } from '../text/chat/answer.ts'
import type { Part } from '../text/chat/parts.ts'
import type { GeneratedToolCall } from '../text/chat/types.ts'
import type { Pieces } from '../text/tokenizer/pieces.ts'
import { promptRoom, type Truncation, truncatePrompt } from '../text/truncate.ts'
import { ChunkReader } from './reader.ts'
import {
  failureOf,
  type PreparedRequest,
  Request,
  type RequestEnd,
  type RequestTask,
  type RequestTimings,
} from './request.ts'

/** What node's randomInt can draw from at once. */
const MAX_RANDOM_SEED = 2 ** 48 - 1

export interface GenerationChunk {
  /** Whole code points; concatenated, the chunks are the result's text. */
  text: string
  /** Of a chat whose model's format is known: what came since the last chunk, `text` being its parts of type 'text'. */
  parts?: Part<FinishReason>[]
  /** Tokens that came since the last chunk. */
  tokens: number[]
  /** One a token, if asked for: natural logarithm of its probability before temperature, filters, penalties and biases. */
  logprobs?: number[]
  /** One list a token, if asked for: the most likely tokens, best first. */
  topLogprobs?: TokenLogprob[][]
}

export interface TokenLogprob {
  token: number
  /** Natural logarithm of its probability before temperature, filters, penalties and biases. */
  logprob: number
}

/**
 * 'stop': an end token or stop text; 'tool-calls': the same of an answer that calls tools; 'length': maxTokens or the
 * context's end; 'abort': cancelled or closed.
 */
export type FinishReason = 'stop' | 'tool-calls' | 'length' | 'abort'

/** `Value`: of a constraint on JSON, what it says. */
export interface GenerationResult<Value = unknown> {
  /** Of a chat whose model's format is known, without reasoning and calls. */
  text: string
  /** What the model thought before it answered; absent if nothing. */
  reasoning?: string
  /** Of a chat with tools: the calls, as a message's `tool_calls` has them; none, one or several. */
  toolCalls?: GeneratedToolCall[]
  /** Under a constraint on JSON: what the text says, as a zod schema reads it; absent of an answer that was cut short. */
  object?: Value
  tokens: number[]
  logprobs?: number[]
  topLogprobs?: TokenLogprob[][]
  finishReason: FinishReason
  /**
   * `truncatedTokens`: of the prompt, cut by the option `truncate`; absent if none. `draftedTokens`: that were guessed
   * ahead and checked, `acceptedTokens` of them were right; absent if none.
   */
  usage: {
    promptTokens: number
    completionTokens: number
    truncatedTokens?: number
    draftedTokens?: number
    acceptedTokens?: number
  }
  timings: RequestTimings
  /** Gives the same text again with the same prompt, options and placement. */
  seed: number
}

/** What generate() and chat() have settled before the request starts. */
export interface GenerationTask extends RequestTask {
  pieces: Pieces
  contextLength: number
  /** Asked for once, when the request is admitted: of a crowd that is refused nothing is made. */
  options: () => Omit<NativeGenerateRequest, 'kind' | 'maxTokens' | 'minTokens' | 'seed'>
  maxTokens: number | undefined
  minTokens: number
  seed: number | undefined
  logprobs: boolean
  topLogprobs: boolean
  truncate: Truncation | undefined
  /** The tokenizer's begin-of-text token, which truncation spares. */
  firstToken: number | undefined
  stop: readonly string[]
  /** Asked for once, when the prompt's tokens are known. */
  reading?: (() => AnswerReading | undefined) | undefined
  /** The value of a whole answer's text; undefined of one that is none. */
  readObject?: ((text: string) => unknown) | undefined
}

/** How a chat's answer is read. */
export interface AnswerReading {
  parsed: ParsedAnswer
  /** Special tokens that it must see. */
  shown: ReadonlyMap<number, string>
  hasTools: boolean
}

/**
 * The answer to one request: iterate over it for the text as it comes, await `result` for the whole, or both. Work
 * begins at once and goes on whether anybody reads or not; what nobody has read yet comes in one chunk.
 */
export class Generation<Value = unknown>
  extends Request<GenerationResult<Value>>
  implements AsyncIterable<GenerationChunk, void, undefined>, AsyncDisposable
{
  protected readonly kind = 'generate'
  readonly #task: GenerationTask
  /** From the start of the request on. */
  #answer: AnswerText | undefined
  #reading: AnswerReading | undefined
  #seed: number | undefined
  #promptTokens = 0
  #truncatedTokens = 0
  /** What the reader has been given, and what it has not. */
  readonly #read = new TextBuffer()
  readonly #unread = new TextBuffer()
  readonly #tokens: number[] = []
  readonly #logprobs: number[] = []
  readonly #topLogprobs: TokenLogprob[][] = []
  #readTokens = 0
  #reader: ChunkReader<GenerationChunk> | undefined

  /** Called by Model. */
  constructor(task: GenerationTask) {
    super(task)
    this.#task = task
    this.start()
  }

  /** Tokens of the prompt; 0 until it is tokenised. */
  get promptTokens(): number {
    return this.#promptTokens
  }

  /** The chunks, once. Leaving the loop cancels the request. */
  [Symbol.asyncIterator](): AsyncGenerator<GenerationChunk, void, undefined> {
    if (this.#reader) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: 'a generation can be iterated over once',
        remedy: 'await its result for the whole text',
      })
    }
    this.#reader = new ChunkReader({
      take: () => this.#takeChunk(),
      end: () => this.outcome,
      leave: () => this.cancel(),
    })
    return this.#reader
  }

  /** Cancels the request, if it has not ended, and waits until the engine has let go of it. */
  [Symbol.asyncDispose](): Promise<void> {
    this.cancel()
    return this.settled
  }

  protected prepare(whole: Int32Array): PreparedRequest {
    const { pieces, options, contextLength, maxTokens, minTokens } = this.#task
    const tokens = this.#truncate(whole)
    const room = contextLength - tokens.length
    if (room < 1) {
      throw new MillraceError('CONTEXT_OVERFLOW', {
        message: `the prompt has ${tokens.length} tokens, the context of ${contextLength} leaves no room for an answer`,
        remedy: 'shorten the prompt, load with a larger contextLength, or pass truncate',
      })
    }
    this.#promptTokens = tokens.length
    this.#reading = this.#task.reading?.()
    this.#answer = new AnswerText(pieces, this.#task.stop, { prompt: tokens, shown: this.#reading?.shown, minTokens })
    return {
      kind: 'generate',
      ...options(),
      seed: this.#seedOf(),
      tokens,
      maxTokens: Math.min(maxTokens ?? room, room),
      minTokens,
    }
  }

  #truncate(prompt: Int32Array): Int32Array {
    const { truncate, contextLength, maxTokens, firstToken } = this.#task
    if (truncate === undefined) return prompt
    const room = promptRoom(contextLength, maxTokens)
    const kept = truncatePrompt(prompt, room, truncate, prompt[0] === firstToken)
    this.#truncatedTokens = prompt.length - kept.length
    return kept
  }

  protected take(event: NativeTokensEvent): void {
    for (let index = 0; index < event.tokens.length && !this.#stopped; index++) {
      const token = event.tokens[index]!
      this.#tokens.push(token)
      if (event.logprobs) this.#logprobs.push(event.logprobs[index]!)
      if (event.topTokens) this.#topLogprobs.push(topOf(event, index))
      this.#take(this.#answer!.push(token))
    }
    if (this.#stopped && event.finish === undefined) this.cancel()
  }

  #take(text: string): void {
    this.#unread.push(this.#reading ? this.#reading.parsed.push(text) : text)
  }

  protected complete({ finish, timings, event }: RequestEnd): GenerationResult<Value> {
    const { finishReason: ended } = this.summary(finish)
    if (ended === 'error') throw failureOf(event)
    const { draftedTokens = 0, acceptedTokens = 0 } = event ?? {}
    if (this.#answer) this.#take(this.#answer.flush())
    const { parsed, hasTools } = this.#reading ?? {}
    const reason = () => (ended === 'stop' && parsed && parsed.toolCalls.length > 0 ? 'tool-calls' : ended)
    if (parsed) this.#unread.push(parsed.finish(reason))
    const finishReason: FinishReason = reason()
    const { logprobs, topLogprobs, readObject } = this.#task
    const text = this.#read.toString() + this.#unread.toString()
    const object = finishReason === 'stop' ? (readObject?.(text) as Value | undefined) : undefined
    return {
      text,
      ...(parsed && parsed.reasoning !== '' ? { reasoning: parsed.reasoning } : {}),
      ...(parsed && hasTools ? { toolCalls: parsed.toolCalls } : {}),
      ...(object === undefined ? {} : { object }),
      tokens: this.#tokens,
      ...(logprobs ? { logprobs: this.#logprobs } : {}),
      ...(topLogprobs ? { topLogprobs: this.#topLogprobs } : {}),
      finishReason,
      usage: {
        promptTokens: this.#promptTokens,
        completionTokens: this.#tokens.length,
        ...(this.#truncatedTokens > 0 ? { truncatedTokens: this.#truncatedTokens } : {}),
        ...(draftedTokens > 0 ? { draftedTokens, acceptedTokens } : {}),
      },
      timings,
      seed: this.#seedOf(),
    }
  }

  protected summary(finish: NativeFinish) {
    return { finishReason: this.#stopped ? 'stop' : finish, completionTokens: this.#tokens.length }
  }

  /** By a stop text, or by a call too many. */
  get #stopped(): boolean {
    return this.#answer?.stopped || this.#reading?.parsed.stopped || false
  }

  #seedOf(): number {
    this.#seed ??= this.#task.seed ?? randomInt(MAX_RANDOM_SEED)
    return this.#seed
  }

  protected override changed(): void {
    this.#reader?.answer()
  }

  #takeChunk(): GenerationChunk | undefined {
    // Tokens without text yet wait for the text that they are part of, or for the end.
    const rest = this.outcome && 'result' in this.outcome && this.#tokens.length > this.#readTokens
    const parsed = this.#reading?.parsed
    if (this.#unread.empty && (parsed?.empty ?? true) && !rest) return undefined
    const text = this.#unread.take()
    this.#read.push(text)
    const { logprobs, topLogprobs } = this.#task
    const chunk: GenerationChunk = {
      text,
      ...(parsed ? { parts: parsed.take<FinishReason>() } : {}),
      tokens: this.#tokens.slice(this.#readTokens),
      ...(logprobs ? { logprobs: this.#logprobs.slice(this.#readTokens) } : {}),
      ...(topLogprobs ? { topLogprobs: this.#topLogprobs.slice(this.#readTokens) } : {}),
    }
    this.#readTokens = this.#tokens.length
    return chunk
  }
}

function topOf({ tokens, topTokens, topLogprobs }: NativeTokensEvent, index: number): TokenLogprob[] {
  const count = topTokens!.length / tokens.length
  return Array.from({ length: count }, (_, rank) => {
    const at = index * count + rank
    return { token: topTokens![at]!, logprob: topLogprobs![at]! }
  })
}

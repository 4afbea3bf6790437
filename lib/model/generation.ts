/** One answer in the making. */
import type { NativeFinish, NativeModel, NativeRequest, NativeTokensEvent } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { AnswerText } from '../text/answer.ts'
import { TextBuffer } from '../text/buffer.ts'
import type { Pieces } from '../text/tokenizer/pieces.ts'
import { promptRoom, type Truncation, truncatePrompt } from '../text/truncate.ts'
import { publishEnd, publishStart } from './diagnostics.ts'
import { runtime } from './runtime.ts'
import { abortedError, onAbort } from './signals.ts'

export interface GenerationChunk {
  /** Whole code points; concatenated, the chunks are the result's text. */
  text: string
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

/** 'stop': an end token or stop text; 'length': maxTokens or the context's end; 'abort': cancelled or closed. */
export type FinishReason = 'stop' | 'length' | 'abort'

export interface RequestTimings {
  /** From submission to the first step. */
  queueMs: number
  /** From submission to the first token. */
  firstTokenMs: number
  totalMs: number
}

export interface GenerationResult {
  text: string
  tokens: number[]
  logprobs?: number[]
  topLogprobs?: TokenLogprob[][]
  finishReason: FinishReason
  /** `truncatedTokens`: of the prompt, cut by the option `truncate`; absent if none. */
  usage: { promptTokens: number; completionTokens: number; truncatedTokens?: number }
  timings: RequestTimings
  /** Gives the same text again with the same prompt, options and placement. */
  seed: number
}

/** What generate() and chat() have settled before the request starts. */
export interface GenerationTask {
  native: NativeModel
  pieces: Pieces
  contextLength: number
  /** Throws or rejects with what the result shall reject with. */
  prompt: () => Int32Array | Promise<Int32Array>
  request: Omit<NativeRequest, 'kind' | 'tokens' | 'maxTokens' | 'logits'>
  maxTokens: number | undefined
  truncate: Truncation | undefined
  /** The tokenizer's begin-of-text token, which truncation spares. */
  firstToken: number | undefined
  log: Logger
  stop: readonly string[]
  signal: AbortSignal | undefined
  /** Called once, when the request has ended in every respect. */
  onSettled: (generation: Generation) => void
}

/**
 * The answer to one request: iterate over it for the text as it comes, await `result` for the whole, or both. Work
 * begins at once and goes on whether anybody reads or not; what nobody has read yet comes in one chunk.
 */
export class Generation implements AsyncIterable<GenerationChunk, void, undefined> {
  /** Rejects with CONTEXT_OVERFLOW, ABORTED, MODEL_CLOSED and others. Never an unhandled rejection if unread. */
  readonly result: Promise<GenerationResult>

  readonly #task: GenerationTask
  /** From the start of the request on. */
  #answer: AnswerText | undefined
  #promptTokens = 0
  #truncatedTokens = 0
  /** What the reader has been given, and what it has not. */
  readonly #read = new TextBuffer()
  readonly #unread = new TextBuffer()
  readonly #tokens: number[] = []
  readonly #logprobs: number[] = []
  readonly #topLogprobs: TokenLogprob[][] = []
  #readTokens = 0
  #request: number | undefined
  #cancelled = false
  #settledAlready = false
  #outcome: { result: GenerationResult } | { error: unknown } | undefined
  #iterated = false
  #wake: (() => void) | undefined
  #resolve!: (result: GenerationResult) => void
  #reject!: (error: unknown) => void
  #release: () => void = () => {}
  #offAbort: () => void = () => {}

  /** Called by Model. */
  constructor(task: GenerationTask) {
    this.#task = task
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.result.catch(() => {})
    if (task.signal?.aborted) this.#abort()
    else {
      if (task.signal) this.#offAbort = onAbort(task.signal, () => this.#abort())
      this.#start()
    }
  }

  /** Ends the request; the result resolves with what there is and finishReason 'abort'. Nothing happens if it has ended. */
  cancel(): void {
    if (this.#outcome || this.#cancelled) return
    this.#cancelled = true
    if (this.#request !== undefined) this.#task.native.cancel(this.#request)
    else this.#finish('abort')
  }

  /** Nothing more will come of it. */
  get settled(): boolean {
    return this.#settledAlready
  }

  /** The chunks, once. Leaving the loop cancels the request. */
  [Symbol.asyncIterator](): AsyncIterator<GenerationChunk, void, undefined> {
    if (this.#iterated) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: 'a generation can be iterated over once',
        remedy: 'await its result for the whole text',
      })
    }
    this.#iterated = true
    let left = false
    return {
      next: async () => {
        for (;;) {
          if (left) return { done: true, value: undefined }
          const chunk = this.#takeChunk()
          if (chunk) return { done: false, value: chunk }
          if (this.#outcome) {
            left = true
            if ('error' in this.#outcome) throw this.#outcome.error
            continue
          }
          await new Promise<void>((resolve) => {
            this.#wake = resolve
          })
        }
      },
      return: async () => {
        left = true
        this.cancel()
        this.#wakeReader()
        return { done: true, value: undefined }
      },
    }
  }

  #abort(): void {
    const signal = this.#task.signal!
    this.#cancelled = true
    if (this.#request !== undefined) this.#task.native.cancel(this.#request)
    this.#fail(abortedError(signal, 'the request'))
  }

  #start(): void {
    this.#release = runtime().hold()
    try {
      const prompt = this.#task.prompt()
      if (prompt instanceof Int32Array) this.#submit(prompt)
      else
        prompt.then(
          (tokens) => this.#attempt(() => this.#submit(tokens)),
          (error) => this.#fail(error),
        )
    } catch (error) {
      this.#fail(error)
    }
  }

  #attempt(action: () => void): void {
    try {
      action()
    } catch (error) {
      this.#fail(error)
    }
  }

  #submit(whole: Int32Array): void {
    if (this.#outcome) return
    const { native, pieces, request, contextLength, maxTokens, log } = this.#task
    const prompt = this.#truncate(whole)
    this.#promptTokens = prompt.length
    const room = contextLength - prompt.length
    if (room < 1) {
      throw new MillraceError('CONTEXT_OVERFLOW', {
        message: `the prompt has ${prompt.length} tokens, the context of ${contextLength} leaves no room for an answer`,
        remedy: 'shorten the prompt, load with a larger contextLength, or pass truncate',
      })
    }
    this.#answer = new AnswerText(pieces, this.#task.stop, prompt)
    const id = native.submit({
      kind: 'generate',
      ...request,
      tokens: prompt,
      maxTokens: Math.min(maxTokens ?? room, room),
      logits: false,
    })
    this.#request = id
    runtime().addRequest(id, this)
    publishStart({ kind: 'generate', model: native.id, request: id, promptTokens: prompt.length, log })
  }

  #truncate(prompt: Int32Array): Int32Array {
    const { truncate, contextLength, maxTokens, firstToken } = this.#task
    if (truncate === undefined) return prompt
    const room = promptRoom(contextLength, maxTokens)
    const kept = truncatePrompt(prompt, room, truncate, prompt[0] === firstToken)
    this.#truncatedTokens = prompt.length - kept.length
    return kept
  }

  /** Called by the runtime. */
  onEvent(event: NativeTokensEvent): void {
    this.#attempt(() => {
      this.#take(event)
      if (event.finish !== undefined) this.#end(event.finish, event)
    })
    if (event.finish !== undefined) this.#settled(event)
    this.#wakeReader()
  }

  #take(event: NativeTokensEvent): void {
    if (this.#outcome) return
    for (let index = 0; index < event.tokens.length && !this.#stopped; index++) {
      const token = event.tokens[index]!
      this.#tokens.push(token)
      if (event.logprobs) this.#logprobs.push(event.logprobs[index]!)
      if (event.topTokens) this.#topLogprobs.push(topOf(event, index))
      this.#append(this.#answer!.push(token))
    }
    if (this.#stopped && !this.#cancelled && event.finish === undefined) {
      this.#cancelled = true
      this.#task.native.cancel(this.#request!)
    }
  }

  #end(finish: NativeFinish, event: NativeTokensEvent): void {
    if (finish === 'error' && !this.#stopped) {
      this.#fail(MillraceError.fromNative(event.error ?? { message: 'the request failed without saying why' }))
      return
    }
    this.#finish(finish === 'error' ? 'stop' : finish, event.timings)
  }

  #finish(finish: FinishReason, timings: RequestTimings = { queueMs: 0, firstTokenMs: 0, totalMs: 0 }): void {
    if (this.#outcome) return
    if (this.#answer) this.#append(this.#answer.flush())
    const result: GenerationResult = {
      text: this.#read.toString() + this.#unread.toString(),
      tokens: this.#tokens,
      ...(this.#task.request.logprobs ? { logprobs: this.#logprobs } : {}),
      ...(this.#task.request.topLogprobs > 0 ? { topLogprobs: this.#topLogprobs } : {}),
      finishReason: this.#stopped ? 'stop' : finish,
      usage: {
        promptTokens: this.#promptTokens,
        completionTokens: this.#tokens.length,
        ...(this.#truncatedTokens > 0 ? { truncatedTokens: this.#truncatedTokens } : {}),
      },
      timings,
      seed: this.#task.request.seed,
    }
    this.#outcome = { result }
    this.#resolve(result)
    if (this.#request === undefined) this.#settled()
    this.#wakeReader()
  }

  #fail(error: unknown): void {
    if (this.#outcome) return
    const failure = MillraceError.fromNative(error)
    if (this.#request === undefined && failure.code !== 'ABORTED') {
      const { code, retryAfterMs } = failure
      this.#task.log.warn({ model: this.#task.native.id, code, retryAfterMs }, `request refused: ${failure.message}`)
    }
    this.#outcome = { error: failure }
    this.#reject(failure)
    // With a request under way the engine's last event is still to come.
    if (this.#request === undefined) this.#settled()
    this.#wakeReader()
  }

  #settled(event?: NativeTokensEvent): void {
    this.#settledAlready = true
    this.#offAbort()
    this.#release()
    this.#task.onSettled(this)
    if (this.#request === undefined || event?.finish === undefined) return
    publishEnd({
      kind: 'generate',
      model: this.#task.native.id,
      request: this.#request,
      promptTokens: this.#promptTokens,
      completionTokens: this.#tokens.length,
      finishReason: this.#stopped ? 'stop' : event.finish,
      error: event.error?.code,
      timings: event.timings,
      log: this.#task.log,
    })
  }

  /** By a stop text. */
  get #stopped(): boolean {
    return this.#answer?.stopped ?? false
  }

  #append(text: string): void {
    this.#unread.push(text)
  }

  #takeChunk(): GenerationChunk | undefined {
    // Tokens without text yet wait for the text that they are part of, or for the end.
    const rest = this.#outcome && 'result' in this.#outcome && this.#tokens.length > this.#readTokens
    if (this.#unread.empty && !rest) return undefined
    const text = this.#unread.take()
    this.#read.push(text)
    const chunk: GenerationChunk = {
      text,
      tokens: this.#tokens.slice(this.#readTokens),
      ...(this.#task.request.logprobs ? { logprobs: this.#logprobs.slice(this.#readTokens) } : {}),
      ...(this.#task.request.topLogprobs > 0 ? { topLogprobs: this.#topLogprobs.slice(this.#readTokens) } : {}),
    }
    this.#readTokens = this.#tokens.length
    return chunk
  }

  #wakeReader(): void {
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }
}

function topOf({ tokens, topTokens, topLogprobs }: NativeTokensEvent, index: number): TokenLogprob[] {
  const count = topTokens!.length / tokens.length
  return Array.from({ length: count }, (_, rank) => {
    const at = index * count + rank
    return { token: topTokens![at]!, logprob: topLogprobs![at]! }
  })
}

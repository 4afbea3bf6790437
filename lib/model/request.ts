/** The life of every request: admitted, tokenised, submitted, answered by events, settled; one clock from the call on. */
import type { NativeFinish, NativeRequestKind, NativeSchedule, NativeTokensEvent } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { publishEnd, publishStart } from './diagnostics.ts'
import type { RequestQueue } from './queue.ts'
import { runtime } from './runtime.ts'
import { abortedError, onAbort } from './signals.ts'

export interface RequestTimings {
  /** Milliseconds from the call to the first step: tokenising and waiting. */
  queueMs: number
  /** From the call to the first token; 0 if there was none. */
  firstTokenMs: number
  totalMs: number
}

/** Token ids as they are, or how to get them; the signal says that they are wanted no more. */
export type PromptSource = Int32Array | ((signal: AbortSignal) => Promise<Int32Array>)

export interface RequestTask {
  queue: RequestQueue
  /** Throws what the result shall reject with. */
  prompt: () => PromptSource
  schedule: NativeSchedule
  signal: AbortSignal | undefined
}

/** The engine's request for a prompt, apart from what all requests have. */
export type PreparedRequest = { tokens: Int32Array } & NativeRequestKind

export interface RequestEnd {
  finish: NativeFinish
  timings: RequestTimings
  /** The engine's last; absent where the request never came to it. */
  event?: NativeTokensEvent
}

/** The longest that a timer can wait. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1

/** Subclasses call start() when they are ready to be called back. */
export abstract class Request<Result> {
  /** Rejects with CONTEXT_OVERFLOW, QUEUE_FULL, ABORTED, MODEL_CLOSED and others. Never an unhandled rejection if unread. */
  readonly result: Promise<Result>
  protected abstract readonly kind: NativeRequestKind['kind']
  protected outcome: { result: Result } | { error: unknown } | undefined
  /** Resolves when the request has ended in every respect: nothing of it is with tokenizer or engine any more. */
  protected readonly settled: Promise<void>

  readonly #began = performance.now()
  readonly #task: RequestTask
  /** Of the queue, once admitted. */
  #id: number | undefined
  #submitted = false
  #stopping = false
  #promptTokens = 0
  /** Of a prompt that is being tokenised: ends that, and the time that it may take. */
  #tokenising: AbortController | undefined
  #timer: NodeJS.Timeout | undefined
  #resolve!: (result: Result) => void
  #reject!: (error: unknown) => void
  #markSettled!: () => void
  #release: () => void = () => {}
  #offAbort: () => void = () => {}

  protected constructor(task: RequestTask) {
    this.#task = task
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.result.catch(() => {})
    this.settled = new Promise((resolve) => {
      this.#markSettled = resolve
    })
  }

  /** Makes the engine's request of the prompt. Throws what the result shall reject with. */
  protected abstract prepare(tokens: Int32Array): PreparedRequest
  /** Takes what an event brings; nothing comes after the outcome. */
  protected abstract take(event: NativeTokensEvent): void
  /** The result. Throws what it shall reject with instead. */
  protected abstract complete(end: RequestEnd): Result
  /** What is told of it when the engine is done. */
  protected abstract summary(finish: NativeFinish): { finishReason: NativeFinish; completionTokens: number }
  /** Something has come, or the outcome. */
  protected changed(): void {}

  /** Ends the request; its result has what there is. Nothing happens if it has ended. */
  cancel(): void {
    if (this.outcome || this.#stopping) return
    this.#stop()
    if (!this.#submitted) this.#complete({ finish: 'abort', timings: this.#timings() })
  }

  protected start(): void {
    const { queue, signal, prompt } = this.#task
    if (signal?.aborted) {
      this.#abort(signal)
      return
    }
    this.#attempt(() => {
      const source = prompt()
      this.#id = queue.admit(this)
      this.#release = runtime().hold()
      if (signal) this.#offAbort = onAbort(signal, () => this.#abort(signal))
      if (source instanceof Int32Array) this.#submit(source)
      else this.#tokenise(source)
    })
  }

  #tokenise(encode: (signal: AbortSignal) => Promise<Int32Array>): void {
    this.#tokenising = new AbortController()
    this.#watchLimits()
    encode(this.#tokenising.signal).then(
      (tokens) => {
        this.#tokenising = undefined
        this.#attempt(() => this.#submit(tokens))
      },
      (error) => this.#fail(error),
    )
  }

  /** Until the engine watches them. */
  #watchLimits(): void {
    const { queueTimeoutMs, deadlineMs } = this.#task.schedule
    const first = Math.min(...[queueTimeoutMs, deadlineMs].filter((limit) => limit > 0))
    if (first === Number.POSITIVE_INFINITY) return
    const left = Math.min(Math.max(0, Math.ceil(first - this.#age())), MAX_TIMEOUT_MS)
    this.#timer = setTimeout(() => {
      this.#attempt(() => this.#checkLimits())
      if (!this.outcome) this.#watchLimits()
    }, left)
  }

  #checkLimits(): void {
    const { queueTimeoutMs, deadlineMs } = this.#task.schedule
    const over = (limit: number) => limit > 0 && this.#age() >= limit
    if (over(queueTimeoutMs)) {
      throw new MillraceError('QUEUE_TIMEOUT', { message: 'the request waited longer than its queueTimeoutMs' })
    }
    if (over(deadlineMs)) {
      throw new MillraceError('DEADLINE_EXCEEDED', { message: 'the request was not done by its deadlineMs' })
    }
  }

  #submit(tokens: Int32Array): void {
    if (this.outcome) return
    const { queue, schedule } = this.#task
    const { native, log } = queue
    const id = this.#id!
    this.#checkLimits()
    const request = this.prepare(tokens)
    native.submit(id, { ...request, ...schedule, ageMs: this.#age() })
    this.#submitted = true
    this.#promptTokens = request.tokens.length
    clearTimeout(this.#timer)
    runtime().addRequest(id, { onEvent: (event) => this.#onEvent(event) })
    queue.submitted(this)
    publishStart({ kind: this.kind, model: native.id, request: id, promptTokens: this.#promptTokens, log })
  }

  #onEvent(event: NativeTokensEvent): void {
    const { finish, timings = this.#timings() } = event
    if (!this.outcome) this.#attempt(() => this.take(event))
    if (finish === undefined) {
      if (this.outcome && !this.#stopping) this.#stop()
    } else {
      this.#complete({ finish, timings, event })
      this.#settle(event)
    }
    this.changed()
  }

  #abort(signal: AbortSignal): void {
    if (!this.#stopping) this.#stop()
    this.#fail(abortedError(signal, 'the request'))
  }

  #stop(): void {
    this.#stopping = true
    if (this.#submitted) this.#task.queue.native.cancel(this.#id!)
  }

  #attempt(action: () => void): void {
    try {
      action()
    } catch (error) {
      this.#fail(error)
    }
  }

  #complete(end: RequestEnd): void {
    if (this.outcome) return
    this.#attempt(() => {
      const result = this.complete(end)
      this.outcome = { result }
      this.#resolve(result)
      this.#ended()
    })
  }

  #fail(cause: unknown): void {
    if (this.outcome) return
    const error = MillraceError.fromNative(cause)
    const { code, message, retryAfterMs } = error
    if (!this.#submitted && code !== 'ABORTED') {
      const { native, log } = this.#task.queue
      log.warn({ model: native.id, code, retryAfterMs }, `request refused: ${message}`)
    }
    this.outcome = { error }
    this.#reject(error)
    this.#ended()
  }

  /** With a request under way the engine's last event is still to come. */
  #ended(): void {
    if (!this.#submitted) this.#settle()
    this.changed()
  }

  #settle(event?: NativeTokensEvent): void {
    clearTimeout(this.#timer)
    this.#offAbort()
    this.#release()
    const { queue } = this.#task
    if (this.#id !== undefined) queue.leave(this)
    this.#tokenising?.abort()
    this.#markSettled()
    if (event?.finish === undefined) return
    publishEnd({
      kind: this.kind,
      model: queue.native.id,
      request: this.#id!,
      promptTokens: this.#promptTokens,
      ...this.summary(event.finish),
      error: event.error?.code,
      timings: event.timings,
      log: queue.log,
    })
  }

  #age(): number {
    return performance.now() - this.#began
  }

  /** Of a request that never ran: it has queued all its life. */
  #timings(): RequestTimings {
    const age = this.#age()
    return { queueMs: age, firstTokenMs: 0, totalMs: age }
  }
}

/** What the engine says of a request that failed. */
export function failureOf(event: NativeTokensEvent | undefined): MillraceError {
  return MillraceError.fromNative(event?.error ?? { message: 'the request failed without saying why' })
}

/**
 * Server-sent events from an async generator: at the reader's pace, with a comment now and then where nothing else
 * comes, ended where nobody reads any more.
 */
import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { type Problem, problemOf } from './problem.ts'

export interface SseOptions {
  reply: FastifyReply
  /** Aborted when the reader goes; the events end with it. */
  controller: AbortController
  /** The event that says how a stream failed, once it has begun. */
  failed: (problem: Problem) => string
  /** Milliseconds of silence after which a comment keeps proxies from giving up. */
  pingMs: number
  /** Milliseconds that a reader may take nothing at all. */
  stallMs: number
}

const PING = ': ping\n\n'
const SILENCE = Symbol('silence')

export const dataEvent = (value: object) => `data: ${JSON.stringify(value)}\n\n`
export const namedEvent = (event: string, value: object) => `event: ${event}\ndata: ${JSON.stringify(value)}\n\n`

/**
 * Sends the events as the answer. A failure before the first of them, within `pingMs`, rejects, so that it gets a
 * status of its own; a later one is an event.
 */
export async function sendEvents(events: AsyncIterable<string>, options: SseOptions): Promise<FastifyReply> {
  const { reply, pingMs } = options
  const iterator = events[Symbol.asyncIterator]()
  const first = iterator.next()
  const isSilent = (await within(first, pingMs)) === SILENCE // rejects with what failed
  reply.headers({
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
  })
  return reply.send(new EventBody(iterator, first, options, isSilent))
}

/** Timers are the stream's own, two however many events there are: an event costs no more than its text. */
class EventBody extends Readable {
  readonly #iterator: AsyncIterator<string>
  readonly #options: SseOptions
  #next: Promise<IteratorResult<string>> | undefined
  /** Waits for the next event; else for the reader. */
  #pulling = false
  #ended = false
  readonly #silence: NodeJS.Timeout
  /** While the reader takes nothing. */
  #stall: NodeJS.Timeout | undefined

  constructor(
    iterator: AsyncIterator<string>,
    first: Promise<IteratorResult<string>>,
    options: SseOptions,
    isSilent: boolean,
  ) {
    super({ highWaterMark: 16 * 1024 })
    this.#iterator = iterator
    this.#options = options
    this.#next = first
    first.catch(() => {}) // should nobody read
    this.#silence = setTimeout(() => this.#ping(), options.pingMs).unref()
    if (isSilent) this.push(PING)
  }

  override _read(): void {
    clearTimeout(this.#stall)
    if (!this.#pulling) void this.#pull()
  }

  async #pull(): Promise<void> {
    this.#pulling = true
    try {
      for (;;) {
        this.#silence.refresh()
        const { value, done } = await (this.#next ?? this.#iterator.next())
        this.#next = undefined
        if (this.destroyed) return
        if (done) return this.#end()
        if (!this.push(value)) break
      }
      this.#pulling = false
      // A reader that takes nothing would hold its connection for ever.
      this.#stall = setTimeout(() => this.#options.reply.raw.destroy(), this.#options.stallMs).unref()
    } catch (error) {
      const { controller, failed } = this.#options
      if (!this.destroyed && !controller.signal.aborted) this.push(failed(problemOf(error)))
      this.#end()
    }
  }

  #ping(): void {
    if (this.#ended || this.destroyed) return
    if (this.#pulling) this.push(PING)
    this.#silence.refresh()
  }

  #end(): void {
    this.#ended = true
    if (!this.destroyed) this.push(null)
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    clearTimeout(this.#silence)
    clearTimeout(this.#stall)
    this.#options.controller.abort()
    void this.#iterator.return?.().catch(() => {})
    callback(error)
  }
}
async function within<T>(promise: Promise<T>, ms: number): Promise<T | typeof SILENCE> {
  let timer: NodeJS.Timeout | undefined
  const silence = new Promise<typeof SILENCE>((resolve) => {
    timer = setTimeout(resolve, ms, SILENCE)
  })
  try {
    return await Promise.race([promise, silence])
  } finally {
    clearTimeout(timer)
  }
}

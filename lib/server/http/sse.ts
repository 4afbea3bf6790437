/**
 * Server-sent events from an async generator: at the reader's pace, with a comment now and then where nothing else
 * comes, ended where nobody reads any more.
 */
import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { ChunkWriter } from './chunks.ts'
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

/** Why a request was aborted; one for all, since each has a stack that takes longer than what it tells of. */
export const READER_LEFT = new DOMException('Nobody reads the answer any more', 'AbortError')

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

/**
 * Timers are the stream's own, two however many events there are: an event costs no more than its text. Piped to a
 * connection it writes there itself; piped elsewhere, or read, it is a stream as any other.
 */
class EventBody extends Readable {
  readonly #iterator: AsyncIterator<string>
  readonly #options: SseOptions
  #next: Promise<IteratorResult<string>> | undefined
  /** Written before the first event. */
  #head: string
  /** Waits for the next event; else for the reader. */
  #pulling = false
  #ended = false
  readonly #silence: NodeJS.Timeout
  /** While the reader takes nothing. */
  #stall: NodeJS.Timeout | undefined
  #chunks: ChunkWriter | undefined

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
    this.#head = isSilent ? PING : ''
  }

  override pipe<Destination extends NodeJS.WritableStream>(to: Destination, options?: { end?: boolean }): Destination {
    if (options?.end !== false) this.#chunks = ChunkWriter.of(to)
    if (!this.#chunks) return super.pipe(to, options)
    void this.#pull()
    return to
  }

  override _read(): void {
    if (!this.#chunks) this.#goOn()
  }

  #goOn(): void {
    clearTimeout(this.#stall)
    if (!this.#pulling) void this.#pull()
  }

  async #pull(): Promise<void> {
    this.#pulling = true
    try {
      if (this.#head !== '') this.#write(this.#head)
      this.#head = ''
      for (;;) {
        this.#silence.refresh()
        const { value, done } = await (this.#next ?? this.#iterator.next())
        this.#next = undefined
        if (this.destroyed) return
        if (done) return this.#end()
        if (!this.#write(value)) break
      }
      this.#pulling = false
      // A reader that takes nothing would hold its connection for ever.
      this.#stall = setTimeout(() => this.#options.reply.raw.destroy(), this.#options.stallMs).unref()
      this.#chunks?.onDrain(() => this.#goOn())
    } catch (error) {
      const { controller, failed } = this.#options
      if (!this.destroyed && !controller.signal.aborted) this.#write(failed(problemOf(error)))
      this.#end()
    }
  }

  /** Whether the reader keeps up. */
  #write(text: string): boolean {
    return this.#chunks ? this.#chunks.write(text) : this.push(text)
  }

  #ping(): void {
    if (this.#ended || this.destroyed) return
    if (this.#pulling) this.#write(PING)
    this.#silence.refresh()
  }

  #end(): void {
    this.#ended = true
    if (this.destroyed) return
    this.push(null)
    if (!this.#chunks) return
    // As a pipe has it: this stream's end first, which fastify waits for, then the answer's.
    this.once('end', () => this.#chunks!.end())
    this.resume()
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    clearTimeout(this.#silence)
    clearTimeout(this.#stall)
    this.#options.controller.abort(READER_LEFT)
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

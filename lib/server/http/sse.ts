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
  const { reply, controller, pingMs } = options
  const iterator = events[Symbol.asyncIterator]()
  const first = iterator.next()
  const begun = await within(first, pingMs) // rejects with what failed
  reply.headers({
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
  })
  const body = Readable.from(paced(begun === SILENCE ? first : Promise.resolve(begun), iterator, options), {
    objectMode: false,
    highWaterMark: 16 * 1024,
  })
  body.on('error', () => controller.abort())
  return reply.send(body)
}

async function* paced(
  first: Promise<IteratorResult<string>>,
  iterator: AsyncIterator<string>,
  { reply, controller, failed, pingMs, stallMs }: SseOptions,
): AsyncGenerator<string, void, undefined> {
  let next = first
  try {
    for (;;) {
      const found = await within(next, pingMs)
      // A reader that takes nothing would hold its connection for ever.
      const stalled = setTimeout(() => reply.raw.destroy(), stallMs)
      stalled.unref()
      try {
        if (found === SILENCE) yield PING
        else if (found.done) return
        else yield found.value
      } finally {
        clearTimeout(stalled)
      }
      if (found !== SILENCE) next = iterator.next()
    }
  } catch (error) {
    if (!controller.signal.aborted) yield failed(problemOf(error))
  } finally {
    controller.abort()
    next.catch(() => {})
    void iterator.return?.().catch(() => {})
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

/** What every route of a server works with. */
import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from 'fastify'
import type { ChatMessage, ChatOptions, EmbedOptions, EmbedResult, Generation, Prompt } from '../index.ts'
import type { AnswerOptions } from './answer/options.ts'
import { invalid, loadProblem, type Problem } from './http/problem.ts'
import { READER_LEFT, sendEvents } from './http/sse.ts'
import type { Metrics } from './metrics.ts'
import type { Lease, ModelPool } from './pool/pool.ts'

export interface ServerContext {
  pool: ModelPool
  metrics: Metrics
  pingMs: number
  stallMs: number
  /** Prompts and answers may be logged. */
  logPrompts: boolean
  /** Told of failures, also of those within streams. */
  note(problem: Problem): void
}

/** One request to a route, and what it holds. */
export class Call {
  readonly context: ServerContext
  readonly reply: FastifyReply
  readonly log: FastifyBaseLogger
  readonly controller = new AbortController()
  readonly created = Math.floor(Date.now() / 1000)

  constructor(context: ServerContext, request: FastifyRequest, reply: FastifyReply) {
    this.context = context
    this.reply = reply
    this.log = request.log
    // Also after the answer, where it changes nothing.
    reply.raw.once('close', () => this.controller.abort(READER_LEFT))
    if (context.logPrompts) request.log.info({ body: request.body }, 'request body')
  }

  get signal(): AbortSignal {
    return this.controller.signal
  }

  /** The model that the request names; the only one there is, if it names none. */
  async lease(model: string | undefined): Promise<Lease> {
    const { pool } = this.context
    const name = model ?? (pool.names.length === 1 ? pool.names[0] : undefined)
    if (name === undefined) throw invalid(`expected the name of a model for model but received nothing`, 'model')
    try {
      return await pool.acquire(name, this.signal)
    } catch (error) {
      throw loadProblem(name, error)
    }
  }

  /** Runs with the model, and lets go of it at the end. */
  async withModel<T>(model: string | undefined, run: (lease: Lease) => Promise<T>): Promise<T> {
    const lease = await this.lease(model)
    try {
      return await run(lease)
    } finally {
      lease.release()
    }
  }

  chat({ model, name }: Lease, messages: readonly ChatMessage[], options: ChatOptions): Generation {
    return this.#watched(name, model.chat(messages, { ...options, signal: this.signal }))
  }

  generate({ model, name }: Lease, prompt: Prompt, options: AnswerOptions): Generation {
    return this.#watched(name, model.generate(prompt, { ...options, signal: this.signal }))
  }

  async embed({ model, name }: Lease, texts: readonly Prompt[], options: EmbedOptions): Promise<EmbedResult> {
    const began = performance.now()
    const result = await model.embed(texts, { ...options, signal: this.signal })
    this.context.metrics.embedded(name, result.usage.promptTokens, (performance.now() - began) / 1000)
    return result
  }

  #watched(name: string, generation: Generation): Generation {
    this.context.metrics.watch(name, generation)
    return generation
  }

  /** Answers with server-sent events. */
  stream(events: AsyncIterable<string>, failed: (problem: Problem) => string): Promise<FastifyReply> {
    const { context, reply, controller, log } = this
    const { pingMs, stallMs } = context
    const told = (problem: Problem) => {
      context.note(problem)
      log.warn({ code: problem.code, status: problem.status }, 'stream failed')
      return failed(problem)
    }
    return sendEvents(events, { reply, controller, failed: told, pingMs, stallMs })
  }
}

/** 'chatcmpl-4f9c...'. */
export const newId = (prefix: string) => `${prefix}${randomUUID().replaceAll('-', '')}`

/** The server as a fastify plugin, for an application of one's own: routes, errors and metrics, in a scope of their own. */
import { Socket } from 'node:net'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import { probe } from '../index.ts'
import { countTokens, messages } from './anthropic/messages.ts'
import { Call, type ServerContext } from './context.ts'
import { makeKeyCheck } from './http/keys.ts'
import { anthropicError, openaiError, Problem, problemOf } from './http/problem.ts'
import { Metrics } from './metrics.ts'
import { chatCompletions } from './openai/chat.ts'
import { completions } from './openai/completions.ts'
import { embeddings } from './openai/embeddings.ts'
import { findModel, listModels } from './openai/models.ts'
import { checkOptions, isModel, ramBudgetBytes, type ServerOptions, serverSchema } from './options.ts'
import { live } from './page/live.ts'
import { PAGE, PAGE_HEADERS } from './page/page.ts'
import { ModelPool, stopping } from './pool/pool.ts'
import type { ModelSource, PoolLog } from './pool/types.ts'
import { responses } from './responses/responses.ts'
import { isSleeping, sleep, wakeUp } from './vllm/sleep.ts'
import { applyTemplate, detokenize, tokenize } from './vllm/tokens.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Needs no key. */
    open?: boolean
    /** Which API words the errors. */
    errors?: 'openai' | 'anthropic'
  }
}

/** Where an application closes, requests have so long. */
export const DRAIN_MS = 30_000

type Handler = (call: Call, body: unknown) => Promise<unknown>

/** What serve() needs to know of the plugin that it registers. */
export interface ServerHandle {
  pool: ModelPool
  /** All models, or with `lazy` what their headers say. Rejects where one does not load. */
  loaded: Promise<void>
  /** From now on /ready says no, and connections end with their answers. */
  drain(): void
}

/**
 * Models load while the application starts, which has seconds for that where they take minutes: /ready tells, requests
 * wait for theirs.
 */
export const millraceServer: FastifyPluginAsync<ServerOptions & { onHandle?: (handle: ServerHandle) => void }> = async (
  app,
  { onHandle, ...given },
) => {
  // Options of fastify's own, such as the prefix, are not the server's.
  const { prefix: _, logLevel: __, logSerializers: ___, ...own } = given as Record<string, unknown>
  const options = checkOptions(serverSchema, own) as ServerOptions
  const machine = await probe()
  const pool = new ModelPool(sourcesOf(options, app.log, machine.gpus.length > 0), {
    log: app.log,
    ramBudgetBytes: ramBudgetBytes(options.ramBudget, machine.cpu.memoryAvailableBytes),
    maxWaitMs: options.maxWaitMs,
  })
  const health = new Health(pool, options.lazy ?? false)
  const context: ServerContext = {
    pool,
    metrics: new Metrics(pool),
    pingMs: options.pingMs ?? 15_000,
    stallMs: options.stallMs ?? 60_000,
    logPrompts: options.logPrompts ?? false,
    note: (problem) => health.note(problem),
  }
  const loaded = options.lazy ? pool.checkAll() : pool.loadAll()
  loaded.catch(() => {}) // told by the pool, and by requests
  onHandle?.({ pool, loaded, drain: () => health.drain() })
  // Before the application waits for its connections: those of streams end by this.
  app.addHook('preClose', async () => {
    health.drain()
    pool.close(DRAIN_MS).catch(() => {}) // told below
  })
  app.addHook('onClose', () => pool.close(DRAIN_MS))
  app.addHook('onResponse', async ({ raw: { socket } }) => {
    // Of an answer that had begun by then no header says that the connection ends with it.
    if (health.draining && socket instanceof Socket) socket.end()
  })
  const checkKey = makeKeyCheck([options.apiKey ?? []].flat())
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
    // As Anthropic's clients read it.
    reply.header('request-id', request.id)
    if (health.draining) reply.header('connection', 'close')
    if (!request.routeOptions.config.open) checkKey(request)
  })
  app.setErrorHandler((error, request, reply) => {
    const problem = problemOf(error)
    health.note(problem)
    sendProblem(problem, request, reply)
  })
  addRoutes(app, context, { ...options, version: machine.version }, health)
}

function addRoutes(
  app: FastifyInstance,
  context: ServerContext,
  options: ServerOptions & { version: string },
  health: Health,
): void {
  const { pool, metrics } = context
  const { version } = options
  const created = Math.floor(Date.now() / 1000)
  const bodyLimit = options.bodyLimit ?? 32 * 2 ** 20
  const post = (path: string, handler: Handler, errors: 'openai' | 'anthropic' = 'openai') =>
    app.post(path, { bodyLimit, config: { errors } }, (request, reply) => {
      const call = new Call(context, request, reply)
      return handler(call, request.body)
    })
  post('/v1/chat/completions', chatCompletions)
  post('/v1/completions', completions)
  post('/v1/responses', responses)
  post('/v1/embeddings', embeddings)
  post('/v1/messages', messages, 'anthropic')
  post('/v1/messages/count_tokens', countTokens, 'anthropic')
  post('/tokenize', tokenize)
  post('/detokenize', detokenize)
  post('/apply-template', applyTemplate)
  type Named = { Querystring: { model?: string } }
  app.post<Named>('/sleep', ({ query }) => sleep(pool, query.model))
  app.post<Named>('/wake_up', ({ query }) => wakeUp(pool, query.model))
  app.get<Named>('/is_sleeping', async ({ query }) => isSleeping(pool, query.model))
  app.get('/version', async () => ({ version }))
  app.get('/v1/models', async () => listModels(pool, created))
  app.get<{ Params: { '*': string } }>('/v1/models/*', async ({ params }) => findModel(pool, params['*'], created))
  if (options.page ?? true) {
    app.get('/', { config: { open: true } }, async (_, reply) => reply.headers(PAGE_HEADERS).send(PAGE))
    app.get('/live', (request, reply) => live(new Call(context, request, reply)))
  }
  app.get('/health', { config: { open: true } }, async () => ({ status: 'ok' }))
  app.get('/ready', { config: { open: true } }, async () => health.requireReady())
  app.get('/metrics', { config: { open: true } }, async (_, reply) => {
    reply.type(metrics.registry.contentType)
    return metrics.registry.metrics()
  })
}

/** Whether requests should come here. */
class Health {
  readonly #pool: ModelPool
  readonly #lazy: boolean
  #gpuLost = false
  draining = false

  constructor(pool: ModelPool, lazy: boolean) {
    this.#pool = pool
    this.#lazy = lazy
  }

  note({ code }: Problem): void {
    if (code === 'GPU_LOST') this.#gpuLost = true
  }

  drain(): void {
    this.draining = true
  }

  /** Throws a Problem of status 503. */
  requireReady(): object {
    if (this.draining || this.#pool.closing) throw stopping()
    const fail = (message: string, code: string) =>
      new Problem({ status: 503, type: 'overloaded_error', message, code })
    if (this.#gpuLost) throw fail('A fault has ended the use of the GPU: restart the server', 'GPU_LOST')
    const cold = this.#pool.entries.find(({ open }) => open === undefined)
    if (cold && !this.#lazy) throw fail(`${cold.source.name} is not loaded`, 'NOT_LOADED')
    return { status: 'ready' }
  }
}

export function sendProblem(problem: Problem, request: FastifyRequest, reply: FastifyReply): void {
  const { status, code, message, param, retryAfterMs, cause } = problem
  if (status >= 500) request.log.error({ code, err: cause ?? problem }, message)
  // The message may quote the request, which may be a prompt.
  else request.log.info({ code, status, param }, 'request refused')
  if (reply.raw.headersSent || reply.raw.destroyed) {
    reply.raw.destroy()
    return
  }
  reply.removeHeader('content-type')
  if (status === 429 || status === 503)
    reply.header('retry-after', Math.max(1, Math.ceil((retryAfterMs ?? 1000) / 1000)))
  if (retryAfterMs !== undefined) reply.header('retry-after-ms', Math.ceil(retryAfterMs))
  const body =
    request.routeOptions.config?.errors === 'anthropic'
      ? { ...anthropicError(problem), request_id: request.id }
      : openaiError(problem)
  reply.code(status).send(body)
}

/** Several models on one GPU share its memory, unless they have homes of their own. */
function sourcesOf({ models, load: common = {} }: ServerOptions, log: PoolLog, hasGpu: boolean): ModelSource[] {
  const several = Object.keys(models).length > 1
  return Object.entries(models).map(([name, given]) => {
    if (isModel(given)) return { name, path: given.path, options: {}, model: given }
    const { path, ...own } = typeof given === 'string' ? { path: given } : given
    const options = { logger: log, ...common, ...own }
    const { device = 'auto', placement } = options
    if (hasGpu && several && placement === undefined && (device === 'auto' || String(device).startsWith('cuda'))) {
      options.placement = 'shared'
    }
    return { name, path, options }
  })
}

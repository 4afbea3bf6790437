/** serve(): a server of its own, from options to a listening socket and back. */
import { type AddressInfo, createServer } from 'node:net'
import type { FastifyBaseLogger, FastifyInstance, HTTPMethods } from 'fastify'
import { MillraceError } from '../index.ts'
import { refuseClient } from './http/client_error.ts'
import { guardOrigins } from './http/origins.ts'
import { Problem, problemOf } from './http/problem.ts'
import { readable } from './http/readable_log.ts'
import { requestId } from './http/request_id.ts'
import { checkOptions, type ServeOptions, type ServerOptions, serveSchema } from './options.ts'
import { DRAIN_MS, millraceServer, type ServerHandle, sendProblem } from './plugin.ts'
import { requireNotAborted } from './signal.ts'
import { cors, fastify, pino } from './vendor.ts'

export interface Server extends AsyncDisposable {
  /** 'http://127.0.0.1:8080'. */
  readonly url: string
  /** What listens: of node:http and fastify, whose types its users need not have. */
  readonly app: {
    readonly server: { getConnections(done: (error: Error | null, count: number) => void): unknown }
  }
  /**
   * Takes no more connections, lets requests end for `drainMs` at most, aborts what is left, and frees the models. Again:
   * the same promise.
   */
  close(drainMs?: number): Promise<void>
}

/** Takes the lines of the log, in the place of stderr. */
export interface LogSink {
  write(line: string): void
}

/** Connections that wait to be taken, as far as the system lets them: of 1,000 at once node's 511 would lose some. */
const BACKLOG = 4096

/** Of the routes. */
const METHODS = ['GET', 'POST'] as const

interface App {
  app: FastifyInstance
  handle: ServerHandle
}

/** All but the socket. Rejects as load() does, ABORTED at the signal; nothing is left behind then. */
export async function makeApp(options: Omit<ServeOptions, 'port' | 'drainMs'>, logTo?: LogSink): Promise<App> {
  const { cors: wanted = false, logLevel = 'info', host = '127.0.0.1', signal, ...rest } = options
  const origins = Array.isArray(wanted) && wanted.includes('*') ? true : wanted
  const log = pino({ level: logLevel, redact: ['req.headers.authorization'] }, logTo ?? standardError())
  let handle: ServerHandle | undefined
  const app: FastifyInstance = fastify({
    loggerInstance: log as FastifyBaseLogger,
    genReqId: requestId,
    forceCloseConnections: 'idle',
    // What comes over a connection that is there already is answered: the balancer has been told by then.
    return503OnClosing: false,
    requestTimeout: 60_000,
    routerOptions: { maxParamLength: 512 },
    frameworkErrors: (error, request, reply) => sendProblem(problemOf(error), request, reply),
    clientErrorHandler: refuseClient,
  })
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?')[0]!.slice(0, 200)
    const method = request.method as HTTPMethods
    const others = METHODS.filter((other) => other !== method && app.hasRoute({ method: other, url: path }))
    if (others.length > 0) {
      reply.header('allow', others.join(', '))
      const message = `${path} takes ${others.join(' and ')}, not ${method}`
      const refused = { status: 405, type: 'invalid_request_error', message, code: 'method_not_allowed' } as const
      return sendProblem(new Problem(refused), request, reply)
    }
    const meant = app.hasRoute({ method, url: `/v1${path}` }) ? `: do you mean /v1${path}?` : ''
    const message = `There is no ${method} ${path} here${meant}`
    sendProblem(new Problem({ status: 404, type: 'not_found_error', message, code: 'not_found' }), request, reply)
  })
  app.setErrorHandler((error, request, reply) => sendProblem(problemOf(error), request, reply))
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
  })
  guardOrigins(app, origins, isLoopback(host) && [options.apiKey ?? []].flat().length === 0)
  if (origins !== false) {
    await app.register(cors, { origin: origins === true ? true : [...origins], exposedHeaders: ['x-request-id'] })
  }
  await app.register(millraceServer, {
    ...(rest as ServerOptions),
    onHandle: (found) => {
      handle = found
    },
  })
  const stop = () => void handle?.pool.close()
  signal?.addEventListener('abort', stop, { once: true })
  try {
    await app.ready()
    if (signal?.aborted) stop() // before there was a pool
    await handle!.loaded
    requireNotAborted(signal, 'the start of the server')
  } catch (error) {
    await app.close()
    requireNotAborted(signal, 'the start of the server')
    throw error
  } finally {
    signal?.removeEventListener('abort', stop)
  }
  return { app, handle: handle! }
}

/** JSON, but where a person reads it. */
const standardError = (): LogSink =>
  process.stderr.isTTY ? { write: (line) => void process.stderr.write(readable(line)) } : pino.destination(2)

/**
 * Resolves when it listens, its models being loaded unless `lazy`. Rejects as load() does, ABORTED at the signal, and where
 * it cannot listen.
 */
export async function serve(options: ServeOptions, logTo?: LogSink): Promise<Server> {
  const {
    host = '127.0.0.1',
    port = 8080,
    drainMs = DRAIN_MS,
    ...rest
  } = checkOptions(serveSchema, options) as ServeOptions
  if (port !== 0) await requireFree(host, port) // before a model is loaded for nothing
  const { app, handle } = await makeApp({ ...rest, host }, logTo)
  try {
    await app.listen({ host, port, backlog: BACKLOG })
  } catch (error) {
    await app.close()
    throw cannotListen(error, host, port)
  }
  const { port: bound } = app.server.address() as AddressInfo
  let closing: Promise<void> | undefined
  const close = (limit = drainMs) => {
    closing ??= closeAll(app, handle, limit)
    return closing
  }
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${bound}`,
    app,
    close,
    [Symbol.asyncDispose]: () => close(),
  }
}

const isLoopback = (host: string) => host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host)

async function requireFree(host: string, port: number): Promise<void> {
  const probe = createServer()
  try {
    await new Promise<void>((listening, failed) => probe.once('error', failed).listen({ host, port }, listening))
  } catch (error) {
    throw cannotListen(error, host, port)
  }
  await new Promise((closed) => probe.close(closed))
}

function cannotListen(error: unknown, host: string, port: number): unknown {
  const code = (error as NodeJS.ErrnoException).code
  if (code === 'EADDRINUSE') {
    return new MillraceError('INVALID_ARGUMENT', {
      message: `port ${port} of ${host} is taken: something listens there already`,
      remedy: 'end it, or choose another port; port 0 takes one that is free',
      cause: error,
    })
  }
  if (code !== 'EACCES' && code !== 'EADDRNOTAVAIL' && code !== 'ENOTFOUND' && code !== 'EAI_AGAIN') return error
  return new MillraceError('INVALID_ARGUMENT', {
    message: `cannot listen at port ${port} of ${host} (${code})`,
    remedy: 'choose an address of this machine and a port that this user may have, such as 127.0.0.1 and 8080',
    cause: error,
  })
}

async function closeAll(app: FastifyInstance, { pool, drain }: ServerHandle, limitMs: number): Promise<void> {
  drain()
  const { server } = app
  const closed = new Promise<void>((resolve) => server.close(() => resolve()))
  await pool.idle(limitMs)
  await pool.close()
  // What they were told is on its way; who does not take it has had his time.
  const giveUp = setTimeout(() => server.closeAllConnections(), LAST_WORDS_MS)
  server.closeIdleConnections()
  await closed
  clearTimeout(giveUp)
  await app.close()
}

const LAST_WORDS_MS = 2000

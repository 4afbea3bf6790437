/** One request to the hub: what may be a moment's trouble is tried again, what is none is told. */
import { setTimeout as sleep } from 'node:timers/promises'
import { MillraceError } from '../errors.ts'
import { abortedError } from '../model/signals.ts'
import { type Asked, refusal } from './errors.ts'
import type { HubSettings } from './settings.ts'

const AGENT = `millrace (node ${process.versions.node})`
/** A longer wait is the caller's to decide on. */
const LONGEST_WAIT_MS = 60_000
/** No server under that address: a second try is enough. */
const NOBODY = ['ENOTFOUND', 'ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'EAI_AGAIN']
/** No better a moment later: whoever answers is not who he should be. */
const UNTRUSTED = /CERT|SIGNATURE|ERR_TLS_CERT/

/** What may be better a moment later. */
export class Transient extends Error {
  readonly waitMs: number | undefined
  readonly nobody: boolean

  constructor(message: string, more: { waitMs?: number | undefined; nobody?: boolean; cause?: unknown } = {}) {
    super(message, { cause: more.cause })
    this.waitMs = more.waitMs
    this.nobody = more.nobody ?? false
  }
}

/**
 * Calls `attempt` until it succeeds. A Transient is tried again after a pause; `attempts` in a row without `progress()`
 * having grown are HUB_UNAVAILABLE. Whatever else it throws is final.
 */
export async function withRetries<T>(
  attempt: () => Promise<T>,
  { endpoint, attempts, pauseMs }: HubSettings,
  signal: AbortSignal | undefined,
  progress: () => number = () => 0,
): Promise<T> {
  for (let failures = 0, before = progress(); ; ) {
    try {
      return await attempt()
    } catch (error) {
      if (signal?.aborted) throw abortedError(signal, 'the download')
      if (!(error instanceof Transient)) throw error
      if (progress() > before) failures = 0
      before = progress()
      failures++
      const pause = error.waitMs ?? pauseMs * 2 ** Math.min(failures - 1, 4) * (0.75 + Math.random() / 2)
      if (failures >= (error.nobody ? Math.min(2, attempts) : attempts) || pause > LONGEST_WAIT_MS) {
        throw new MillraceError('HUB_UNAVAILABLE', {
          message: `${endpoint}: ${error.message}`,
          ...(error.nobody && PROXY !== undefined ? { remedy: unusedProxy(PROXY) } : {}),
          ...(error.waitMs === undefined ? {} : { retryAfterMs: error.waitMs }),
          cause: error,
        })
      }
      await sleep(pause, undefined, signal && { signal }).catch(() => {})
    }
  }
}

const PROXY = ['HTTPS_PROXY', 'https_proxy', 'HTTP_PROXY', 'http_proxy'].find((name) => process.env[name])

const unusedProxy = (name: string) =>
  `${name} is set, and Node.js uses it only where NODE_USE_ENV_PROXY=1 is set as well, from 22.21 and 24.5 on`

/** Ends a connection that brings nothing for too long. */
export class Watch {
  readonly #controller = new AbortController()
  readonly #timer: NodeJS.Timeout
  readonly signal: AbortSignal

  constructor({ stallMs }: HubSettings, signal: AbortSignal | undefined) {
    const late = () => this.#controller.abort(new DOMException('too late', 'TimeoutError'))
    this.#timer = setTimeout(late, stallMs)
    this.signal = signal ? AbortSignal.any([signal, this.#controller.signal]) : this.#controller.signal
  }

  /** Something came. */
  touch(): void {
    this.#timer.refresh()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }
}

/** A whole answer. Throws as ask() does. */
export async function askText(
  url: string,
  asked: Asked,
  settings: HubSettings,
  signal: AbortSignal | undefined,
): Promise<Response> {
  const watch = new Watch(settings, signal)
  try {
    const response = await ask(url, asked, settings, watch)
    const text = await response.text().catch((error) => {
      throw asTransient(error, settings)
    })
    return new Response(text, { status: response.status, headers: response.headers })
  } finally {
    watch.stop()
  }
}

/** An answer of success; its body may still be cut. Throws Transient, RangeRefused, and what refusal() makes. */
export async function ask(
  url: string,
  asked: Asked,
  settings: HubSettings,
  watch: Watch,
  headers: Record<string, string> = {},
): Promise<Response> {
  const authorised = settings.token !== undefined && new URL(url).origin === new URL(settings.endpoint).origin
  let response: Response
  try {
    response = await fetch(url, {
      headers: {
        'user-agent': AGENT,
        'accept-encoding': 'identity',
        ...headers,
        ...(authorised ? { authorization: `Bearer ${settings.token!.value}` } : {}),
      },
      signal: watch.signal,
    })
  } catch (error) {
    throw asTransient(error, settings)
  }
  const { status } = response
  if (response.ok) return response
  await response.body?.cancel().catch(() => {})
  const elsewhere = new URL(response.url).origin !== new URL(settings.endpoint).origin
  // Signed addresses of its storage expire: the hub gives another.
  const expired = elsewhere && status >= 400 && status < 500 && status !== 416
  if (status === 429 || status === 408 || status >= 500 || expired) {
    const what = status === 429 ? 'asks for fewer requests (429)' : `answers ${status}`
    throw new Transient(what, { waitMs: retryAfter(response) })
  }
  throw status === 416 ? new RangeRefused() : refusal(response, asked, settings)
}

/** 416: what is here already is not the beginning of what is there. */
export class RangeRefused extends Error {}

/** Of a connection, and of a body that ends early. */
export function asTransient(error: unknown, { endpoint, stallMs }: HubSettings): Transient | MillraceError {
  const cause = ((error as Error).cause ?? error) as NodeJS.ErrnoException
  if ((error as Error).name === 'TimeoutError' || cause.name === 'TimeoutError') {
    return new Transient(`no data for ${stallMs / 1000} seconds`, { cause: error })
  }
  const { code } = cause
  if (code !== undefined && UNTRUSTED.test(code)) {
    return new MillraceError('HUB_UNAVAILABLE', {
      message: `${endpoint}: its certificate is not accepted: ${cause.message || code}`,
      remedy: 'name the certificates of your network by NODE_EXTRA_CA_CERTS, and check HF_ENDPOINT and the clock',
      cause: error,
    })
  }
  const nobody = code !== undefined && NOBODY.includes(code)
  const message = cause.message || code || (error as Error).message
  return new Transient(`${nobody ? 'cannot be reached' : 'the connection was cut'}: ${message}`, {
    nobody,
    cause: error,
  })
}

function retryAfter(response: Response): number | undefined {
  const text = response.headers.get('retry-after')
  if (text === null) return undefined
  const seconds = Number(text)
  const ms = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(text) - Date.now()
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined
}

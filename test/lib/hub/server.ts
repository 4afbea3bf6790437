/** A server that behaves like the hub, its storage on another origin, with every fault that a test asks for. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import type { HubSettings } from '../../../lib/hub/settings.ts'

export interface Repo {
  files: Record<string, Buffer>
  /** Who may read it: everyone, those with the token, or nobody before accepting terms. */
  access?: 'public' | 'private' | 'gated'
  refs?: Record<string, string>
}

/** What becomes of one answer with content; the default is a whole one. */
export interface Fault {
  status?: number
  headers?: Record<string, string>
  /** The connection ends after so many bytes of the answer. */
  cutAfter?: number
  /** Nothing more comes after so many. */
  stallAfter?: number
  /** Milliseconds between pieces of 64 KiB. */
  slow?: number
  corrupt?: boolean
  ignoreRange?: boolean
  /** In the place of the file's. */
  content?: Buffer
  /** As a proxy packs what passes it, asked or not. */
  gzip?: boolean
  /** In the place of the right one; '': none. */
  contentRange?: string
  /** More than there should be. */
  surplus?: number
  /** Before anything is sent. */
  before?: () => Promise<void> | void
}

export interface Served {
  path: string
  range: string | undefined
  authorization: string | undefined
  /** Of content. */
  bytes: number
}

const LARGE = 64 * 1024
const PAGE = 5

export const commitOf = (name: string) => createHash('sha1').update(name).digest('hex')
export const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
export const gitSha1 = (bytes: Buffer) =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
export const blobOf = (bytes: Buffer) => (bytes.length > LARGE ? sha256(bytes) : gitSha1(bytes))

/** The files of a folder, links followed, as a repository has them. */
export function filesOf(folder: string): Record<string, Buffer> {
  const names = readdirSync(folder, { recursive: true }).map(String)
  return Object.fromEntries(
    names
      .filter((name) => statSync(join(folder, name)).isFile())
      .map((name) => [name, readFileSync(join(folder, name))]),
  )
}

const MODELS = join(import.meta.dirname, '..', '..', '..', 'models')
const GGUF = join(import.meta.dirname, '..', '..', 'goldens', 'gguf')

/** What the documents name, as the smallest models there are: of GGUF one in two types, of others the demo. */
export function documented(name: string): Repo {
  if (!/gguf$/i.test(name)) return { files: filesOf(join(MODELS, 'demo')) }
  const read = (file: string) => readFileSync(join(GGUF, file))
  return { files: { 'model-Q4_K_M.gguf': read('llama-Q4_0.gguf'), 'model-Q8_0.gguf': read('llama-Q3_K_M.gguf') } }
}

export class LocalHub {
  readonly repos = new Map<string, Repo>()
  /** Names that have become others. */
  readonly moved = new Map<string, string>()
  /** Where the next page of a list is. */
  nextPage = (url: URL): URL => url
  /** Of names that are not among them. */
  fallback: (name: string) => Repo | undefined = () => undefined
  readonly token = 'hf_test'
  /** Requests for content, at the hub and at its storage. */
  readonly served: Served[] = []
  /** All requests' paths. */
  readonly asked: string[] = []
  /** Asked before every answer with content: of the hub ('resolve') or the storage ('storage'). */
  fault: (where: 'resolve' | 'storage', path: string, times: number) => Fault | undefined = () => undefined
  /** Asked before every answer about a repository. */
  apiFault: (times: number) => Fault | undefined = () => undefined
  readonly #hub: Server = createServer((request, response) => void this.#onHub(request, response))
  readonly #storage: Server = createServer((request, response) => void this.#onStorage(request, response))
  readonly #times = new Map<string, number>()
  endpoint = ''
  storage = ''

  static async start(): Promise<LocalHub> {
    const hub = new LocalHub()
    for (const server of [hub.#hub, hub.#storage]) {
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
    }
    hub.endpoint = `http://127.0.0.1:${(hub.#hub.address() as AddressInfo).port}`
    hub.storage = `http://127.0.0.1:${(hub.#storage.address() as AddressInfo).port}`
    return hub
  }

  /** Of one who asks here, in haste, with a cache of his own. */
  settings(cache: string): HubSettings {
    return { endpoint: this.endpoint, token: undefined, cache, offline: false, stallMs: 2000, pauseMs: 1, attempts: 4 }
  }

  close(): void {
    for (const server of [this.#hub, this.#storage]) {
      server.closeAllConnections()
      server.close()
    }
  }

  /** Content that was sent of a file. */
  bytesOf(path: string): number {
    return this.served.filter((one) => one.path === path).reduce((sum, one) => sum + one.bytes, 0)
  }

  #count(key: string): number {
    const times = this.#times.get(key) ?? 0
    this.#times.set(key, times + 1)
    return times
  }

  #onHub(request: IncomingMessage, response: ServerResponse): unknown {
    const url = new URL(request.url!, this.endpoint)
    const path = decodeURIComponent(url.pathname)
    this.asked.push(path)
    const api = /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/([^?]+)$/.exec(path)
    const [, resolved, revision, file] = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path) ?? []
    const name = api?.[1] ?? resolved ?? ''
    const moved = this.moved.get(name)
    if (moved !== undefined) return response.writeHead(307, { location: request.url!.replace(name, moved) }).end()
    const repo = this.repos.get(name) ?? this.fallback(name)
    const token = request.headers.authorization
    if (token !== undefined && token !== `Bearer ${this.token}`) return refuse(response, 401, '', 'Invalid credentials')
    const hidden = repo?.access === 'private' && token === undefined
    if (!repo || hidden)
      return refuse(response, token === undefined ? 401 : 404, 'RepoNotFound', 'Repository not found')
    const commits: Record<string, string> = { main: commitOf(name), ...repo.refs }
    const commit =
      commits[api?.[3] ?? revision!] ?? Object.values(commits).find((one) => one === (api?.[3] ?? revision))
    if (commit === undefined) return refuse(response, 404, 'RevisionNotFound', 'Invalid rev id')
    if (api) {
      const fault = this.apiFault(this.#count('api')) ?? {}
      if (fault.status !== undefined) return response.writeHead(fault.status, fault.headers).end()
      if (api[2] === 'revision')
        return json(response, { _id: '1', id: name, sha: commit, private: false, lastModified: 0 })
      return this.#tree(url, repo, response)
    }
    if (repo.access === 'gated') {
      return refuse(response, token === undefined ? 401 : 403, 'GatedRepo', 'Access to model is restricted')
    }
    const content = repo.files[file!]
    if (content === undefined) return refuse(response, 404, 'EntryNotFound', 'Entry not found')
    const times = this.#count(`resolve ${file}`)
    if (content.length > LARGE) {
      const fault = this.fault('resolve', file!, times) ?? {}
      if (fault.status !== undefined) return response.writeHead(fault.status, fault.headers).end()
      const location = `${this.storage}/${name}/${file!.split('/').map(encodeURIComponent).join('/')}?signature=${times}`
      return response.writeHead(302, { location }).end()
    }
    return this.#send(request, response, file!, content, this.fault('resolve', file!, times) ?? {})
  }

  #tree(url: URL, repo: Repo, response: ServerResponse): void {
    const all = Object.entries(repo.files).map(([path, content]) => ({
      type: 'file',
      path,
      size: content.length,
      oid: gitSha1(content.length > LARGE ? Buffer.from('pointer') : content),
      ...(content.length > LARGE ? { lfs: { oid: sha256(content), size: content.length, pointerSize: 130 } } : {}),
    }))
    const from = Number(url.searchParams.get('cursor') ?? 0)
    const next = new URL(url)
    next.searchParams.set('cursor', String(from + PAGE))
    const link = from + PAGE < all.length ? { link: `<${this.nextPage(next).href}>; rel="next"` } : {}
    json(response, [{ type: 'directory', path: 'x', size: 0, oid: '' }, ...all.slice(from, from + PAGE)], link)
  }

  #onStorage(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url!, this.storage)
    const [, name, path] = /^\/([^/]+\/[^/]+)\/(.+)$/.exec(decodeURIComponent(url.pathname))!
    const fault = this.fault('storage', path!, this.#count(`storage ${path}`)) ?? {}
    void this.#send(request, response, path!, (this.repos.get(name!) ?? this.fallback(name!))!.files[path!]!, fault)
  }

  async #send(
    request: IncomingMessage,
    response: ServerResponse,
    path: string,
    stored: Buffer,
    fault: Fault,
  ): Promise<unknown> {
    const whole = fault.content ?? stored
    await fault.before?.()
    const { range, authorization } = request.headers
    const served = { path, range, authorization, bytes: 0 }
    this.served.push(served)
    if (fault.status !== undefined) return response.writeHead(fault.status, fault.headers).end()
    const [, begin, end] = /^bytes=(\d+)-(\d*)$/.exec((fault.ignoreRange ? undefined : range) ?? '') ?? []
    const from = Number(begin ?? 0)
    if (from >= whole.length && from > 0) return response.writeHead(416).end()
    const to = end ? Math.min(whole.length, Number(end) + 1) : whole.length
    let content = Buffer.from(whole.subarray(from, to))
    if (fault.corrupt) content[content.length >> 1]! ^= 1
    if (fault.gzip) content = gzipSync(content)
    if (fault.surplus) content = Buffer.concat([content, Buffer.alloc(fault.surplus)])
    response.writeHead(begin === undefined ? 200 : 206, {
      ...(fault.surplus ? {} : { 'content-length': content.length }),
      ...(fault.gzip ? { 'content-encoding': 'gzip' } : {}),
      ...(begin === undefined || fault.contentRange === ''
        ? {}
        : { 'content-range': fault.contentRange ?? `bytes ${from}-${to - 1}/${whole.length}` }),
    })
    const most = Math.min(fault.cutAfter ?? fault.stallAfter ?? content.length, content.length)
    for (let at = 0; at < most; at += LARGE) {
      const piece = content.subarray(at, Math.min(at + LARGE, most))
      if (response.destroyed) return undefined
      if (!response.write(piece)) await drained(response)
      served.bytes += piece.length
      if (fault.slow) await sleep(fault.slow)
    }
    if (most === content.length) return response.end()
    if (fault.stallAfter !== undefined) return undefined
    // What was written goes out before the connection is cut.
    await sleep(20)
    return response.destroy()
  }
}

/** Or closed. */
function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done)
      resolve()
    }
    response.on('drain', done).on('close', done)
  })
}

function json(response: ServerResponse, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(200, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
}

function refuse(response: ServerResponse, status: number, code: string, message: string): void {
  const headers = { 'x-error-code': code, 'x-error-message': message, 'content-type': 'application/json' }
  response.writeHead(status, headers).end(JSON.stringify({ error: message }))
}

/**
 * The models of a server: loaded at start or when they are first asked for, and unloaded, the one unused for longest
 * first, where RAM is short. Nothing is unloaded under a request.
 */
import { load, MillraceError, type Model } from '../../index.ts'
import { modelNotFound, Problem } from '../http/problem.ts'
import { estimateBytes, takenBytes } from './bytes.ts'
import { PoolEntry } from './entry.ts'
import type { ModelSource, PoolLog, PoolOptions } from './types.ts'

export class ModelPool {
  readonly #entries = new Map<string, PoolEntry>()
  readonly #budgetBytes: number
  readonly #maxWaitMs: number
  readonly #log: PoolLog
  readonly #load: typeof load
  readonly #estimate: (source: ModelSource, signal: AbortSignal) => Promise<number>
  readonly #stop = new AbortController()
  #timer: NodeJS.Timeout | undefined
  #closing: Promise<void> | undefined
  /** Models that took another's place. */
  switches = 0
  /** What the last load that failed did so by. */
  failure: unknown

  constructor(sources: readonly ModelSource[], options: PoolOptions) {
    for (const source of sources) this.#entries.set(source.name, new PoolEntry(source))
    this.#budgetBytes = options.ramBudgetBytes ?? Number.POSITIVE_INFINITY
    this.#maxWaitMs = options.maxWaitMs ?? 10_000
    this.#log = options.log
    this.#load = options.load ?? load
    this.#estimate = options.estimate ?? estimateBytes
  }

  get names(): string[] {
    return [...this.#entries.keys()]
  }

  get entries(): readonly PoolEntry[] {
    return [...this.#entries.values()]
  }

  has(name: string): boolean {
    return this.#entries.has(name)
  }

  get closing(): boolean {
    return this.#closing !== undefined
  }

  /** Loads all models. Rejects where one does not load, or where they do not fit together. */
  async loadAll(): Promise<void> {
    for (const { source } of this.#entries.values()) {
      const lease = await this.acquire(source.name).catch((error) => Promise.reject(this.#named(error, source.name)))
      lease.release()
    }
    const cold = this.entries.find(({ model }) => model === undefined)
    if (!cold) return
    throw new MillraceError('OUT_OF_MEMORY', {
      message: `the models do not fit into the RAM budget together: ${cold.source.name} gave way to another`,
      remedy: 'give a larger --ram-budget, name fewer models, or load them when they are asked for (--lazy)',
    })
  }

  /** Loads none. Rejects where headers say that one cannot be loaded, or where one does not fit even by itself. */
  async checkAll(): Promise<void> {
    for (const entry of this.#entries.values()) {
      if (entry.source.model) continue
      const estimate = this.#estimate(entry.source, this.#stop.signal)
      const bytes = await estimate.catch((error) => Promise.reject(this.#named(error, entry.source.name)))
      if (bytes > this.#budgetBytes) throw tooLarge(entry, bytes, this.#budgetBytes)
    }
  }

  /** Of several models, which one it is that does not load. */
  #named(error: unknown, name: string): unknown {
    if (this.#entries.size === 1 || !MillraceError.isInstance(error)) return error
    const { code, message, remedy } = error
    return new MillraceError(code, { message: `${name}: ${message}`, remedy, cause: error })
  }

  /**
   * A model for a request, until its release(). Loads it if need be: one load, however many ask. Rejects with a Problem
   * of status 404, with what the load failed by, and with the signal's reason.
   */
  acquire(name: string, signal?: AbortSignal): Promise<Lease> {
    const entry = this.#entries.get(name)
    if (!entry) return Promise.reject(modelNotFound(name))
    if (this.closing) return Promise.reject(stopping())
    if (signal?.aborted) return Promise.reject(signal.reason)
    if (entry.model && !entry.givesWay) return Promise.resolve(this.#lease(entry, entry.model))
    return new Promise((resolve, reject) => {
      const waiter = {
        since: performance.now(),
        take: (model: Model) => {
          signal?.removeEventListener('abort', leave)
          resolve(this.#lease(entry, model))
        },
        fail: (error: unknown) => {
          signal?.removeEventListener('abort', leave)
          reject(error)
        },
      }
      const leave = () => {
        entry.waiters.delete(waiter)
        reject(signal!.reason)
        this.#arrange()
      }
      signal?.addEventListener('abort', leave, { once: true })
      entry.waiters.add(waiter)
      this.#arrange()
    })
  }

  #lease(entry: PoolEntry, model: Model): Lease {
    entry.leases++
    entry.usedAt = performance.now()
    let held = true
    const release = () => {
      if (!held) return
      held = false
      entry.leases--
      entry.usedAt = performance.now()
      if (entry.leases === 0) this.#arrange()
    }
    return { model, name: entry.source.name, release, [Symbol.dispose]: release }
  }

  /** Serves those who wait, the one that has waited longest first; called whenever something has changed. */
  #arrange(): void {
    clearTimeout(this.#timer)
    if (this.closing) return
    for (const entry of this.#entries.values()) entry.givesWay = false
    const waiting = this.entries
      .filter((entry) => entry.waiters.size > 0 && !entry.busy)
      .sort((a, b) => a.waitingSince - b.waitingSince)
    for (const entry of waiting) {
      // One before it that failed has called this already: a second load of it would never be closed.
      if (entry.busy || entry.waiters.size === 0) continue
      if (entry.model) this.#serve(entry, entry.model)
      // Who comes later does not take the room of who waits already.
      else if (!this.#admit(entry)) break
    }
  }

  /** True if its load has begun; else somebody's end will call again. */
  #admit(entry: PoolEntry): boolean {
    if (entry.bytes === undefined) {
      entry.busy = true
      this.#estimate(entry.source, this.#stop.signal).then(
        (bytes) => {
          entry.busy = false
          entry.bytes = bytes
          this.#arrange()
        },
        (error) => this.#failed(entry, error),
      )
      return true
    }
    if (entry.bytes > this.#budgetBytes) {
      this.#failed(entry, tooLarge(entry, entry.bytes, this.#budgetBytes))
      return true
    }
    const missing = this.#bytesOf(({ model, busy }) => model !== undefined || busy) + entry.bytes - this.#budgetBytes
    if (missing <= 0) {
      void this.#loadEntry(entry)
      return true
    }
    const wanted = missing - this.#bytesOf(({ state }) => state === 'unloading')
    // The end of what is being unloaded calls again.
    if (wanted <= 0) return false
    const loaded = this.entries
      .filter(({ model, source, busy }) => model && !busy && source.model === undefined)
      .sort((a, b) => a.usedAt - b.usedAt)
    const idle = enough(
      loaded.filter(({ leases, waiters }) => leases === 0 && waiters.size === 0),
      wanted,
    )
    if (idle) for (const victim of idle) void this.#unload(victim)
    else this.#outrank(entry, loaded, wanted)
    return false
  }

  /** A model that has waited for its time comes before new requests of those that serve. */
  #outrank(entry: PoolEntry, loaded: readonly PoolEntry[], wanted: number): void {
    const left = this.#maxWaitMs - (performance.now() - entry.waitingSince)
    if (left > 0) {
      this.#timer = setTimeout(() => this.#arrange(), Math.ceil(left))
      return
    }
    for (const victim of enough(loaded, wanted) ?? loaded) {
      victim.givesWay = true
      if (victim.leases === 0) void this.#unload(victim)
    }
  }

  #serve(entry: PoolEntry, model: Model): void {
    for (const waiter of entry.waiters) waiter.take(model)
    entry.waiters.clear()
  }

  #bytesOf(which: (entry: PoolEntry) => boolean): number {
    return this.entries.filter(which).reduce((sum, { bytes = 0 }) => sum + bytes, 0)
  }

  async #loadEntry(entry: PoolEntry): Promise<void> {
    const { name, path, options } = entry.source
    entry.busy = true
    entry.state = 'loading'
    const began = performance.now()
    try {
      const model = await this.#load(path, { logger: this.#log, ...options, signal: this.#stop.signal })
      entry.loaded(model, takenBytes(model))
      this.#log.info({ model: name, ms: Math.round(performance.now() - began) }, 'model is ready')
    } catch (error) {
      // The system is short of RAM rather than the budget: who is not at work gives way.
      const victim = isMemory(error) ? this.#leastRecentlyUsed() : undefined
      if (!victim || this.closing) {
        this.#failed(entry, error)
        return
      }
      entry.busy = false
      entry.state = 'cold'
      await this.#unload(victim)
      return
    }
    entry.busy = false
    const model = entry.model!
    if (this.closing) {
      entry.model = undefined
      await model.close({ drain: false })
      return
    }
    this.#serve(entry, model)
    this.#arrange()
  }

  #leastRecentlyUsed(): PoolEntry | undefined {
    return this.entries
      .filter(({ model, busy, leases, source }) => model && !busy && leases === 0 && source.model === undefined)
      .sort((a, b) => a.usedAt - b.usedAt)[0]
  }

  #failed(entry: PoolEntry, error: unknown): void {
    entry.busy = false
    entry.state = 'cold'
    if (this.closing) return // whose waiters have been told
    const { code, message } = MillraceError.isInstance(error) ? error : { code: undefined, message: String(error) }
    this.failure = this.#named(error, entry.source.name)
    this.#log.error({ model: entry.source.name, code }, `model did not load: ${message}`)
    for (const waiter of entry.waiters) waiter.fail(error)
    entry.waiters.clear()
    this.#arrange()
  }

  async #unload(entry: PoolEntry): Promise<void> {
    const { model } = entry
    if (!model || entry.busy) return
    entry.busy = true
    entry.state = 'unloading'
    this.switches++
    try {
      entry.model = undefined // first of all: what fails below is not tried again
      entry.remember(model)
      await model.close()
    } catch (error) {
      this.#log.error({ model: entry.source.name }, `model did not close: ${String(error)}`)
    }
    entry.busy = false
    entry.state = 'cold'
    this.#log.info({ model: entry.source.name }, 'model gave way to another')
    this.#arrange()
  }

  /** Waits until no request holds or awaits a model, for so long at most. */
  async idle(timeoutMs: number): Promise<void> {
    const until = performance.now() + timeoutMs
    const busy = () => this.entries.some(({ leases, waiters }) => leases > 0 || waiters.size > 0)
    while (busy() && performance.now() < until) await new Promise((resolve) => setTimeout(resolve, IDLE_POLL_MS))
  }

  /** Nobody is admitted from now on, and loads end. Lets requests end for so long, then aborts them; models that were handed in stay. */
  close(timeoutMs = 0): Promise<void> {
    this.#closing ??= this.#close(timeoutMs)
    return this.#closing
  }

  async #close(timeoutMs: number): Promise<void> {
    clearTimeout(this.#timer)
    this.#stop.abort(stopping())
    for (const { waiters } of this.#entries.values()) {
      for (const waiter of waiters) waiter.fail(stopping())
      waiters.clear()
    }
    const owned = this.entries.filter(({ source }) => source.model === undefined)
    await Promise.all(owned.map(({ model }) => model?.close({ drain: timeoutMs > 0, timeoutMs })))
    for (const entry of owned) entry.model = undefined
  }
}

const IDLE_POLL_MS = 20

/** A model that stays loaded until it is released. */
export interface Lease extends Disposable {
  readonly model: Model
  readonly name: string
  release(): void
}

const isMemory = (error: unknown) => MillraceError.isInstance(error) && error.code === 'OUT_OF_MEMORY'

/** The first of them that together free so many bytes; undefined where all do not. */
function enough(entries: readonly PoolEntry[], bytes: number): PoolEntry[] | undefined {
  const found: PoolEntry[] = []
  let freed = 0
  for (const entry of entries) {
    if (freed >= bytes) break
    found.push(entry)
    freed += entry.bytes ?? 0
  }
  return freed >= bytes ? found : undefined
}

export const stopping = () =>
  new Problem({ status: 503, type: 'overloaded_error', message: 'The server is stopping', code: 'STOPPING' })

const tooLarge = ({ source }: PoolEntry, bytes: number, budget: number) =>
  new MillraceError('OUT_OF_MEMORY', {
    message: `${source.name} takes ${Math.ceil(bytes / 1e6)} MB of RAM, the server's RAM budget is ${Math.floor(budget / 1e6)} MB`,
    remedy: 'give the server a larger --ram-budget',
  })

/** One model of a pool, and who waits for it. */
import { MillraceError, type Model, type ModelStats } from '../../index.ts'
import { takenBytes } from './bytes.ts'
import type { ModelSource } from './types.ts'

export type ModelState = 'cold' | 'loading' | 'ready' | 'unloading'

export interface Waiter {
  since: number
  take(model: Model): void
  fail(error: unknown): void
}

/** What is counted over all the times that a model was loaded. */
export interface Counted {
  preemptions: number
  promptTokens: number
  reusedTokens: number
  returnedTokens: number
  draftedTokens: number
  acceptedTokens: number
  steps: number
  weightBytesRead: number
  copiedBytes: number
  switches: number
  loads: number
}

export class PoolEntry {
  readonly source: ModelSource
  model: Model | undefined
  state: ModelState = 'cold'
  /** Being loaded, unloaded or measured. */
  busy = false
  /** Another has waited for its time: no new request is let in. */
  givesWay = false
  leases = 0
  usedAt = 0
  /** Of RAM, once they are known. */
  bytes: number | undefined
  readonly waiters = new Set<Waiter>()
  #loads = 0
  #before: Omit<Counted, 'loads'> = NOTHING

  constructor(source: ModelSource) {
    this.source = source
    if (source.model) this.loaded(source.model, takenBytes(source.model))
  }

  loaded(model: Model, bytes: number): void {
    this.model = model
    this.state = 'ready'
    this.usedAt = performance.now()
    this.bytes = bytes
    this.#loads++
  }

  /** The model, unless it is one that was handed in and its owner has closed it. */
  get open(): Model | undefined {
    try {
      void this.model?.memory // throws of one that is closed
      return this.model
    } catch (error) {
      if (MillraceError.isInstance(error) && error.code === 'MODEL_CLOSED') return undefined
      throw error
    }
  }

  /** Of who waits longest. */
  get waitingSince(): number {
    return Math.min(...[...this.waiters].map(({ since }) => since))
  }

  /** Before the model is closed: what it has counted goes on counting. */
  remember(model: Model): void {
    this.#before = sum(this.#before, countedOf(model.stats))
  }

  get counted(): Counted {
    const now = this.open ? countedOf(this.open.stats) : NOTHING
    return { ...sum(this.#before, now), loads: this.#loads }
  }
}

const NOTHING = {
  preemptions: 0,
  promptTokens: 0,
  reusedTokens: 0,
  returnedTokens: 0,
  draftedTokens: 0,
  acceptedTokens: 0,
  steps: 0,
  weightBytesRead: 0,
  copiedBytes: 0,
  switches: 0,
}

const countedOf = ({ sequences, speculation, prefixCache, steps, weightBytesRead, streaming, arena }: ModelStats) => ({
  preemptions: sequences.preemptions,
  promptTokens: prefixCache.promptTokens,
  reusedTokens: prefixCache.reusedTokens,
  returnedTokens: prefixCache.returnedTokens,
  draftedTokens: speculation.draftedTokens,
  acceptedTokens: speculation.acceptedTokens,
  steps,
  weightBytesRead,
  copiedBytes: streaming.copiedBytes,
  switches: arena.switches,
})

function sum(a: Omit<Counted, 'loads'>, b: Omit<Counted, 'loads'>): Omit<Counted, 'loads'> {
  const entries = Object.entries(a).map(([name, value]) => [name, value + b[name as keyof typeof b]])
  return Object.fromEntries(entries) as Omit<Counted, 'loads'>
}

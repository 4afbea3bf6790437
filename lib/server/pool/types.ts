import type { LoadOptions, Logger, load, Model } from '../../index.ts'

/** A model that requests may name. */
export interface ModelSource {
  name: string
  /** Folder of the checkpoint, or a GGUF file. */
  path: string
  options: Omit<LoadOptions, 'signal'>
  /** One that is loaded already: it stays so, and is its owner's to close. */
  model?: Model
}

export type PoolLog = Logger

export interface PoolOptions {
  log: PoolLog
  /** System RAM for all models. Default: what each load finds. */
  ramBudgetBytes?: number | undefined
  /** Milliseconds after which a model that waits for room comes before new requests of those that serve. Default 10,000. */
  maxWaitMs?: number | undefined
  /** In their place, for tests. */
  load?: typeof load
  estimate?: (source: ModelSource, signal: AbortSignal) => Promise<number>
}

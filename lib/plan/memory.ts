/** Whether this machine has the RAM that a plan takes, asked before any of it is taken. */
import { MillraceError } from '../errors.ts'
import { megabytes, megabytesOf } from './megabytes.ts'

/** Of system RAM, in bytes. */
export interface SystemMemory {
  /** What this process may use at most: all that there is, or its cgroup's limit. */
  limitBytes: number
  /** What it could take now without pushing out anybody: free, or cache that the system gives back. */
  availableBytes: number
}

/** What a model takes, in bytes. */
export interface MemoryNeed {
  device: string
  hostBytes: number
  kvBytes: number
  kvSwapBytes: number
  ringBytes: number
}

const MOST_RESERVE = 256 * 2 ** 20

/** Besides what the plan names: the workspace, the tokenizer, what is read while repacking. */
export function reserveBytes(bytes: number): number {
  return Math.min(MOST_RESERVE, bytes / 8)
}

/**
 * Throws OUT_OF_MEMORY. `held`: this process has the weights already, for another model of the same checkpoint.
 *
 * A system that is asked for more than it has does not refuse: it kills the process, or another, once the pages are
 * written.
 */
export function checkMemory(need: MemoryNeed, memory: SystemMemory, held: boolean): void {
  const onDevice = need.kvBytes + need.ringBytes
  const weights = held ? 0 : need.hostBytes
  const bytes = weights + need.kvSwapBytes + (need.device === 'cpu' ? onDevice : 0)
  const reserve = reserveBytes(bytes)
  if (bytes + reserve <= memory.availableBytes) return
  const { sum, parts } = megabytesOf({
    weights,
    ...(need.device === 'cpu' ? { 'KV cache': need.kvBytes, ring: need.ringBytes } : {}),
    kvSwap: need.kvSwapBytes,
  })
  const fits = bytes + reserve <= memory.limitBytes
  throw new MillraceError('OUT_OF_MEMORY', {
    message: `the model needs ${sum} of RAM (${parts}) and ${megabytes(reserve)} to work in; of the ${megabytes(memory.limitBytes)} that this process may use ${megabytes(memory.availableBytes)} are free`,
    remedy: fits
      ? 'close other models or programs, or lower contextLength, maxSequences, kvTokens or kvSwap'
      : 'lower contextLength, maxSequences, kvTokens or kvSwap, or choose a smaller model',
  })
}

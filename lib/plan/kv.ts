/**
 * How large the KV cache of each class of layers is: those that have a window keep it alone, those that keep a state in the
 * place of keys and values have one a sequence.
 */
import type { KvType, NativeKvClass, NativeSlabPlan } from '../binding.ts'
import { KV_BLOCK_TOKENS } from './vram.ts'

export interface PlannedKv {
  layers: number
  /** Positions that a row of these layers sees; 0: all before it. */
  window: number
  /** How they are kept: of a state's layers float32. */
  type: KvType | 'f32'
  /** That the cache holds of these layers; 0 where they keep states. */
  tokens: number
  /** Of layers that keep states: how many sequences have one besides the copies, */
  sequences?: number
  /** and how many copies are kept for texts that begin like an earlier one; more sequences that run take their places. */
  copies?: number
}

/** The same with keys and values of that type, where layers can have it. */
export function keptAs(slabs: NativeSlabPlan, type: KvType = 'f16'): NativeSlabPlan {
  if (type === 'f16') return slabs
  const kv = slabs.kv.map(({ q8BytesPerToken, ...one }): NativeKvClass => {
    return q8BytesPerToken === undefined ? one : { ...one, bytesPerToken: q8BytesPerToken, type: 'q8' }
  })
  return { ...slabs, kv, kvBytesPerToken: kv.reduce((sum, { bytesPerToken }) => sum + bytesPerToken, 0) }
}

/**
 * Of every class, the one that keeps most has `tokens`: as csrc/engine/kv_pool.cc chooses its leader. States are there for
 * as many sequences as fill it, and for more while they take no more memory than it does; `mostSequences` at most.
 * `stateCopies` of them are kept besides, by default as many again, two at least.
 */
export function planKv(
  classes: readonly NativeKvClass[],
  tokens: number,
  contextLength: number,
  { maxRows, mostSequences, stateCopies }: { maxRows: number; mostSequences: number; stateCopies?: number | undefined },
): PlannedKv[] {
  const keeps = ({ window }: NativeKvClass) => (window === 0 ? Number.POSITIVE_INFINITY : window)
  const most = Math.max(...classes.filter((one) => !isState(one)).map(keeps))
  const blocks = (count: number) => Math.ceil(count / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS
  const sequences = Math.ceil(tokens / contextLength)
  const stateBytes = classes.reduce((sum, { bytesPerSequence }) => sum + bytesPerSequence, 0)
  const cacheBytes = classes.reduce((sum, { bytesPerToken }) => sum + bytesPerToken, 0) * tokens
  return classes.map((one) => {
    const { layers, window, type = isState(one) ? 'f32' : 'f16' } = one
    if (isState(one)) {
      const states = Math.min(mostSequences, Math.max(sequences, Math.floor(cacheBytes / stateBytes)))
      return {
        layers,
        window,
        type,
        tokens: 0,
        sequences: states,
        copies: stateCopies ?? Math.max(LEAST_COPIES, states),
      }
    }
    if (keeps(one) === most) return { layers, window, type, tokens }
    // What is kept begins up to two blocks before the window; of a prompt, a step's rows are added before any go.
    const kept = blocks(Math.min(contextLength, window + 2 * KV_BLOCK_TOKENS))
    const growing = blocks(Math.min(contextLength, window + maxRows + 2 * KV_BLOCK_TOKENS))
    return { layers, window, type, tokens: Math.min(tokens, (sequences - 1) * kept + growing) }
  })
}

/** A prompt's, and that of the answer under way. */
const LEAST_COPIES = 2

const isState = ({ bytesPerSequence }: NativeKvClass) => bytesPerSequence > 0

/** Blocks of each class, as the engine counts them: of states one a sequence and copy. */
export const kvBlocks = (kv: readonly PlannedKv[]): number[] =>
  kv.map(({ tokens, sequences = 0, copies = 0 }) => sequences + copies + tokens / KV_BLOCK_TOKENS)

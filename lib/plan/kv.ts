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
  /** and how many drafts of a pass have one until it is known which of them stand. */
  drafts?: number
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
 * `stateCopies` of them are kept besides, by default as many again, two at least; and as many for drafts, eight at most.
 */
export function planKv(
  classes: readonly NativeKvClass[],
  tokens: number,
  contextLength: number,
  { maxRows, mostSequences, stateCopies, stateDrafts }: KvLimits,
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
        drafts: stateDrafts ?? Math.min(MOST_DRAFTS, Math.max(LEAST_COPIES, states)),
      }
    }
    if (keeps(one) === most) return { layers, window, type, tokens }
    // What is kept begins up to two blocks before the window; of a prompt, a step's rows are added before any go.
    const kept = blocks(Math.min(contextLength, window + 2 * KV_BLOCK_TOKENS))
    const growing = blocks(Math.min(contextLength, window + maxRows + 2 * KV_BLOCK_TOKENS))
    return { layers, window, type, tokens: Math.min(tokens, (sequences - 1) * kept + growing) }
  })
}

export interface KvLimits {
  maxRows: number
  mostSequences: number
  stateCopies?: number | undefined
  stateDrafts?: number | undefined
}

/** A prompt's, and that of the answer under way. */
const LEAST_COPIES = 2

/** By default: what a pass is faster by falls with every draft more, what a state takes does not. */
const MOST_DRAFTS = 8

const isState = ({ bytesPerSequence }: NativeKvClass) => bytesPerSequence > 0

/** States of a class, whoever has them. */
export const statesOf = ({ sequences = 0, copies = 0, drafts = 0 }: PlannedKv): number => sequences + copies + drafts

/** Blocks of each class, as the engine counts them: of states one each. */
export const kvBlocks = (kv: readonly PlannedKv[]): number[] =>
  kv.map((one) => statesOf(one) + one.tokens / KV_BLOCK_TOKENS)

/** Drafts of a pass, at most: one a state that is kept for them. */
export const mostDrafts = (kv: readonly PlannedKv[]): number =>
  Math.min(...kv.map(({ drafts = Number.POSITIVE_INFINITY }) => drafts))

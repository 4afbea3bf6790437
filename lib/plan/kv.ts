/** How large the KV cache of each class of layers is: those that have a window keep it alone. */
import type { NativeKvClass } from '../binding.ts'
import { KV_BLOCK_TOKENS } from './vram.ts'

export interface PlannedKv {
  layers: number
  /** Positions that a row of these layers sees; 0: all before it. */
  window: number
  /** That the cache holds of these layers. */
  tokens: number
}

/** Of every class, the one that keeps most has `tokens`: as csrc/engine/kv_pool.cc chooses its leader. */
export function planKv(
  classes: readonly NativeKvClass[],
  tokens: number,
  contextLength: number,
  maxRows: number,
): PlannedKv[] {
  const keeps = ({ window }: NativeKvClass) => (window === 0 ? Number.POSITIVE_INFINITY : window)
  const most = Math.max(...classes.map(keeps))
  const blocks = (count: number) => Math.ceil(count / KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS
  const sequences = Math.ceil(tokens / contextLength)
  return classes.map(({ layers, window, ...rest }) => {
    if (keeps({ layers, window, ...rest }) === most) return { layers, window, tokens }
    // What is kept begins up to two blocks before the window; of a prompt, a step's rows are added before any go.
    const kept = blocks(Math.min(contextLength, window + 2 * KV_BLOCK_TOKENS))
    const growing = blocks(Math.min(contextLength, window + maxRows + 2 * KV_BLOCK_TOKENS))
    return { layers, window, tokens: Math.min(tokens, (sequences - 1) * kept + growing) }
  })
}

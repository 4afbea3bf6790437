/** What one architecture does otherwise than Llama. */
import type { Fields } from '../fields.ts'

/** Of which linears of the attention: those of query, key and value, or of the output too. */
export type AttentionBias = 'none' | 'qkv' | 'all'

export interface Architecture {
  /** Stands for the architecture where `architectures` is absent. */
  modelType: string
  /** Those of its class in transformers. */
  defaults: { maxPosition: number; kvHeads?: number; headDim?: number }
  attentionBias: (config: Fields) => AttentionBias
  feedForwardBias?: (config: Fields) => boolean
  /** Positions that a row sees, in every layer; 0: all before it. Absent: the architecture has no windows. */
  slidingWindow?: (config: Fields) => number
  /** RMSNorm of every query and key head. */
  qkNorm?: boolean
  /** Fields that it reads beside those that all do (keys.ts). */
  fields: readonly string[]
}

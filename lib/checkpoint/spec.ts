/** What inspect() and a model say of a shape; what is computed is the program's to say. */
import type { RopeSpec } from '../binding.ts'
import type { DecoderShape } from './decoder.ts'

export interface ModelSpec {
  vocab: number
  hidden: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  intermediate: number
  maxPosition: number
  rmsEpsilon: number
  rope: RopeSpec
  /** Positions that a row sees in layers that have a window, its own counted; 0: there are none. */
  slidingWindow: number
  /** Of the layers, those that have it. */
  windowedLayers: number
  /** Layers that keep a state in the place of keys and values. */
  stateLayers?: number
  /** Norms of queries and keys before they are rotated. */
  qkNorm: boolean
  /** Of layers that are mixtures of experts: how many are in each, how many answer a token, and features within one. */
  experts?: { count: number; chosen: number; width: number; layers: number }
}

/** Where layers differ, what is said is of the last without a window. */
export function specOf(shape: DecoderShape): ModelSpec {
  const layers = Array.from({ length: shape.layers }, (_, index) => shape.layer(index))
  const attending = layers.filter(({ deltaNet }) => !deltaNet)
  const windowed = attending.filter(({ window }) => window > 0)
  const typical = attending.findLast(({ window }) => window === 0) ?? layers.at(-1)!
  const mixtures = layers.flatMap(({ mixture }) => mixture ?? [])
  const [mixture] = mixtures
  const { experts: count = 0, chosen = 0, width = 0 } = mixture ?? {}
  const { heads, kvHeads, headDim, intermediate, rope, headNorms } = typical
  return {
    vocab: shape.vocab,
    hidden: shape.hidden,
    layers: shape.layers,
    heads,
    kvHeads,
    headDim,
    intermediate,
    maxPosition: shape.maxPosition,
    rmsEpsilon: shape.epsilon,
    rope,
    slidingWindow: windowed[0]?.window ?? 0,
    windowedLayers: windowed.length,
    ...(attending.length < layers.length ? { stateLayers: layers.length - attending.length } : {}),
    qkNorm: headNorms !== 'none',
    ...(mixture ? { experts: { count, chosen, width, layers: mixtures.length } } : {}),
  }
}

/** OLMo 2 and 3: what each half adds is normed, and what it reads is not. */
import type { DecoderShape } from '../decoder.ts'
import type { Fields } from '../fields.ts'
import { type Architecture, ATTENTION, withLayers } from './architecture.ts'
import { everyButEach, readWindows } from './windows.ts'

export const POST_NORMS = {
  afterAttention: 'post_attention_layernorm',
  afterFeedForward: 'post_feedforward_layernorm',
} as const

const decoder = (config: Fields, shape: DecoderShape): DecoderShape => ({
  ...withLayers(shape, () => ({ headNorms: 'whole', biases: config.attention_bias ? ATTENTION : [] })),
  norms: POST_NORMS,
})

export const olmo2: Architecture = {
  modelType: 'olmo2',
  defaults: { maxPosition: 2048, epsilon: 1e-5 },
  decoder,
  fields: [],
}

export const olmo3: Architecture = {
  modelType: 'olmo3',
  defaults: { maxPosition: 2048, epsilon: 1e-5 },
  ropesByType: { full: 1e4, sliding: 1e4 },
  windows: (config) => readWindows(config, 4096, everyButEach(4)),
  decoder,
  fields: ['sliding_window'],
}

/** OLMo: 1 norms without weights; of 2 and 3 what each half adds is normed, and what it reads is not. */
import type { DecoderShape } from '../decoder.ts'
import { type Fields, unsupportedField } from '../fields.ts'
import { fieldNumber } from '../json.ts'
import { type Architecture, ATTENTION, ownFields, withBiases, withLayers } from './architecture.ts'
import { everyButEach, readWindows } from './windows.ts'

export const POST_NORMS = {
  afterAttention: 'post_attention_layernorm',
  afterFeedForward: 'post_feedforward_layernorm',
} as const

const decoder = (config: Fields, shape: DecoderShape): DecoderShape => ({
  ...withLayers(shape, () => ({ headNorms: 'whole', biases: config.attention_bias ? ATTENTION : [] })),
  norms: POST_NORMS,
})

const readClip = ownFields({ clip_qkv: fieldNumber(0).nullish() })

export const olmo: Architecture = {
  modelType: 'olmo',
  defaults: { maxPosition: 2048 },
  decoder: (config, shape) => {
    const { clip_qkv: clip } = readClip(config)
    if (clip != null) throw unsupportedField('clip_qkv', 'null', clip)
    const llama = withBiases(shape, config.attention_bias ? ATTENTION : [])
    // What rms_norm_eps says is not read: its norms have no field of theirs.
    return { ...llama, layerNorm: true, bareNorms: true, epsilon: 1e-5 }
  },
  fields: ['clip_qkv'],
}

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

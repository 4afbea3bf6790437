/** Command R and Command A: attention and feed-forward of a layer side by side, behind one LayerNorm. */
import type { DecoderShape } from '../decoder.ts'
import { type Fields, unsupportedField } from '../fields.ts'
import { fieldBoolean, fieldNumber } from '../json.ts'
import { type Architecture, ATTENTION, ownFields, withLayers } from './architecture.ts'
import { byPattern, readWindows } from './windows.ts'

const read = ownFields({
  layer_norm_eps: fieldNumber(0).nullish(),
  logit_scale: fieldNumber(0).nullish(),
  use_qk_norm: fieldBoolean().nullish(),
  use_parallel_block: fieldBoolean().nullish(),
  use_gated_activation: fieldBoolean().nullish(),
})

function decoder(config: Fields, shape: DecoderShape): DecoderShape {
  const own = read(config)
  if (own.use_qk_norm) throw unsupportedField('use_qk_norm', 'false', true)
  for (const field of ['use_parallel_block', 'use_gated_activation'] as const) {
    if (own[field] === false) throw unsupportedField(field, 'true', false)
  }
  return {
    ...withLayers(shape, () => ({ interleaved: true, biases: config.attention_bias ? ATTENTION : [] })),
    norms: { beforeAttention: 'input_layernorm' },
    epsilon: own.layer_norm_eps ?? 1e-5,
    parallel: true,
    layerNorm: true,
    logitScale: own.logit_scale ?? 0.0625,
  }
}

const FIELDS = [
  'layer_norm_eps',
  'logit_scale',
  'use_qk_norm',
  'use_parallel_block',
  'use_gated_activation',
  'use_embedding_sharing',
]

export const cohere: Architecture = {
  modelType: 'cohere',
  defaults: { maxPosition: 8192, tied: true },
  decoder,
  fields: FIELDS,
}

export const cohere2: Architecture = {
  modelType: 'cohere2',
  defaults: { maxPosition: 8192, tied: true },
  windows: (config) => readWindows(config, 4096, byPattern(config, 4)),
  // Layers without a window do not rotate.
  decoder: (config, shape) =>
    withLayers(decoder(config, shape), ({ rope, window }) => ({ rope: window > 0 ? rope : { ...rope, rotary: 0 } })),
  fields: [
    ...FIELDS,
    'sliding_window',
    'sliding_window_pattern',
    '_sliding_window_pattern',
    'order_of_interleaved_layers',
    'rotary_pct',
    'position_embedding_type',
  ],
}

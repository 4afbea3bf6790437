/** Gemma 1, 2 and 3: the text part. */

import { z } from 'zod'
import type { DecoderShape, LayerNorms } from '../decoder.ts'
import { type Fields, unsupportedField } from '../fields.ts'
import { fieldNumber } from '../json.ts'
import { type Architecture, ATTENTION, ownFields, withBiases, withLayers } from './architecture.ts'
import { byPattern, everyButEach, readWindows } from './windows.ts'

export const GEMMA_ACTIVATIONS = { gelu_pytorch_tanh: 'geluTanh', gelu: 'gelu' } as const

export const GEMMA_NORMS: LayerNorms = {
  beforeAttention: 'input_layernorm',
  afterAttention: 'post_attention_layernorm',
  beforeFeedForward: 'pre_feedforward_layernorm',
  afterFeedForward: 'post_feedforward_layernorm',
}

const read = ownFields({
  query_pre_attn_scalar: fieldNumber(0).nullish(),
  attn_logit_softcapping: fieldNumber(0).nullish(),
  final_logit_softcapping: fieldNumber(0).nullish(),
  use_bidirectional_attention: z.unknown().optional(),
})

function decoder(config: Fields, shape: DecoderShape): DecoderShape {
  const { query_pre_attn_scalar: scalar, attn_logit_softcapping: cap, ...own } = read(config)
  const { final_logit_softcapping: logitCap, use_bidirectional_attention: both } = own
  if (both) throw unsupportedField('use_bidirectional_attention', 'false', both)
  const biases = config.attention_bias ? ATTENTION : []
  const layers = withLayers(shape, () => ({ biases, scale: (scalar ?? 256) ** -0.5, ...(cap == null ? {} : { cap }) }))
  return {
    ...layers,
    norms: GEMMA_NORMS,
    plusOne: true,
    embeddingScale: Math.sqrt(shape.hidden),
    ...(logitCap == null ? {} : { logitCap }),
  }
}

const FIELDS = [
  'sliding_window',
  'hidden_activation',
  'query_pre_attn_scalar',
  'attn_logit_softcapping',
  'final_logit_softcapping',
  'use_bidirectional_attention',
]

export const gemma: Architecture = {
  modelType: 'gemma',
  defaults: { maxPosition: 8192, kvHeads: 16, headDim: 256, tied: true },
  // Files of its first months say gelu and mean this one.
  activations: { gelu_pytorch_tanh: 'geluTanh', gelu: 'geluTanh' },
  decoder: (config, shape) => {
    const { use_bidirectional_attention: both } = read(config)
    if (both) throw unsupportedField('use_bidirectional_attention', 'false', both)
    return {
      ...withBiases(shape, config.attention_bias ? ATTENTION : []),
      plusOne: true,
      embeddingScale: Math.sqrt(shape.hidden),
    }
  },
  fields: ['hidden_activation', 'use_bidirectional_attention'],
}

export const gemma2: Architecture = {
  modelType: 'gemma2',
  defaults: { maxPosition: 8192, kvHeads: 4, headDim: 256, tied: true },
  activations: GEMMA_ACTIVATIONS,
  activationField: 'hidden_activation',
  windows: (config) => readWindows(config, 4096, everyButEach(2)),
  decoder: (config, shape) =>
    decoder({ attn_logit_softcapping: 50, final_logit_softcapping: 30, ...config } as Fields, shape),
  fields: FIELDS,
}

export const gemma3: Architecture = {
  modelType: 'gemma3_text',
  defaults: { maxPosition: 131072, kvHeads: 4, headDim: 256, tied: true },
  absent: {
    vocab_size: 262208,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
  },
  activations: GEMMA_ACTIVATIONS,
  activationField: 'hidden_activation',
  ropesByType: { full: 1e6, sliding: 1e4, slidingField: 'rope_local_base_freq' },
  windows: (config) => readWindows(config, 4096, byPattern(config, 6)),
  decoder: (config, shape) => withLayers(decoder(config, shape), () => ({ headNorms: 'heads' })),
  fields: [...FIELDS, 'rope_local_base_freq', 'sliding_window_pattern', '_sliding_window_pattern'],
}

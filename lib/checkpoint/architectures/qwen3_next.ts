/**
 * Qwen3-Next and Qwen3.5: Gated DeltaNet in most layers, attention with a gate of its output in the others; mixtures with an
 * expert that all tokens share, by a gate of their own, or dense.
 */
import { z } from 'zod'
import type { DecoderShape } from '../decoder.ts'
import type { DeltaNetShape } from '../delta_net.ts'
import { type Fields, unsupportedField } from '../fields.ts'
import { fieldBoolean, fieldInteger } from '../json.ts'
import { EXPERTS, type MixtureShape } from '../mixture.ts'
import { type Architecture, ATTENTION, ownFields, withLayers } from './architecture.ts'

const readLinear = ownFields({
  full_attention_interval: fieldInteger(1).nullish(),
  linear_conv_kernel_dim: fieldInteger(2, 16).nullish(),
  linear_key_head_dim: fieldInteger(1).nullish(),
  linear_value_head_dim: fieldInteger(1).nullish(),
  linear_num_key_heads: fieldInteger(1).nullish(),
  linear_num_value_heads: fieldInteger(1).nullish(),
  attn_output_gate: fieldBoolean().nullish(),
})

const readMixture = ownFields({
  num_experts: fieldInteger(0).nullish(),
  num_experts_per_tok: fieldInteger(1).nullish(),
  moe_intermediate_size: fieldInteger(1).nullish(),
  shared_expert_intermediate_size: fieldInteger(1).nullish(),
  norm_topk_prob: fieldBoolean().nullish(),
  decoder_sparse_step: fieldInteger(1).nullish(),
  mlp_only_layers: z.array(fieldInteger(0), { error: 'an array of layers' }).nullish(),
})

const LINEAR_FIELDS = [
  'full_attention_interval',
  'linear_conv_kernel_dim',
  'linear_key_head_dim',
  'linear_value_head_dim',
  'linear_num_key_heads',
  'linear_num_value_heads',
  'attn_output_gate',
  // What states are kept in: float32 here.
  'mamba_ssm_dtype',
  // Layers that guess a token ahead, whose tensors are not among the layers'.
  'mtp_num_hidden_layers',
  'mtp_use_dedicated_embeddings',
]
const MIXTURE_FIELDS = [
  'num_experts',
  'num_experts_per_tok',
  'moe_intermediate_size',
  'shared_expert_intermediate_size',
  'norm_topk_prob',
  'decoder_sparse_step',
  'mlp_only_layers',
]

function hybrid(config: Fields, shape: DecoderShape, stored: DeltaNetShape['stored']): DecoderShape {
  const own = readLinear(config)
  if (own.attn_output_gate === false) throw unsupportedField('attn_output_gate', 'true', false)
  const interval = own.full_attention_interval ?? 4
  const deltaNet: DeltaNetShape = {
    keyHeads: own.linear_num_key_heads ?? 16,
    valueHeads: own.linear_num_value_heads ?? 32,
    keyDim: own.linear_key_head_dim ?? 128,
    valueDim: own.linear_value_head_dim ?? 128,
    taps: own.linear_conv_kernel_dim ?? 4,
    module: 'linear_attn',
    stored,
  }
  if (deltaNet.valueHeads % deltaNet.keyHeads !== 0) {
    throw unsupportedField('linear_num_value_heads', `a multiple of ${deltaNet.keyHeads}`, deltaNet.valueHeads)
  }
  const isLinear = (layer: number) => {
    const type = config.layer_types?.[layer]
    return type == null ? (layer + 1) % interval !== 0 : type === 'linear_attention'
  }
  if (Array.from({ length: shape.layers }, (_, layer) => layer).every(isLinear)) {
    throw unsupportedField('layer_types', 'full_attention in a layer at least', 'linear_attention in all of them')
  }
  const layers = withLayers(shape, (_, layer) => ({
    headNorms: 'heads',
    outputGate: true,
    biases: config.attention_bias ? ATTENTION : [],
    ...(isLinear(layer) ? { deltaNet } : {}),
  }))
  return { ...layers, plusOne: true }
}

function withMixtures(
  config: Fields,
  shape: DecoderShape,
  defaults: { experts: number; chosen: number },
): DecoderShape {
  const own = readMixture(config)
  const mixture: MixtureShape = {
    experts: own.num_experts ?? defaults.experts,
    chosen: own.num_experts_per_tok ?? defaults.chosen,
    width: own.moe_intermediate_size ?? 512,
    score: 'softmax',
    renormalise: own.norm_topk_prob ?? true,
    names: { ...EXPERTS, fused: { gateUp: 'gate_up_proj', interleaved: false, transposed: false } },
    shared: {
      module: 'mlp.shared_expert',
      width: own.shared_expert_intermediate_size ?? 512,
      gate: 'mlp.shared_expert_gate',
    },
  }
  const isSparse = (layer: number) =>
    mixture.experts > 0 && !own.mlp_only_layers?.includes(layer) && (layer + 1) % (own.decoder_sparse_step ?? 1) === 0
  return withLayers(shape, (_, layer) => (isSparse(layer) ? { mixture } : {}))
}

const LAYER_TYPES = ['full_attention', 'linear_attention']
/** Of text alone the three positions that they are for are one. */
const ROPE_FIELDS = ['mrope_section', 'mrope_interleaved']

export const qwen3Next: Architecture = {
  modelType: 'qwen3_next',
  defaults: { maxPosition: 32768, kvHeads: 2, headDim: 256, partialRotary: 0.25 },
  absent: { intermediate_size: 5632 },
  layerTypes: LAYER_TYPES,
  decoder: (config, shape) => withMixtures(config, hybrid(config, shape, 'byKeyHeads'), { experts: 512, chosen: 10 }),
  fields: [...LINEAR_FIELDS, ...MIXTURE_FIELDS],
}

export const qwen35: Architecture = {
  modelType: 'qwen3_5_text',
  defaults: { maxPosition: 32768, kvHeads: 4, headDim: 256, partialRotary: 0.25 },
  absent: { vocab_size: 248320, intermediate_size: 12288 },
  ropeFields: ROPE_FIELDS,
  layerTypes: LAYER_TYPES,
  decoder: (config, shape) => hybrid(config, shape, 'apart'),
  fields: LINEAR_FIELDS,
}

export const qwen35Moe: Architecture = {
  modelType: 'qwen3_5_moe_text',
  defaults: { maxPosition: 32768, kvHeads: 2, headDim: 256, partialRotary: 0.25 },
  // All layers are mixtures.
  absent: { vocab_size: 248320, intermediate_size: 512 },
  ropeFields: ROPE_FIELDS,
  layerTypes: LAYER_TYPES,
  decoder: (config, shape) => {
    const {
      norm_topk_prob: _,
      decoder_sparse_step: __,
      mlp_only_layers: ___,
      ...own
    } = config as Record<string, unknown>
    return withMixtures(own as Fields, hybrid(config, shape, 'apart'), { experts: 256, chosen: 8 })
  },
  fields: [...LINEAR_FIELDS, ...MIXTURE_FIELDS],
}

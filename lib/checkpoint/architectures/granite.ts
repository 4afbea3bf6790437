/** Granite 3, Granite 4 where all its layers are dense, and HyperCLOVA X, which norms what each half adds. */
import type { Activation } from '../../binding.ts'
import type { DecoderShape } from '../decoder.ts'
import { type Fields, unsupportedField } from '../fields.ts'
import { fieldBoolean, fieldInteger, fieldNumber, fieldText } from '../json.ts'
import { type Architecture, ATTENTION, FEED_FORWARD, ownFields, withLayers } from './architecture.ts'

const read = ownFields({
  embedding_multiplier: fieldNumber(0).nullish(),
  residual_multiplier: fieldNumber(0).nullish(),
  attention_multiplier: fieldNumber(0).nullish(),
  logits_scaling: fieldNumber(0).nullish(),
})
const FIELDS = ['embedding_multiplier', 'residual_multiplier', 'attention_multiplier', 'logits_scaling']

function decoder(config: Fields, shape: DecoderShape): DecoderShape {
  const factors = read(config)
  const biases = [...(config.attention_bias ? ATTENTION : []), ...(config.mlp_bias ? FEED_FORWARD : [])]
  return {
    ...withLayers(shape, () => ({ biases, scale: factors.attention_multiplier ?? 1 })),
    embeddingScale: factors.embedding_multiplier ?? 1,
    residualScale: factors.residual_multiplier ?? 1,
    logitScale: 1 / (factors.logits_scaling ?? 1),
  }
}

export const granite: Architecture = {
  modelType: 'granite',
  defaults: { maxPosition: 2048 },
  decoder,
  fields: FIELDS,
}

const readHyper = ownFields({ use_post_norm: fieldBoolean().nullish() })

export const hyperClovaX: Architecture = {
  modelType: 'hyperclovax',
  defaults: { maxPosition: 2048 },
  decoder: (config, shape) => {
    const { attention_multiplier: scale, logits_scaling: logitScale } = read(config)
    const after = { afterAttention: 'post_norm1', afterFeedForward: 'post_norm2' }
    return {
      // Left out it is what all have, where Granite's is 1.
      ...withLayers(decoder(config, shape), ({ headDim }) => ({ scale: scale ?? headDim ** -0.5 })),
      // A factor, where Granite divides.
      logitScale: logitScale ?? 1,
      norms: { ...shape.norms, ...((readHyper(config).use_post_norm ?? true) ? after : {}) },
    }
  },
  fields: [...FIELDS, 'use_post_norm'],
}

const readHybrid = ownFields({
  num_local_experts: fieldInteger(0).nullish(),
  shared_intermediate_size: fieldInteger(1).nullish(),
  position_embedding_type: fieldText().nullish(),
})

export const graniteHybrid: Architecture = {
  modelType: 'granitemoehybrid',
  defaults: { maxPosition: 2048 },
  layerTypes: ['attention', 'full_attention'],
  decoder: (config, shape) => {
    const own = readHybrid(config)
    if (own.num_local_experts !== 0) {
      throw unsupportedField('num_local_experts', '0 (no mixture of experts)', own.num_local_experts ?? 8)
    }
    const rotates = own.position_embedding_type === 'rope'
    const intermediate = own.shared_intermediate_size ?? 1024
    const modules = { down: 'shared_mlp.output_linear' }
    const layers = withLayers(decoder(config, shape), ({ rope }) => ({
      intermediate,
      activation: 'silu' as Activation,
      fused: { gateUp: 'shared_mlp.input_linear' },
      rope: rotates ? rope : { ...rope, rotary: 0 },
    }))
    return { ...layers, modules }
  },
  fields: [
    ...FIELDS,
    'num_local_experts',
    'num_experts_per_tok',
    'shared_intermediate_size',
    'position_embedding_type',
    'output_router_logits',
    'mamba_n_heads',
    'mamba_n_groups',
    'mamba_d_state',
    'mamba_d_head',
    'mamba_d_conv',
    'mamba_expand',
    'mamba_chunk_size',
    'mamba_conv_bias',
    'mamba_proj_bias',
    'time_step_limit',
    'time_step_min',
    'time_step_max',
    'normalization_function',
    'layers_block_type',
  ],
}

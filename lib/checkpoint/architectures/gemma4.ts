/** Gemma 4, the text part: heads of two sizes, layers that read others' keys and values, an embedding for every layer. */
import { z } from 'zod'
import type { DecoderShape } from '../decoder.ts'
import { type Fields, unsupportedField } from '../fields.ts'
import { fieldBoolean, fieldInteger, fieldNumber } from '../json.ts'
import { type Architecture, ATTENTION, ownFields, withLayers } from './architecture.ts'
import { GEMMA_ACTIVATIONS, GEMMA_NORMS } from './gemma.ts'
import { everyButEach, readWindows } from './windows.ts'

const layerConfig = z.looseObject({
  head_dim: fieldInteger(2).nullish(),
  num_key_value_heads: fieldInteger(1).nullish(),
})

const read = ownFields({
  global_head_dim: fieldInteger(2).nullish(),
  num_global_key_value_heads: fieldInteger(1).nullish(),
  per_layer_config: z.record(z.string(), layerConfig, { error: 'an object' }).nullish(),
  attention_k_eq_v: fieldBoolean().nullish(),
  num_kv_shared_layers: fieldInteger(0).nullish(),
  use_double_wide_mlp: fieldBoolean().nullish(),
  enable_moe_block: fieldBoolean().nullish(),
  hidden_size_per_layer_input: fieldInteger(0).nullish(),
  vocab_size_per_layer_input: fieldInteger(1).nullish(),
  final_logit_softcapping: fieldNumber(0).nullish(),
  use_bidirectional_attention: z.unknown().optional(),
})

const GLOBAL_HEAD_DIM = 512

/** Of layers without a window. */
function globalHeadDim(config: Fields): number {
  const own = read(config)
  const said = Object.values(own.per_layer_config ?? {}).flatMap(({ head_dim: size }) => size ?? [])
  const other = said.find((size) => size !== said[0])
  if (other !== undefined) throw unsupportedField('per_layer_config', `heads of ${said[0]} in all its layers`, other)
  return said[0] ?? own.global_head_dim ?? GLOBAL_HEAD_DIM
}

function decoder(config: Fields, shape: DecoderShape): DecoderShape {
  const own = read(config)
  if (own.enable_moe_block) throw unsupportedField('enable_moe_block', 'false (no mixture of experts)', true)
  // 'vision': of images' tokens alone, which are not read.
  if (own.use_bidirectional_attention === 'all') throw unsupportedField('use_bidirectional_attention', 'null', 'all')
  const perLayer = own.hidden_size_per_layer_input ?? 256
  const tableRows = own.vocab_size_per_layer_input ?? shape.vocab
  if (perLayer > 0 && tableRows !== shape.vocab) {
    throw unsupportedField('vocab_size_per_layer_input', `vocab_size (${shape.vocab})`, tableRows)
  }
  const firstShared = shape.layers - (own.num_kv_shared_layers ?? 0)
  const isFull = (layer: number) => shape.layer(layer).window === 0
  const layers = withLayers(shape, ({ kvHeads, headDim, intermediate }, index) => {
    const shared = index >= firstShared && firstShared > 0
    const source = Array.from({ length: firstShared }, (_, at) => at).findLast((at) => isFull(at) === isFull(index))
    const full = isFull(index)
    const globalHeads = own.attention_k_eq_v ? own.num_global_key_value_heads : undefined
    return {
      headDim: full ? globalHeadDim(config) : headDim,
      kvHeads: full ? (own.per_layer_config?.[index]?.num_key_value_heads ?? globalHeads ?? kvHeads) : kvHeads,
      intermediate: own.use_double_wide_mlp && shared ? 2 * intermediate : intermediate,
      scale: 1,
      biases: config.attention_bias ? ATTENTION : [],
      headNorms: 'heads' as const,
      valueNorm: true,
      keyIsValue: full && (own.attention_k_eq_v ?? false),
      ...(shared && source !== undefined ? { sharesKv: source } : {}),
    }
  })
  return {
    ...layers,
    norms: GEMMA_NORMS,
    embeddingScale: Math.sqrt(shape.hidden),
    layerScalar: 'layer_scalar',
    ...(perLayer > 0 ? { perLayerInput: perLayer } : {}),
    ...(own.final_logit_softcapping == null ? {} : { logitCap: own.final_logit_softcapping }),
  }
}

export const gemma4: Architecture = {
  modelType: 'gemma4_text',
  defaults: { maxPosition: 131072, kvHeads: 4, headDim: 256, tied: true },
  absent: {
    vocab_size: 262144,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 30,
    num_attention_heads: 8,
    rope_parameters: {
      full_attention: { rope_type: 'proportional', partial_rotary_factor: 0.25, rope_theta: 1e6 },
      sliding_attention: { rope_type: 'default', rope_theta: 1e4 },
    },
  },
  activations: GEMMA_ACTIVATIONS,
  activationField: 'hidden_activation',
  ropeTypes: ['proportional'],
  headDimOf: (config, type) => (type === 'full_attention' ? globalHeadDim(config) : undefined),
  windows: (config) => {
    const windows = readWindows(config, 512, everyButEach(6))
    if (windows.at(-1) === 0) return windows
    throw unsupportedField('layer_types', 'full_attention in the last layer', 'sliding_attention')
  },
  decoder,
  fields: [
    'sliding_window',
    'hidden_activation',
    'global_head_dim',
    'num_global_key_value_heads',
    'per_layer_config',
    'attention_k_eq_v',
    'num_kv_shared_layers',
    'use_double_wide_mlp',
    'enable_moe_block',
    'num_experts',
    'top_k_experts',
    'moe_intermediate_size',
    'hidden_size_per_layer_input',
    'vocab_size_per_layer_input',
    'final_logit_softcapping',
    'use_bidirectional_attention',
  ],
}

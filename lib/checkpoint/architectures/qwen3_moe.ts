/** Qwen 3, mixtures of experts: some layers may be dense. */
import { z } from 'zod'
import { fieldBoolean, fieldInteger } from '../json.ts'
import { EXPERTS, type MixtureShape } from '../mixture.ts'
import { type Architecture, ATTENTION, ownFields, withLayers } from './architecture.ts'
import { QWEN_WINDOW_FIELDS, readWindows } from './windows.ts'

const read = ownFields({
  num_experts: fieldInteger(1).nullish(),
  num_local_experts: fieldInteger(1).nullish(),
  num_experts_per_tok: fieldInteger(1).nullish(),
  moe_intermediate_size: fieldInteger(1).nullish(),
  norm_topk_prob: fieldBoolean().nullish(),
  decoder_sparse_step: fieldInteger(1).nullish(),
  mlp_only_layers: z.array(fieldInteger(0), { error: 'an array of layers' }).nullish(),
})

export const qwen3Moe: Architecture = {
  modelType: 'qwen3_moe',
  defaults: { maxPosition: 32768, kvHeads: 4 },
  windows: (config) =>
    config.use_sliding_window ? readWindows(config, 4096) : Array(config.num_hidden_layers).fill(0),
  decoder: (config, shape) => {
    const own = read(config)
    const mixture: MixtureShape = {
      experts: own.num_experts ?? own.num_local_experts ?? 128,
      chosen: own.num_experts_per_tok ?? 8,
      width: own.moe_intermediate_size ?? 768,
      score: 'softmax',
      renormalise: own.norm_topk_prob ?? false,
      names: EXPERTS,
    }
    const isSparse = (layer: number) =>
      !own.mlp_only_layers?.includes(layer) && (layer + 1) % (own.decoder_sparse_step ?? 1) === 0
    return withLayers(shape, (_, layer) => ({
      headNorms: 'heads',
      biases: config.attention_bias ? ATTENTION : [],
      ...(isSparse(layer) ? { mixture } : {}),
    }))
  },
  fields: [
    ...QWEN_WINDOW_FIELDS,
    'num_experts',
    'num_local_experts',
    'num_experts_per_tok',
    'moe_intermediate_size',
    'norm_topk_prob',
    'decoder_sparse_step',
    'mlp_only_layers',
  ],
}

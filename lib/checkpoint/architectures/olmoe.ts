/** OLMoE: mixtures, and norms of all query and key heads together. */

import { unsupportedField } from '../fields.ts'
import { fieldBoolean, fieldInteger, fieldNumber } from '../json.ts'
import { EXPERTS } from '../mixture.ts'
import { type Architecture, ATTENTION, ownFields, withLayers } from './architecture.ts'

const read = ownFields({
  num_experts: fieldInteger(1).nullish(),
  num_local_experts: fieldInteger(1).nullish(),
  num_experts_per_tok: fieldInteger(1).nullish(),
  norm_topk_prob: fieldBoolean().nullish(),
  clip_qkv: fieldNumber(0).nullish(),
})

export const olmoe: Architecture = {
  modelType: 'olmoe',
  defaults: { maxPosition: 4096, epsilon: 1e-5 },
  decoder: (config, shape) => {
    const own = read(config)
    if (own.clip_qkv != null) throw unsupportedField('clip_qkv', 'null', own.clip_qkv)
    return withLayers(shape, ({ intermediate: width }) => ({
      headNorms: 'whole',
      biases: config.attention_bias ? ATTENTION : [],
      mixture: {
        experts: own.num_experts ?? own.num_local_experts ?? 64,
        chosen: own.num_experts_per_tok ?? 8,
        width,
        score: 'softmax',
        renormalise: own.norm_topk_prob ?? false,
        names: EXPERTS,
      },
    }))
  },
  fields: ['num_experts', 'num_local_experts', 'num_experts_per_tok', 'norm_topk_prob', 'clip_qkv'],
}

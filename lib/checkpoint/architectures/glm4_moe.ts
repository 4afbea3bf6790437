/** GLM-4.5 and 4.6: mixtures by sigmoid scores with a correction, an expert that all tokens share, dense first layers. */
import { fieldBoolean, fieldInteger, fieldNumber } from '../json.ts'
import { EXPERTS, type MixtureShape } from '../mixture.ts'
import { type Architecture, ownFields, QKV, withLayers } from './architecture.ts'

const read = ownFields({
  n_routed_experts: fieldInteger(1).nullish(),
  num_local_experts: fieldInteger(1).nullish(),
  num_experts_per_tok: fieldInteger(1).nullish(),
  moe_intermediate_size: fieldInteger(1).nullish(),
  n_shared_experts: fieldInteger(0).nullish(),
  routed_scaling_factor: fieldNumber(0).nullish(),
  n_group: fieldInteger(1).nullish(),
  topk_group: fieldInteger(1).nullish(),
  first_k_dense_replace: fieldInteger(0).nullish(),
  norm_topk_prob: fieldBoolean().nullish(),
  use_qk_norm: fieldBoolean().nullish(),
})

export const glm4Moe: Architecture = {
  modelType: 'glm4_moe',
  defaults: { maxPosition: 131072, kvHeads: 8, epsilon: 1e-5, partialRotary: 0.5 },
  decoder: (config, shape) => {
    const own = read(config)
    const width = own.moe_intermediate_size ?? 1408
    const shared = (own.n_shared_experts ?? 1) * width
    const groups = { count: own.n_group ?? 1, chosen: own.topk_group ?? 1 }
    const mixture: MixtureShape = {
      experts: own.n_routed_experts ?? own.num_local_experts ?? 128,
      chosen: own.num_experts_per_tok ?? 8,
      width,
      score: 'sigmoid',
      renormalise: own.norm_topk_prob ?? true,
      scale: own.routed_scaling_factor ?? 1,
      ...(groups.count > 1 ? { groups } : {}),
      names: { ...EXPERTS, selectBias: 'mlp.gate.e_score_correction_bias' },
      ...(shared > 0 ? { shared: { module: 'mlp.shared_experts', width: shared } } : {}),
    }
    return withLayers(shape, (_, layer) => ({
      headNorms: own.use_qk_norm ? 'heads' : 'none',
      biases: config.attention_bias ? QKV : [],
      ...(layer >= (own.first_k_dense_replace ?? 1) ? { mixture } : {}),
    }))
  },
  fields: [
    'n_routed_experts',
    'num_local_experts',
    'num_experts_per_tok',
    'moe_intermediate_size',
    'n_shared_experts',
    'routed_scaling_factor',
    'n_group',
    'topk_group',
    'first_k_dense_replace',
    'norm_topk_prob',
    'use_qk_norm',
    // Layers that guess a token ahead, behind those that are counted.
    'num_nextn_predict_layers',
    'num_mtp_layers',
  ],
}

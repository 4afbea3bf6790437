/**
 * DeepSeek V2 and V3 (Kimi K2 too), and GLM-4.7-Flash: latent attention, mixtures with experts that all tokens share, dense
 * first layers. V2 chooses by softmax, the others by sigmoid scores with a correction.
 */
import { z } from 'zod'
import type { DecoderShape } from '../decoder.ts'
import { type Fields, unsupportedField } from '../fields.ts'
import { fieldBoolean, fieldInteger, fieldNumber, isObject } from '../json.ts'
import type { LatentShape } from '../latent.ts'
import { EXPERTS, type MixtureShape } from '../mixture.ts'
import { type Architecture, ATTENTION, ownFields, withLayers } from './architecture.ts'

const read = ownFields({
  q_lora_rank: fieldInteger(1).nullish(),
  kv_lora_rank: fieldInteger(1).nullish(),
  qk_nope_head_dim: fieldInteger(1).nullish(),
  qk_rope_head_dim: fieldInteger(2).nullish(),
  v_head_dim: fieldInteger(1).nullish(),
  rope_interleave: fieldBoolean().nullish(),
  n_routed_experts: fieldInteger(1).nullish(),
  num_local_experts: fieldInteger(1).nullish(),
  num_experts_per_tok: fieldInteger(1).nullish(),
  moe_intermediate_size: fieldInteger(1).nullish(),
  n_shared_experts: fieldInteger(0).nullish(),
  routed_scaling_factor: fieldNumber(0).nullish(),
  n_group: fieldInteger(1).nullish(),
  topk_group: fieldInteger(1).nullish(),
  topk_method: z.string().nullish(),
  first_k_dense_replace: fieldInteger(0).nullish(),
  norm_topk_prob: fieldBoolean().nullish(),
  mlp_layer_types: z.array(z.string(), { error: 'an array of types' }).nullish(),
})

type Own = ReturnType<typeof read>
/** What the class in transformers has where a field is absent. */
type Absent = Required<{ [Key in keyof Own]?: NonNullable<Own[Key]> | null }>

const FIELDS = [
  'q_lora_rank',
  'kv_lora_rank',
  'qk_nope_head_dim',
  'qk_rope_head_dim',
  'v_head_dim',
  'rope_interleave',
  'n_routed_experts',
  'num_local_experts',
  'num_experts_per_tok',
  'moe_intermediate_size',
  'n_shared_experts',
  'routed_scaling_factor',
  'n_group',
  'topk_group',
  'topk_method',
  'first_k_dense_replace',
  'norm_topk_prob',
  'mlp_layer_types',
  // Said by the fields above.
  'qk_head_dim',
  'scoring_func',
  'moe_layer_freq',
  // Of training.
  'ep_size',
  'aux_loss_alpha',
  'seq_aux',
  'router_aux_loss_coef',
  // Layers that guess a token ahead, behind those that are counted.
  'num_nextn_predict_layers',
  'num_mtp_layers',
]

/** DeepSeek's YaRN makes scores larger, by what the rotation leaves out. */
function scoreScale(config: Fields, headDim: number): number {
  const scaling = [config.rope_scaling, config.rope_parameters].find(isObject) as Record<string, unknown> | undefined
  const { factor, mscale_all_dim: all } = scaling ?? {}
  const by = typeof factor === 'number' && typeof all === 'number' && factor > 1 ? 0.1 * all * Math.log(factor) + 1 : 1
  return (by * by) / Math.sqrt(headDim)
}

function decoder(config: Fields, shape: DecoderShape, absent: Absent, score: MixtureShape['score']): DecoderShape {
  const found = read(config)
  const given = Object.fromEntries(Object.entries(found).filter(([, value]) => value != null))
  const own = { ...absent, ...given } as Absent
  const methods = score === 'softmax' ? ['greedy', 'group_limited_greedy'] : ['noaux_tc']
  if (own.topk_method !== null && !methods.includes(own.topk_method)) {
    throw unsupportedField('topk_method', methods.join(' or '), own.topk_method)
  }
  const [nope, rotary] = [own.qk_nope_head_dim!, own.qk_rope_head_dim!]
  // A rank that is null says that queries have none.
  const queryRank = found.q_lora_rank === undefined ? absent.q_lora_rank : found.q_lora_rank
  const latent: LatentShape = {
    ...(queryRank === null ? {} : { queryRank }),
    rank: own.kv_lora_rank!,
    nope,
    rotary,
    valueDim: own.v_head_dim!,
    interleaved: own.rope_interleave!,
  }
  const grouped = score === 'sigmoid' || own.topk_method === 'group_limited_greedy'
  const groups = { count: (grouped && own.n_group) || 1, chosen: own.topk_group ?? 1 }
  const shared = own.n_shared_experts! * own.moe_intermediate_size!
  const mixture: MixtureShape = {
    experts: own.n_routed_experts ?? own.num_local_experts!,
    chosen: own.num_experts_per_tok!,
    width: own.moe_intermediate_size!,
    score,
    renormalise: score === 'sigmoid' && own.norm_topk_prob!,
    scale: own.routed_scaling_factor!,
    ...(groups.count > 1 ? { groups: { ...groups, ...(score === 'softmax' ? { best: 1 as const } : {}) } } : {}),
    names: {
      ...EXPERTS,
      ...(score === 'sigmoid' ? { selectBias: 'mlp.gate.e_score_correction_bias' } : {}),
      fused: { gateUp: 'gate_up_proj', interleaved: false, transposed: false },
    },
    ...(shared > 0 ? { shared: { module: 'mlp.shared_experts', width: shared } } : {}),
  }
  const isSparse = (layer: number) =>
    own.mlp_layer_types ? own.mlp_layer_types[layer] !== 'dense' : layer >= own.first_k_dense_replace!
  const headDim = nope + rotary
  return withLayers(shape, ({ heads }, layer) => ({
    latent,
    kvHeads: heads,
    headDim,
    scale: scoreScale(config, headDim),
    biases: config.attention_bias ? ATTENTION : [],
    ...(isSparse(layer) ? { mixture } : {}),
  }))
}

const V3: Absent = {
  q_lora_rank: 1536,
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  rope_interleave: true,
  n_routed_experts: null,
  num_local_experts: 256,
  num_experts_per_tok: 8,
  moe_intermediate_size: 2048,
  n_shared_experts: 1,
  routed_scaling_factor: 2.5,
  n_group: 8,
  topk_group: 4,
  topk_method: null,
  first_k_dense_replace: 3,
  norm_topk_prob: true,
  mlp_layer_types: null,
}
const V2: Absent = {
  ...V3,
  num_local_experts: 64,
  moe_intermediate_size: 1407,
  n_shared_experts: 2,
  routed_scaling_factor: 1,
  n_group: 1,
  topk_group: 1,
  topk_method: 'greedy',
  first_k_dense_replace: 0,
  norm_topk_prob: false,
}
const LITE: Absent = {
  ...V3,
  q_lora_rank: 768,
  qk_nope_head_dim: 192,
  v_head_dim: 256,
  num_local_experts: 64,
  num_experts_per_tok: 4,
  moe_intermediate_size: 1536,
  routed_scaling_factor: 1.8,
  n_group: 1,
  topk_group: 1,
  first_k_dense_replace: 1,
}

export const deepseekV3: Architecture = {
  modelType: 'deepseek_v3',
  defaults: { maxPosition: 4096, headDim: 64 },
  decoder: (config, shape) => decoder(config, shape, V3, 'sigmoid'),
  fields: FIELDS,
}

export const deepseekV2: Architecture = {
  modelType: 'deepseek_v2',
  defaults: { maxPosition: 2048, headDim: 64 },
  decoder: (config, shape) => decoder(config, shape, V2, 'softmax'),
  fields: FIELDS,
}

export const glm4MoeLite: Architecture = {
  modelType: 'glm4_moe_lite',
  defaults: { maxPosition: 202752, headDim: 64, epsilon: 1e-5 },
  decoder: (config, shape) => decoder(config, shape, LITE, 'sigmoid'),
  fields: FIELDS,
}

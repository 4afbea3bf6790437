/**
 * The architectures of GGUF files: which of the supported ones each is, and how its tensors and settings are named there.
 * What is computed is said in ../architectures/ alone.
 */
import type { GgufMetadata } from './metadata.ts'

/** What the tensors of a file say about its architecture. */
export interface GgufTensors {
  has(name: string): boolean
}

export interface GgufArchitecture {
  /** As config.json of the same model spells it. */
  architecture(metadata: GgufMetadata, tensors: GgufTensors): string
  modelType(metadata: GgufMetadata, tensors: GgufTensors): string
  /** Fields of config.json beside those that all have. */
  fields?(metadata: GgufMetadata, tensors: GgufTensors): Record<string, unknown>
  /** Keys after the architecture's name that it reads beside those that all do. */
  keys?: readonly string[]
  /** Parts of a layer that are named otherwise than PARTS has them. */
  parts?: Readonly<Record<string, string>> | ((metadata: GgufMetadata) => Readonly<Record<string, string>>)
  /** Tensors of a layer whose names do not end as the checkpoint's do. */
  whole?: Readonly<Record<string, string>>
  /** It may have mixtures of experts. */
  mixtures?: boolean
  /** Layers at the end that are counted and not those of num_hidden_layers. */
  layersBeyond?(metadata: GgufMetadata): number
  /** Converters bring the rows of query and key into the order of a rotation of neighbours. */
  interleaved?: boolean
  /** Norms' weights that the checkpoint has as what is added to 1 are stored whole. */
  wholeNorms?: boolean
  /** Of layers that keep states, value heads take key heads in turn. */
  headsInTurn?: boolean
  /** LayerNorm: the key of its epsilon is another. */
  layerNorm?: boolean
  /** false: YaRN's range is not rounded outwards to whole pairs. */
  yarnWhole?: boolean
  /** `rope.scaling.yarn_log_multiplier` is its mscale_all_dim; of latents a tenth of it, and `mscale` the same. */
  yarnLogarithm?: boolean
  /** Of latents: heads have keys and values of other lengths than those that all files name. */
  latents?: boolean
}

/** Parts of a layer: `blk.N.` and the left one, `model.layers.N.` and the right one. */
export const PARTS: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
  ffn_gate_inp: 'mlp.gate',
  ffn_gate_exps: 'mlp.experts.gate_proj',
  ffn_up_exps: 'mlp.experts.up_proj',
  ffn_down_exps: 'mlp.experts.down_proj',
  ffn_gate_shexp: 'mlp.shared_experts.gate_proj',
  ffn_up_shexp: 'mlp.shared_experts.up_proj',
  ffn_down_shexp: 'mlp.shared_experts.down_proj',
}

/** Tensors outside the layers. */
export const OUTSIDE: Readonly<Record<string, string>> = {
  token_embd: 'model.embed_tokens',
  output_norm: 'model.norm',
  output: 'lm_head',
}

const biased = (tensors: GgufTensors, part: string) => tensors.has(`blk.0.${part}.bias`)
const window = (metadata: GgufMetadata, architecture: string) =>
  metadata.integer(`${architecture}.attention.sliding_window`) || null

/** Llama and what is of its shape: Mistral has a window, Mixtral experts, Qwen 2 biases of query, key and value alone. */
function llamaClass(metadata: GgufMetadata, tensors: GgufTensors): 'Llama' | 'Mistral' | 'Mixtral' | 'Qwen2' {
  if ((metadata.integer('llama.expert_count') ?? 0) > 0) return 'Mixtral'
  if (biased(tensors, 'attn_q') && !biased(tensors, 'attn_output')) return 'Qwen2'
  return window(metadata, 'llama') === null ? 'Llama' : 'Mistral'
}

const qwenWindow = (metadata: GgufMetadata, architecture: string) => {
  const width = window(metadata, architecture)
  return { use_sliding_window: width !== null, sliding_window: width, max_window_layers: 0 }
}

const named = (architecture: string, modelType: string) => ({
  architecture: () => architecture,
  modelType: () => modelType,
})

const EXPERT_KEYS = ['expert_feed_forward_length']
/** Of mixtures whose experts come in groups, beside one that all tokens take. */
const GROUPED_EXPERT_KEYS = [
  'expert_shared_count',
  'leading_dense_block_count',
  'expert_weights_scale',
  'expert_weights_norm',
  'expert_gating_func',
  'expert_group_count',
  'expert_group_used_count',
  'nextn_predict_layers',
]
const [SOFTMAX, SIGMOID] = [1, 2] // llama.cpp's numbers of them

const MIXTRAL_PARTS = {
  ffn_gate_inp: 'block_sparse_moe.gate',
  ffn_gate_exps: 'block_sparse_moe.experts.w1',
  ffn_up_exps: 'block_sparse_moe.experts.w3',
  ffn_down_exps: 'block_sparse_moe.experts.w2',
}

/** How many experts there are, answer and are wide, under the names of config.json. */
function expertFields(
  metadata: GgufMetadata,
  architecture: string,
  { count, width }: { count: string; width?: string },
): Record<string, unknown> {
  const integer = (key: string) =>
    metadata.require(`${architecture}.${key}`, metadata.integer(`${architecture}.${key}`, 1))
  return {
    [count]: integer('expert_count'),
    num_experts_per_tok: integer('expert_used_count'),
    ...(width === undefined ? {} : { [width]: integer('expert_feed_forward_length') }),
  }
}

/** Layers without a router. */
function denseLayers(metadata: GgufMetadata, architecture: string, tensors: GgufTensors): number[] {
  const layers = metadata.integer(`${architecture}.block_count`) ?? 0
  return Array.from({ length: Math.min(layers, 4096) }, (_, layer) => layer).filter(
    (layer) => !tensors.has(`blk.${layer}.ffn_gate_inp.weight`),
  )
}

/** Parts of layers that norm what each half adds. */
const GEMMA_PARTS = {
  post_attention_norm: 'post_attention_layernorm',
  ffn_norm: 'pre_feedforward_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
}

/** Layers that have a window, where a file says it: by a number, or by a boolean a layer. */
function windowsOf(metadata: GgufMetadata, architecture: string): Record<string, unknown> {
  const key = `${architecture}.attention.sliding_window_pattern`
  const found = metadata.get(key)
  if (found === undefined) return {}
  if (typeof found === 'number') return { sliding_window_pattern: found }
  const layers = found instanceof Uint8Array ? [...found] : []
  return { layer_types: layers.map((slides) => (slides ? 'sliding_attention' : 'full_attention')) }
}

/** Gemma's queries are scaled by the size of a head but for one size of model. */
function gemmaScalar(metadata: GgufMetadata, architecture: string, layersOfTheOther: number): number {
  const integer = (key: string) =>
    metadata.require(`${architecture}.${key}`, metadata.integer(`${architecture}.${key}`))
  return integer('block_count') === layersOfTheOther
    ? integer('embedding_length') / integer('attention.head_count')
    : integer('attention.key_length')
}

const gemmaFields = (metadata: GgufMetadata, architecture: string, layersOfTheOther: number) => ({
  query_pre_attn_scalar: gemmaScalar(metadata, architecture, layersOfTheOther),
  sliding_window: window(metadata, architecture),
  ...windowsOf(metadata, architecture),
})

const GEMMA_KEYS = [
  'attention.sliding_window',
  'attention.sliding_window_pattern',
  'attn_logit_softcapping',
  'final_logit_softcapping',
]

const cohereFields = (metadata: GgufMetadata, architecture: string, tensors: GgufTensors) => ({
  logit_scale: metadata.number(`${architecture}.logit_scale`),
  layer_norm_eps: metadata.number(`${architecture}.attention.layer_norm_epsilon`),
  use_qk_norm: tensors.has('blk.0.attn_q_norm.weight'),
})

/** Qwen3-Next and Qwen3.5. */
const hybridFields = (metadata: GgufMetadata, architecture: string, tensors: GgufTensors): Record<string, unknown> => {
  const integer = (key: string) =>
    metadata.require(`${architecture}.${key}`, metadata.integer(`${architecture}.${key}`, 1))
  const valueHeads = integer('ssm.time_step_rank')
  const shared = metadata.integer(`${architecture}.expert_shared_feed_forward_length`, 1)
  const mixtures = (metadata.integer(`${architecture}.expert_count`) ?? 0) > 0
  return {
    attention_bias: false,
    full_attention_interval: metadata.integer(`${architecture}.full_attention_interval`, 1) ?? 4,
    linear_conv_kernel_dim: integer('ssm.conv_kernel'),
    linear_num_key_heads: integer('ssm.group_count'),
    linear_num_value_heads: valueHeads,
    linear_key_head_dim: integer('ssm.state_size'),
    linear_value_head_dim: integer('ssm.inner_size') / valueHeads,
    ...(mixtures
      ? {
          ...expertFields(metadata, architecture, { count: 'num_experts', width: 'moe_intermediate_size' }),
          shared_expert_intermediate_size: shared ?? integer('expert_feed_forward_length'),
          mlp_only_layers: denseLayers(metadata, architecture, tensors),
        }
      : {}),
  }
}
const HYBRID = {
  keys: [
    ...EXPERT_KEYS,
    'expert_shared_feed_forward_length',
    'full_attention_interval',
    'ssm.conv_kernel',
    'ssm.group_count',
    'ssm.inner_size',
    'ssm.state_size',
    'ssm.time_step_rank',
    // Of text alone the three positions that they are for are one.
    'rope.dimension_sections',
    'nextn_predict_layers',
  ],
  parts: {
    post_attention_norm: 'post_attention_layernorm',
    attn_qkv: 'linear_attn.in_proj_qkv',
    attn_gate: 'linear_attn.in_proj_z',
    ssm_in: 'linear_attn.in_proj_qkvz',
    ssm_ba: 'linear_attn.in_proj_ba',
    ssm_alpha: 'linear_attn.in_proj_a',
    ssm_beta: 'linear_attn.in_proj_b',
    ssm_conv1d: 'linear_attn.conv1d',
    ssm_norm: 'linear_attn.norm',
    ssm_out: 'linear_attn.out_proj',
    ffn_gate_inp_shexp: 'mlp.shared_expert_gate',
    ffn_gate_shexp: 'mlp.shared_expert.gate_proj',
    ffn_up_shexp: 'mlp.shared_expert.up_proj',
    ffn_down_shexp: 'mlp.shared_expert.down_proj',
  },
  whole: { ssm_a: 'linear_attn.A_log', 'ssm_dt.bias': 'linear_attn.dt_bias' },
  wholeNorms: true,
}
/** Files of before it was written are of V2, but for GLM-4.7-Flash: by the numbers that llama.cpp knows it by. */
function latentGate(metadata: GgufMetadata): number {
  const key = 'deepseek2.expert_gating_func'
  const found = metadata.integer(key)
  if (found !== undefined && found !== SOFTMAX && found !== SIGMOID) {
    throw metadata.unsupported(key, `${SOFTMAX} (softmax) or ${SIGMOID} (sigmoid)`, found)
  }
  const flash = [47, 48].includes(metadata.integer('deepseek2.block_count') ?? 0)
  return found ?? (flash && metadata.integer('deepseek2.vocab_size') === 154880 ? SIGMOID : SOFTMAX)
}

/** With `key_length_mla` heads are said by it, and `key_length` is that of a row of the cache. */
function latentFields(metadata: GgufMetadata, tensors: GgufTensors): Record<string, unknown> {
  const own = (name: string) => `deepseek2.${name}`
  const integer = (name: string) => metadata.require(own(name), metadata.integer(own(name), 1))
  const rotary = integer('rope.dimension_count')
  const absorbed = metadata.integer(own('attention.key_length_mla'), 1) !== undefined
  const length = (of: 'key' | 'value') => integer(`attention.${of}_length${absorbed ? '_mla' : ''}`)
  const sigmoid = latentGate(metadata) === SIGMOID
  const normed = metadata.boolean(own('expert_weights_norm')) ?? false
  if (normed && !sigmoid) throw metadata.unsupported(own('expert_weights_norm'), 'false with a softmax', true)
  const groups = metadata.integer(own('expert_group_count')) ?? 1
  const lowQueries = tensors.has('blk.0.attn_q_a.weight')
  return {
    num_key_value_heads: integer('attention.head_count'),
    head_dim: rotary,
    q_lora_rank: lowQueries ? integer('attention.q_lora_rank') : null,
    kv_lora_rank: integer('attention.kv_lora_rank'),
    qk_nope_head_dim: length('key') - rotary,
    qk_rope_head_dim: rotary,
    v_head_dim: length('value'),
    ...expertFields(metadata, 'deepseek2', { count: 'n_routed_experts', width: 'moe_intermediate_size' }),
    n_shared_experts: metadata.integer(own('expert_shared_count')) ?? 0,
    first_k_dense_replace: metadata.integer(own('leading_dense_block_count')) ?? 0,
    routed_scaling_factor: metadata.number(own('expert_weights_scale')) ?? 1,
    norm_topk_prob: normed,
    n_group: groups,
    topk_group: metadata.integer(own('expert_group_used_count')) ?? groups,
    ...(sigmoid ? {} : { topk_method: groups > 1 ? 'group_limited_greedy' : 'greedy' }),
  }
}
const nextLayers = (architecture: string) => (metadata: GgufMetadata) =>
  metadata.integer(`${architecture}.nextn_predict_layers`) ?? 0

export const GGUF_ARCHITECTURES: Readonly<Record<string, GgufArchitecture>> = {
  llama: {
    architecture: (metadata, tensors) => `${llamaClass(metadata, tensors)}ForCausalLM`,
    modelType: (metadata, tensors) => llamaClass(metadata, tensors).toLowerCase(),
    fields: (metadata, tensors) => ({
      attention_bias: biased(tensors, 'attn_output'),
      mlp_bias: biased(tensors, 'ffn_down'),
      ...(llamaClass(metadata, tensors) === 'Qwen2'
        ? qwenWindow(metadata, 'llama')
        : { sliding_window: window(metadata, 'llama') }),
      ...(llamaClass(metadata, tensors) === 'Mixtral'
        ? expertFields(metadata, 'llama', { count: 'num_local_experts' })
        : {}),
    }),
    keys: ['attention.sliding_window'],
    parts: (metadata) => ((metadata.integer('llama.expert_count') ?? 0) > 0 ? MIXTRAL_PARTS : {}),
    mixtures: true,
    interleaved: true,
  },
  qwen2: {
    architecture: () => 'Qwen2ForCausalLM',
    modelType: () => 'qwen2',
    fields: (metadata) => qwenWindow(metadata, 'qwen2'),
    keys: ['attention.sliding_window'],
  },
  qwen3: {
    architecture: () => 'Qwen3ForCausalLM',
    modelType: () => 'qwen3',
    fields: (metadata, tensors) => ({
      attention_bias: biased(tensors, 'attn_output'),
      ...qwenWindow(metadata, 'qwen3'),
    }),
    keys: ['attention.sliding_window'],
  },
  // Files do not say whether weights are renormalised: all models that there are do it.
  qwen3moe: {
    ...named('Qwen3MoeForCausalLM', 'qwen3_moe'),
    fields: (metadata, tensors) => ({
      attention_bias: biased(tensors, 'attn_output'),
      ...expertFields(metadata, 'qwen3moe', { count: 'num_experts', width: 'moe_intermediate_size' }),
      norm_topk_prob: true,
      mlp_only_layers: denseLayers(metadata, 'qwen3moe', tensors),
    }),
    keys: EXPERT_KEYS,
    mixtures: true,
  },
  olmoe: {
    ...named('OlmoeForCausalLM', 'olmoe'),
    fields: (metadata) => expertFields(metadata, 'olmoe', { count: 'num_experts' }),
    mixtures: true,
  },
  'gpt-oss': {
    ...named('GptOssForCausalLM', 'gpt_oss'),
    fields: (metadata) => ({
      ...expertFields(metadata, 'gpt-oss', { count: 'num_local_experts' }),
      intermediate_size: metadata.integer('gpt-oss.expert_feed_forward_length', 1),
      sliding_window: window(metadata, 'gpt-oss'),
    }),
    keys: [...EXPERT_KEYS, 'attention.sliding_window'],
    parts: { post_attention_norm: 'post_attention_layernorm', ffn_gate_inp: 'mlp.router' },
    whole: { 'attn_sinks.weight': 'self_attn.sinks' },
    mixtures: true,
    yarnWhole: false,
  },
  glm4moe: {
    ...named('Glm4MoeForCausalLM', 'glm4_moe'),
    fields: (metadata, tensors) => {
      const key = (name: string) => `glm4moe.${name}`
      const gate = metadata.integer(key('expert_gating_func')) ?? SIGMOID
      if (gate !== SIGMOID) throw metadata.unsupported(key('expert_gating_func'), `${SIGMOID} (sigmoid)`, gate)
      return {
        attention_bias: biased(tensors, 'attn_q'),
        use_qk_norm: tensors.has('blk.0.attn_q_norm.weight'),
        ...expertFields(metadata, 'glm4moe', { count: 'n_routed_experts', width: 'moe_intermediate_size' }),
        n_shared_experts: metadata.integer(key('expert_shared_count')) ?? 0,
        first_k_dense_replace: metadata.integer(key('leading_dense_block_count')) ?? 0,
        routed_scaling_factor: metadata.number(key('expert_weights_scale')) ?? 1,
        norm_topk_prob: metadata.boolean(key('expert_weights_norm')) ?? false,
        n_group: metadata.integer(key('expert_group_count')) ?? 1,
        topk_group: metadata.integer(key('expert_group_used_count')) ?? 1,
      }
    },
    keys: [...EXPERT_KEYS, ...GROUPED_EXPERT_KEYS],
    parts: { post_attention_norm: 'post_attention_layernorm' },
    whole: { 'exp_probs_b.bias': 'mlp.gate.e_score_correction_bias' },
    mixtures: true,
    layersBeyond: (metadata) => metadata.integer('glm4moe.nextn_predict_layers') ?? 0,
  },
  // Kimi K2 and GLM-4.7-Flash too. Files name no class: those of sigmoid scores are of V3's.
  deepseek2: {
    architecture: (metadata) => (latentGate(metadata) === SIGMOID ? 'DeepseekV3ForCausalLM' : 'DeepseekV2ForCausalLM'),
    modelType: (metadata) => (latentGate(metadata) === SIGMOID ? 'deepseek_v3' : 'deepseek_v2'),
    fields: latentFields,
    keys: [
      ...EXPERT_KEYS,
      'attention.q_lora_rank',
      'attention.kv_lora_rank',
      'attention.key_length_mla',
      'attention.value_length_mla',
      ...GROUPED_EXPERT_KEYS,
    ],
    parts: {
      attn_q_a: 'self_attn.q_a_proj',
      attn_q_a_norm: 'self_attn.q_a_layernorm',
      attn_q_b: 'self_attn.q_b_proj',
      attn_kv_a_mqa: 'self_attn.kv_a_proj_with_mqa',
      attn_kv_a_norm: 'self_attn.kv_a_layernorm',
      attn_kv_b: 'self_attn.kv_b_proj',
      attn_k_b: 'self_attn.k_b_proj',
      attn_v_b: 'self_attn.v_b_proj',
    },
    whole: { 'exp_probs_b.bias': 'mlp.gate.e_score_correction_bias' },
    mixtures: true,
    latents: true,
    layersBeyond: nextLayers('deepseek2'),
  },
  qwen3next: {
    ...named('Qwen3NextForCausalLM', 'qwen3_next'),
    ...HYBRID,
    fields: (metadata, tensors) => ({
      ...hybridFields(metadata, 'qwen3next', tensors),
      linear_inputs_apart: tensors.has('blk.0.attn_qkv.weight'),
    }),
    mixtures: true,
    layersBeyond: nextLayers('qwen3next'),
  },
  qwen35: {
    ...named('Qwen3_5ForCausalLM', 'qwen3_5_text'),
    ...HYBRID,
    fields: (metadata, tensors) => hybridFields(metadata, 'qwen35', tensors),
    headsInTurn: true,
    layersBeyond: nextLayers('qwen35'),
  },
  qwen35moe: {
    ...named('Qwen3_5MoeForCausalLM', 'qwen3_5_moe_text'),
    ...HYBRID,
    fields: (metadata, tensors) => hybridFields(metadata, 'qwen35moe', tensors),
    mixtures: true,
    headsInTurn: true,
    layersBeyond: nextLayers('qwen35moe'),
  },
  gemma: { ...named('GemmaForCausalLM', 'gemma'), wholeNorms: true },
  gemma2: {
    ...named('Gemma2ForCausalLM', 'gemma2'),
    fields: (metadata) => ({
      ...gemmaFields(metadata, 'gemma2', 46),
      attn_logit_softcapping: metadata.number('gemma2.attn_logit_softcapping') ?? 50,
      final_logit_softcapping: metadata.number('gemma2.final_logit_softcapping') ?? 30,
    }),
    keys: GEMMA_KEYS,
    parts: GEMMA_PARTS,
    wholeNorms: true,
  },
  gemma3: {
    ...named('Gemma3ForCausalLM', 'gemma3_text'),
    fields: (metadata) => ({
      ...gemmaFields(metadata, 'gemma3', 62),
      rope_local_base_freq: metadata.number('gemma3.rope.freq_base_swa') ?? 1e4,
      final_logit_softcapping: metadata.number('gemma3.final_logit_softcapping'),
    }),
    keys: [...GEMMA_KEYS, 'rope.freq_base_swa'],
    parts: GEMMA_PARTS,
    wholeNorms: true,
  },
  phi3: {
    ...named('Phi3ForCausalLM', 'phi3'),
    fields: (metadata) => ({ sliding_window: window(metadata, 'phi3') }),
    keys: ['attention.sliding_window'],
    parts: { attn_qkv: 'self_attn.qkv_proj', ffn_up: 'mlp.gate_up_proj' },
  },
  glm4: {
    ...named('Glm4ForCausalLM', 'glm4'),
    fields: (_, tensors) => ({ attention_bias: biased(tensors, 'attn_q') }),
    parts: {
      post_attention_norm: 'post_self_attn_layernorm',
      post_ffw_norm: 'post_mlp_layernorm',
      ffn_up: 'mlp.gate_up_proj',
    },
  },
  granite: {
    ...named('GraniteForCausalLM', 'granite'),
    fields: (metadata, tensors) => ({
      attention_bias: biased(tensors, 'attn_output'),
      mlp_bias: biased(tensors, 'ffn_down'),
      embedding_multiplier: metadata.number('granite.embedding_scale'),
      residual_multiplier: metadata.number('granite.residual_scale'),
      attention_multiplier: metadata.number('granite.attention.scale'),
      logits_scaling: metadata.number('granite.logit_scale'),
    }),
    keys: ['embedding_scale', 'residual_scale', 'attention.scale', 'logit_scale'],
    interleaved: true,
  },
  olmo: {
    ...named('OlmoForCausalLM', 'olmo'),
    fields: (metadata) => ({ clip_qkv: metadata.number('olmo.attention.clamp_kqv') || null }),
    keys: ['attention.layer_norm_epsilon', 'attention.clamp_kqv'],
    layerNorm: true,
    interleaved: true,
  },
  // With a window it is OLMo 3, whose layers with one rotate without a scaling.
  olmo2: {
    architecture: (metadata) => (window(metadata, 'olmo2') === null ? 'Olmo2ForCausalLM' : 'Olmo3ForCausalLM'),
    modelType: (metadata) => (window(metadata, 'olmo2') === null ? 'olmo2' : 'olmo3'),
    fields: (metadata) =>
      window(metadata, 'olmo2') === null
        ? {}
        : { sliding_window: window(metadata, 'olmo2'), ...windowsOf(metadata, 'olmo2') },
    keys: ['attention.sliding_window', 'attention.sliding_window_pattern'],
    parts: { post_attention_norm: 'post_attention_layernorm', post_ffw_norm: 'post_feedforward_layernorm' },
  },
  smollm3: {
    ...named('SmolLM3ForCausalLM', 'smollm3'),
    fields: (_, tensors) => ({
      attention_bias: biased(tensors, 'attn_output'),
      mlp_bias: biased(tensors, 'ffn_down'),
      no_rope_layer_interval: 4,
    }),
    interleaved: true,
  },
  'command-r': {
    ...named('CohereForCausalLM', 'cohere'),
    fields: (metadata, tensors) => cohereFields(metadata, 'command-r', tensors),
    keys: ['logit_scale', 'attention.layer_norm_epsilon'],
    layerNorm: true,
  },
  cohere2: {
    ...named('Cohere2ForCausalLM', 'cohere2'),
    fields: (metadata, tensors) => ({
      ...cohereFields(metadata, 'cohere2', tensors),
      sliding_window: window(metadata, 'cohere2'),
      ...windowsOf(metadata, 'cohere2'),
    }),
    keys: [
      'logit_scale',
      'attention.layer_norm_epsilon',
      'attention.sliding_window',
      'attention.sliding_window_pattern',
    ],
    layerNorm: true,
  },
  mistral3: {
    ...named('Ministral3ForCausalLM', 'ministral3'),
    fields: (metadata) => ({ sliding_window: window(metadata, 'mistral3') }),
    keys: ['attention.sliding_window', 'attention.temperature_scale', 'attention.temperature_length'],
    interleaved: true,
    yarnLogarithm: true,
  },
}

/** The architecture of a file. Throws CHECKPOINT_UNSUPPORTED by name. */
export function architectureOf(metadata: GgufMetadata): [name: string, GgufArchitecture] {
  const kind = metadata.text('general.type') ?? 'model'
  if (kind !== 'model') throw metadata.unsupported('general.type', "'model'", kind)
  const key = 'general.architecture'
  const name = metadata.require(key, metadata.text(key))
  if (!Object.hasOwn(GGUF_ARCHITECTURES, name)) {
    throw metadata.unsupported(key, Object.keys(GGUF_ARCHITECTURES).join(', '), name)
  }
  const experts = metadata.integer(`${name}.expert_count`) ?? 0
  if (experts > 0 && !GGUF_ARCHITECTURES[name]!.mixtures) {
    throw metadata.unsupported(`${name}.expert_count`, `no mixture of experts (${name})`, experts)
  }
  const architecture = GGUF_ARCHITECTURES[name]!
  const { parts } = architecture
  return [name, typeof parts === 'function' ? { ...architecture, parts: parts(metadata) } : architecture]
}

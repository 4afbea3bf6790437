/** Tiny models as GGUF files: golden checkpoints under llama.cpp's names and in its order of rows. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { f32, type GgufMetadata, type GgufTensor, ggufBytes, LLAMA_PARTS, OUTSIDE, text, texts, u32 } from '../reference/gguf.ts'
import { stackExperts, type Values } from './gguf_experts.ts'
import { numbers, readFolder } from '../reference/safetensors.ts'

const ROOT = fileURLToPath(new URL('.', import.meta.url))
const place = (folder: string) => ['families', 'models'].map((root) => join(ROOT, root, folder)).find(existsSync)!

export interface GgufCase {
  name: string
  /** In families/, or where there is no golden of the kind, in models/. */
  folder: string
  parts?: Record<string, string>
  metadata?: GgufMetadata
  /** Rows of query and key are written as neighbours. */
  interleaved?: boolean
  wholeNorms?: boolean
  /** Of queries, by their weights or by their norm's. */
  queryScale?: { part: string; factor: number }
  extra?: GgufTensor[]
  /** Value heads of layers that keep states are written in turn of their key heads. */
  headsInTurn?: boolean
  /** The embedding table is written as the head too. */
  untied?: boolean
  /** Of the folder's, those that the file has, in this order. Default: all. */
  layers?: number[]
  /** llama.cpp computes otherwise than transformers. */
  peerDiffers?: boolean
  /** What makes keys and values of latents is two tensors, as converters write it since 2025. */
  absorbed?: boolean
}

const PARTS: Record<string, string> = {
  ...LLAMA_PARTS,
  'self_attn.qkv_proj': 'attn_qkv',
  'mlp.gate_up_proj': 'ffn_up',
  'mlp.gate': 'ffn_gate_inp',
  'mlp.router': 'ffn_gate_inp',
  'mlp.experts.gate_proj': 'ffn_gate_exps',
  'mlp.experts.up_proj': 'ffn_up_exps',
  'mlp.experts.down_proj': 'ffn_down_exps',
  'mlp.shared_experts.gate_proj': 'ffn_gate_shexp',
  'mlp.shared_experts.up_proj': 'ffn_up_shexp',
  'mlp.shared_experts.down_proj': 'ffn_down_shexp',
  'mlp.shared_expert.gate_proj': 'ffn_gate_shexp',
  'mlp.shared_expert.up_proj': 'ffn_up_shexp',
  'mlp.shared_expert.down_proj': 'ffn_down_shexp',
  'mlp.shared_expert_gate': 'ffn_gate_inp_shexp',
  'self_attn.q_a_proj': 'attn_q_a',
  'self_attn.q_a_layernorm': 'attn_q_a_norm',
  'self_attn.q_b_proj': 'attn_q_b',
  'self_attn.kv_a_proj_with_mqa': 'attn_kv_a_mqa',
  'self_attn.kv_a_layernorm': 'attn_kv_a_norm',
  'self_attn.kv_b_proj': 'attn_kv_b',
  'linear_attn.in_proj_qkv': 'attn_qkv',
  'linear_attn.in_proj_z': 'attn_gate',
  'linear_attn.in_proj_a': 'ssm_alpha',
  'linear_attn.in_proj_b': 'ssm_beta',
  'linear_attn.in_proj_ba': 'ssm_ba',
  'linear_attn.conv1d': 'ssm_conv1d',
  'linear_attn.norm': 'ssm_norm',
  'linear_attn.out_proj': 'ssm_out',
  'linear_attn.A_log': 'ssm_a',
  'linear_attn.dt_bias': 'ssm_dt.bias',
  'mlp.gate.e_score_correction_bias': 'exp_probs_b.bias',
  'self_attn.sinks': 'attn_sinks.weight',
}
const GEMMA = {
  post_attention_layernorm: 'post_attention_norm',
  pre_feedforward_layernorm: 'ffn_norm',
  post_feedforward_layernorm: 'post_ffw_norm',
}
const POST = { post_attention_layernorm: 'post_attention_norm', post_feedforward_layernorm: 'post_ffw_norm' }
const floats = (values: ArrayLike<number>) => new Uint8Array(Float32Array.from(values).buffer)
const vector = (name: string, values: number[]): GgufTensor => ({
  name,
  type: 'F32',
  shape: [values.length],
  data: floats(values),
})
const range = (count: number, step: number) => Array.from({ length: count }, (_, i) => 1 + step * i)

const linear = (name: string, factor: number): GgufMetadata => ({
  [`${name}.rope.scaling.type`]: text('linear'),
  [`${name}.rope.scaling.factor`]: f32(factor),
})

export const GGUF_CASES: GgufCase[] = [
  {
    name: 'gemma2',
    folder: 'gemma2-bf16',
    parts: GEMMA,
    wholeNorms: true,
    // Files say nothing of query_pre_attn_scalar, which is that of a head's size.
    queryScale: { part: 'self_attn.q_proj', factor: Math.sqrt(16 / 24) },
    metadata: { 'gemma2.attn_logit_softcapping': f32(20), 'gemma2.final_logit_softcapping': f32(8) },
  },
  {
    name: 'gemma3',
    folder: 'gemma3-bf16',
    parts: GEMMA,
    wholeNorms: true,
    queryScale: { part: 'self_attn.q_norm', factor: Math.sqrt(16 / 20) },
    metadata: {
      'gemma3.rope.freq_base': f32(1e6),
      'gemma3.rope.scaling.type': text('linear'),
      'gemma3.rope.scaling.factor': f32(4),
      'gemma3.attention.sliding_window_pattern': { type: 'array', of: 'bool', value: [true, true, false, true] } as never,
    },
  },
  {
    name: 'phi3',
    folder: 'phi3-partial-window-bf16',
    metadata: { 'phi3.rope.dimension_count': u32(12) },
    // llama.cpp leaves Phi's windows out.
    peerDiffers: true,
  },
  {
    name: 'phi3',
    folder: 'phi3-longrope-bf16',
    metadata: {
      'phi3.rope.scaling.original_context_length': u32(64),
      'phi3.rope.scaling.attn_factor': f32(Math.sqrt(1 + Math.log(512 / 64) / Math.log(64))),
    },
    extra: [
      vector('rope_factors_short.weight', range(8, 0.05)),
      vector('rope_factors_long.weight', range(8, 0.6)),
    ],
  },
  {
    name: 'glm4',
    folder: 'glm4-bf16',
    parts: { post_self_attn_layernorm: 'post_attention_norm', post_mlp_layernorm: 'post_ffw_norm' },
    metadata: { 'glm4.rope.dimension_count': u32(8) },
  },
  {
    name: 'granite',
    folder: 'granite-bf16',
    interleaved: true,
    metadata: {
      'granite.embedding_scale': f32(6),
      'granite.residual_scale': f32(0.4),
      'granite.attention.scale': f32(0.11),
      'granite.logit_scale': f32(3),
    },
  },
  {
    name: 'olmo',
    folder: 'olmo-bf16',
    interleaved: true,
    metadata: { 'olmo.attention.layer_norm_epsilon': f32(1e-5) },
  },
  { name: 'olmo2', folder: 'olmo2-bf16', parts: POST },
  {
    name: 'olmo2',
    folder: 'olmo3-bf16',
    parts: POST,
    metadata: { 'olmo2.rope.freq_base': f32(5e5) },
    // llama.cpp knows no tied head of it.
    untied: true,
  },
  { name: 'gemma', folder: 'gemma-bf16', wholeNorms: true },
  { name: 'command-r', folder: 'cohere-bf16', metadata: { 'command-r.logit_scale': f32(0.25) } },
  { name: 'cohere2', folder: 'cohere2-bf16', metadata: { 'cohere2.logit_scale': f32(0.25) } },
  {
    name: 'mistral3',
    folder: 'ministral3-bf16',
    interleaved: true,
    metadata: {
      'mistral3.rope.scaling.type': text('yarn'),
      'mistral3.rope.scaling.factor': f32(16),
      'mistral3.rope.scaling.original_context_length': u32(64),
      'mistral3.rope.scaling.yarn_beta_fast': f32(32),
      'mistral3.rope.scaling.yarn_beta_slow': f32(1),
      'mistral3.rope.scaling.yarn_log_multiplier': f32(1),
      'mistral3.attention.temperature_scale': f32(0.1),
    },
  },
]

const expertsOf = (name: string, count: number, chosen: number, width: number): GgufMetadata => ({
  [`${name}.expert_count`]: u32(count),
  [`${name}.expert_used_count`]: u32(chosen),
  [`${name}.expert_feed_forward_length`]: u32(width),
})

const MIXTRAL = {
  parts: {
    'block_sparse_moe.gate': 'ffn_gate_inp',
    'block_sparse_moe.experts.w1': 'ffn_gate_exps',
    'block_sparse_moe.experts.w2': 'ffn_down_exps',
    'block_sparse_moe.experts.w3': 'ffn_up_exps',
  },
  metadata: { 'llama.expert_count': u32(6), 'llama.expert_used_count': u32(2) },
}

GGUF_CASES.push(
  {
    name: 'qwen3moe',
    folder: 'qwen3-moe-bf16',
    metadata: expertsOf('qwen3moe', 8, 3, 32),
    // llama.cpp has no dense layer between those of a Qwen3-MoE.
    peerDiffers: true,
  },
  {
    name: 'llama',
    folder: 'mixtral-bf16',
    interleaved: true,
    ...MIXTRAL,
    // llama.cpp leaves Mixtral's windows out.
    peerDiffers: true,
  },
  {
    name: 'olmoe',
    folder: 'olmoe-bf16',
    untied: true,
    metadata: { 'olmoe.expert_count': u32(8), 'olmoe.expert_used_count': u32(3) },
    // llama.cpp has as many heads of keys as of queries in an OLMoE.
    peerDiffers: true,
  },
  {
    name: 'gpt-oss',
    folder: 'gpt-oss-bf16',
    parts: { post_attention_layernorm: 'post_attention_norm' },
    metadata: {
      ...expertsOf('gpt-oss', 6, 2, 96),
      'gpt-oss.rope.scaling.type': text('yarn'),
      'gpt-oss.rope.scaling.factor': f32(8),
      'gpt-oss.rope.scaling.original_context_length': u32(64),
    },
    // llama.cpp rounds YaRN's range to whole pairs.
    peerDiffers: true,
  },
  {
    name: 'glm4moe',
    folder: 'glm4-moe-bf16',
    parts: { post_attention_layernorm: 'post_attention_norm' },
    metadata: {
      ...expertsOf('glm4moe', 8, 3, 32),
      'glm4moe.block_count': u32(4),
      'glm4moe.nextn_predict_layers': u32(1),
      'glm4moe.expert_shared_count': u32(1),
      'glm4moe.leading_dense_block_count': u32(1),
      'glm4moe.expert_weights_scale': f32(1.5),
      'glm4moe.expert_weights_norm': { type: 'bool', value: true } as never,
      'glm4moe.expert_gating_func': u32(2),
      'glm4moe.rope.dimension_count': u32(8),
    },
  },
)

/** Of PAIRS in families/cases.py. */
const statesOf = (name: string, valueHeads = 4): GgufMetadata => ({
  [`${name}.ssm.conv_kernel`]: u32(4),
  [`${name}.ssm.group_count`]: u32(2),
  [`${name}.ssm.time_step_rank`]: u32(valueHeads),
  [`${name}.ssm.state_size`]: u32(16),
  [`${name}.ssm.inner_size`]: u32(16 * valueHeads),
  [`${name}.full_attention_interval`]: u32(2),
  [`${name}.rope.dimension_count`]: u32(8),
  [`${name}.rope.dimension_sections`]: { type: 'array', of: 'i32', value: [2, 1, 1, 0] } as never,
})
const STATES = { parts: { post_attention_layernorm: 'post_attention_norm' }, wholeNorms: true }

GGUF_CASES.push(
  { name: 'qwen35', folder: 'qwen35-pairs-bf16', ...STATES, headsInTurn: true, metadata: statesOf('qwen35') },
  {
    name: 'qwen35moe',
    folder: 'qwen35-moe-pairs-bf16',
    ...STATES,
    headsInTurn: true,
    metadata: {
      ...statesOf('qwen35moe'),
      ...expertsOf('qwen35moe', 8, 3, 32),
      'qwen35moe.expert_shared_feed_forward_length': u32(64),
    },
  },
)

/** Of LATENT in families/cases.py. `gate`: 1, a softmax, or 2, sigmoids. */
const latentsOf = (gate: number, scale: number, shared: number, dense: number): GgufMetadata => ({
  ...expertsOf('deepseek2', 8, 3, 32),
  'deepseek2.attention.kv_lora_rank': u32(32),
  'deepseek2.attention.head_count_kv': u32(1),
  // Of a row of the cache, and of its part that is values.
  'deepseek2.attention.key_length': u32(32 + 8),
  'deepseek2.attention.value_length': u32(32),
  'deepseek2.attention.key_length_mla': u32(16 + 8),
  'deepseek2.attention.value_length_mla': u32(24),
  'deepseek2.rope.dimension_count': u32(8),
  'deepseek2.vocab_size': u32(512),
  'deepseek2.expert_shared_count': u32(shared),
  'deepseek2.leading_dense_block_count': u32(dense),
  'deepseek2.expert_weights_scale': f32(scale),
  'deepseek2.expert_weights_norm': { type: 'bool', value: gate === 2 } as never,
  'deepseek2.expert_gating_func': u32(gate),
})
const WITH_QUERIES = { 'deepseek2.attention.q_lora_rank': u32(32) }
/** As files of before kept keys and values. */
const WHOLE_HEADS = {
  'deepseek2.attention.head_count_kv': u32(4),
  'deepseek2.attention.key_length': u32(16 + 8),
  'deepseek2.attention.value_length': u32(24),
}
const without = (metadata: GgufMetadata, ...keys: string[]): GgufMetadata =>
  Object.fromEntries(Object.entries(metadata).filter(([key]) => !keys.some((end) => key.endsWith(end))))

GGUF_CASES.push(
  {
    name: 'deepseek2',
    folder: 'glm4-moe-lite-bf16',
    absorbed: true,
    untied: true,
    metadata: { ...latentsOf(2, 1.5, 1, 1), ...WITH_QUERIES },
  },
  {
    name: 'deepseek2',
    folder: 'deepseek-v2-bf16',
    absorbed: true,
    untied: true,
    metadata: latentsOf(1, 1.5, 2, 1),
    // llama.cpp has queries without a latent in models of 26 and 27 layers alone.
    peerDiffers: true,
  },
  {
    name: 'deepseek2',
    folder: 'deepseek-v2-bf16',
    untied: true,
    metadata: { ...without(latentsOf(1, 1.5, 2, 1), '_mla', 'gating_func', 'weights_norm'), ...WHOLE_HEADS },
    peerDiffers: true,
  },
  {
    name: 'deepseek2',
    folder: 'deepseek-v2-groups-bf16',
    absorbed: true,
    untied: true,
    metadata: {
      ...latentsOf(1, 1.5, 1, 0),
      ...WITH_QUERIES,
      'deepseek2.expert_group_count': u32(4),
      'deepseek2.expert_group_used_count': u32(2),
    },
    // llama.cpp chooses groups by their two best experts, as V3 does.
    peerDiffers: true,
  },
)

/** What has no golden of transformers in this form: only llama.cpp says what is right. */
export const PEER_CASES: GgufCase[] = [
  { name: 'llama', folder: 'f16-untied', interleaved: true, metadata: linear('llama', 4) },
  { name: 'llama', folder: 'bf16-tied', interleaved: true },
  { name: 'llama', folder: 'mistral-small-bf16', interleaved: true },
  { name: 'qwen2', folder: 'qwen2-f16-tied' },
  { name: 'qwen3', folder: 'qwen3-bf16-tied' },
  { name: 'smollm3', folder: 'smollm3-bf16', interleaved: true },
  {
    name: 'qwen3moe',
    folder: 'qwen3-moe-bf16',
    layers: [0, 2],
    metadata: { ...expertsOf('qwen3moe', 8, 3, 32), 'qwen3moe.block_count': u32(2) },
  },
  {
    name: 'llama',
    folder: 'mixtral-bf16',
    interleaved: true,
    ...MIXTRAL,
    metadata: { ...MIXTRAL.metadata, 'llama.attention.sliding_window': u32(512) },
  },
  {
    name: 'deepseek2',
    folder: 'glm4-moe-lite-bf16',
    absorbed: true,
    untied: true,
    metadata: {
      ...latentsOf(2, 1.5, 1, 1),
      ...WITH_QUERIES,
      'deepseek2.rope.scaling.type': text('yarn'),
      'deepseek2.rope.scaling.factor': f32(8),
      'deepseek2.rope.scaling.original_context_length': u32(64),
      'deepseek2.rope.scaling.yarn_log_multiplier': f32(0.0707),
    },
  },
  {
    name: 'deepseek2',
    folder: 'glm4-moe-lite-bf16',
    untied: true,
    metadata: { ...without(latentsOf(2, 1.5, 1, 1), '_mla'), ...WITH_QUERIES, ...WHOLE_HEADS },
  },
  {
    name: 'deepseek2',
    folder: 'deepseek-v2-groups-bf16',
    absorbed: true,
    untied: true,
    metadata: { ...latentsOf(1, 1.5, 1, 0), ...WITH_QUERIES },
  },
  {
    name: 'deepseek2',
    folder: 'deepseek-v3-bf16',
    absorbed: true,
    untied: true,
    metadata: {
      ...latentsOf(2, 1.5, 1, 1),
      ...WITH_QUERIES,
      'deepseek2.expert_group_count': u32(4),
      'deepseek2.expert_group_used_count': u32(2),
    },
  },
  {
    name: 'gpt-oss',
    folder: 'gpt-oss-bf16',
    untied: true,
    parts: { post_attention_layernorm: 'post_attention_norm' },
    metadata: {
      ...expertsOf('gpt-oss', 6, 2, 96),
      'gpt-oss.rope.scaling.type': text('yarn'),
      'gpt-oss.rope.scaling.factor': f32(1),
      'gpt-oss.rope.scaling.original_context_length': u32(512),
    },
  },
]

// biome-ignore lint/suspicious/noExplicitAny: config.json as it was written
function metadataOf(name: string, config: any): GgufMetadata {
  const epsilon = config.layer_norm_eps ?? config.rms_norm_eps
  const kind = config.layer_norm_eps === undefined ? 'layer_norm_rms_epsilon' : 'layer_norm_epsilon'
  const headDim = config.head_dim ?? config.hidden_size / config.num_attention_heads
  return {
    'general.architecture': text(name),
    [`${name}.context_length`]: u32(config.max_position_embeddings),
    [`${name}.embedding_length`]: u32(config.hidden_size),
    [`${name}.block_count`]: u32(config.num_hidden_layers),
    [`${name}.feed_forward_length`]: u32(config.intermediate_size),
    [`${name}.attention.head_count`]: u32(config.num_attention_heads),
    [`${name}.attention.head_count_kv`]: u32(config.num_key_value_heads),
    [`${name}.attention.key_length`]: u32(headDim),
    [`${name}.attention.value_length`]: u32(headDim),
    [`${name}.attention.${kind}`]: f32(epsilon),
    [`${name}.rope.dimension_count`]: u32(headDim),
    [`${name}.rope.freq_base`]: f32(config.rope_parameters?.rope_theta ?? config.rope_theta ?? 1e4),
    ...(config.sliding_window ? { [`${name}.attention.sliding_window`]: u32(config.sliding_window) } : {}),
    'tokenizer.ggml.model': text('gpt2'),
    'tokenizer.ggml.pre': text('gpt-2'),
    'tokenizer.ggml.tokens': texts(Array.from({ length: config.vocab_size }, (_, id) => `t${id}`)),
    'tokenizer.ggml.token_type': { type: 'array', of: 'i32', value: Array(config.vocab_size).fill(1) },
    'tokenizer.ggml.merges': texts([]),
    'tokenizer.ggml.bos_token_id': u32(0),
    'tokenizer.ggml.eos_token_id': u32(1),
  }
}

/** The file that llama.cpp's converter would write of the folder's model, in float32. */
export function convert(one: GgufCase): Buffer {
  const { name, folder, parts = {}, metadata, interleaved, wholeNorms, queryScale, extra = [], untied, headsInTurn, layers } = one
  const config = JSON.parse(readFileSync(join(place(folder), 'config.json'), 'utf8'))
  const heads: Record<string, number> = {
    'self_attn.q_proj': config.num_attention_heads,
    'self_attn.k_proj': config.num_key_value_heads,
  }
  const read = [...readFolder(place(folder))].map(([tensor, found]): [string, Values] => {
    return [tensor, { shape: found.shape, values: numbers(found) }]
  })
  const tensors = [...stackExperts(new Map(read))].flatMap(([tensor, { shape, values: own }]): GgufTensor[] => {
    const layer = /^model\.layers\.(\d+)\.(.+?)(\.weight|\.bias|)$/.exec(tensor)
    const part = layer?.[2] ?? ''
    const number = layer && (layers?.indexOf(Number(layer[1])) ?? layer[1])
    if (number === -1) return []
    const stored = layer ? `blk.${number}.${parts[part] ?? PARTS[part]}${layer[3]}` : OUTSIDE[tensor]!
    let values = Array.from(own)
    if (part === 'linear_attn.A_log') values = values.map((value) => -Math.exp(value))
    if (headsInTurn) values = inTurn(part, values, config)
    if (wholeNorms && /norm/.test(tensor) && part !== 'linear_attn.norm') values = values.map((value) => value + 1)
    if (queryScale?.part === part) values = values.map((value) => value * queryScale.factor)
    if (interleaved && heads[part]) {
      const width = values.length / shape[0]!
      const size = shape[0]! / heads[part]
      const rows = Array.from({ length: shape[0]! }, (_, row) => {
        const within = row % size
        return row - within + (within % 2) * (size / 2) + Math.floor(within / 2)
      })
      values = rows.flatMap((row) => values.slice(row * width, (row + 1) * width))
    }
    if (one.absorbed && part === 'self_attn.kv_b_proj') return absorbed(stored, values, config)
    const dimensions = part === 'linear_attn.conv1d' ? [shape[0]!, shape[2]!] : shape
    return [{ name: stored, type: 'F32', shape: dimensions, data: floats(values) }]
  })
  const table = tensors.find((tensor) => tensor.name === 'token_embd.weight')!
  const head = untied ? [{ ...table, name: 'output.weight' }] : []
  return ggufBytes({ ...metadataOf(name, config), ...metadata }, [...tensors, ...head, ...extra])
}

/** Of each head what queries are multiplied with, turned over, and what makes values. */
// biome-ignore lint/suspicious/noExplicitAny: config.json as it was written
function absorbed(stored: string, values: number[], config: any): GgufTensor[] {
  const [heads, rank, nope] = [config.num_attention_heads, config.kv_lora_rank, config.qk_nope_head_dim]
  const each = nope + config.v_head_dim
  const at = (head: number, row: number, column: number) => values[(head * each + row) * rank + column]!
  const made = (of: string, rows: number, columns: number, value: (head: number, row: number, column: number) => number) => ({
    name: stored.replace('attn_kv_b', of),
    type: 'F32' as const,
    shape: [heads, rows, columns],
    data: floats(
      Array.from({ length: heads * rows * columns }, (_, i) =>
        value(Math.floor(i / columns / rows), Math.floor(i / columns) % rows, i % columns),
      ),
    ),
  })
  return [
    made('attn_k_b', rank, nope, (head, row, column) => at(head, column, row)),
    made('attn_v_b', config.v_head_dim, rank, (head, row, column) => at(head, nope + row, column)),
  ]
}

/** Value heads, which lie by their key heads, in turn of these: rows of the first, columns of the output projection. */
// biome-ignore lint/suspicious/noExplicitAny: config.json as it was written
function inTurn(part: string, values: number[], config: any): number[] {
  const [keyHeads, valueHeads] = [config.linear_num_key_heads, config.linear_num_value_heads]
  const [keys, size] = [keyHeads * config.linear_key_head_dim, config.linear_value_head_dim]
  const each = valueHeads / keyHeads
  const order = Array.from({ length: valueHeads }, (_, at) => (at % keyHeads) * each + Math.floor(at / keyHeads))
  const blocks = (all: number[], width: number) => order.flatMap((head) => all.slice(head * width, (head + 1) * width))
  const name = part.replace('linear_attn.', '')
  if (['A_log', 'dt_bias'].includes(name)) return blocks(values, 1)
  if (['in_proj_a', 'in_proj_b'].includes(name)) return blocks(values, config.hidden_size)
  if (name === 'in_proj_z') return blocks(values, size * config.hidden_size)
  if (name === 'in_proj_qkv' || name === 'conv1d') {
    const width = name === 'conv1d' ? config.linear_conv_kernel_dim : config.hidden_size
    return [...values.slice(0, 2 * keys * width), ...blocks(values.slice(2 * keys * width), size * width)]
  }
  if (name !== 'out_proj') return values
  const row = valueHeads * size
  return Array.from({ length: config.hidden_size }, (_, at) => blocks(values.slice(at * row, (at + 1) * row), size)).flat()
}

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
  parts?: Readonly<Record<string, string>>
  /** Converters bring the rows of query and key into the order of a rotation of neighbours. */
  interleaved?: boolean
  /** Norms' weights that the checkpoint has as what is added to 1 are stored whole. */
  wholeNorms?: boolean
  /** LayerNorm: the key of its epsilon is another. */
  layerNorm?: boolean
  /** `rope.scaling.yarn_log_multiplier` is its mscale_all_dim. */
  yarnLogarithm?: boolean
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

/** Llama and what is of its shape: Mistral has a window, Qwen 2 biases of query, key and value alone. */
function llamaClass(metadata: GgufMetadata, tensors: GgufTensors): 'Llama' | 'Mistral' | 'Qwen2' {
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
    }),
    keys: ['attention.sliding_window'],
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
  const experts = metadata.integer(`${name}.expert_count`) ?? 0
  if (experts > 0) throw metadata.unsupported(`${name}.expert_count`, `no mixture of experts (${name})`, experts)
  if (!Object.hasOwn(GGUF_ARCHITECTURES, name)) {
    throw metadata.unsupported(key, Object.keys(GGUF_ARCHITECTURES).join(', '), name)
  }
  return [name, GGUF_ARCHITECTURES[name]!]
}

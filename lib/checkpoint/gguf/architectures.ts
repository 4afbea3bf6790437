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

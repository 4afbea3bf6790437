/** config.json -> ModelSpec. An architecture is one more entry of ARCHITECTURES. */
import { z } from 'zod'
import type { ModelSpec, RopeSpec } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { checkFields, fieldBoolean, fieldInteger, fieldNumber, fieldText, show } from './json.ts'

/** What config.json says about a model, beyond the shapes that kernels need. */
export interface ModelConfig {
  /** As config.json spells it: 'LlamaForCausalLM'. */
  architecture: string
  spec: ModelSpec
  /** The head is the embedding table. */
  tiedEmbeddings: boolean
  /** Of which linears of the attention: those of query, key and value, or of the output too. */
  attentionBias: 'none' | 'qkv' | 'all'
  feedForwardBias: boolean
  /** End tokens that config.json names. */
  endTokens: number[]
}

/** What one architecture does otherwise than Llama. Defaults are those of its class in transformers. */
interface Architecture {
  /** Stands for the architecture where `architectures` is absent. */
  modelType: string
  defaults: { maxPosition: number; kvHeads?: number; headDim?: number }
  attentionBias: (config: Fields) => ModelConfig['attentionBias']
  feedForwardBias?: (config: Fields) => boolean
  slidingWindow?: (config: Fields) => number
  qkNorm?: boolean
}

const FILE = 'config.json'

/** Transformers' MistralConfig, Qwen2Config and Qwen3Config alike. */
const DEFAULT_WINDOW = 4096
const DEFAULT_MAX_WINDOW_LAYERS = 28

/** The native side's bound, far beyond any published model. */
const LONGEST_CONTEXT = 2 ** 27

/** The supported architectures, as config.json spells them. */
const ARCHITECTURES: Record<string, Architecture> = {
  LlamaForCausalLM: {
    modelType: 'llama',
    defaults: { maxPosition: 2048 },
    attentionBias: (config) => (config.attention_bias ? 'all' : 'none'),
    feedForwardBias: (config) => config.mlp_bias ?? false,
  },
  MistralForCausalLM: {
    modelType: 'mistral',
    defaults: { maxPosition: 131072, kvHeads: 8 },
    attentionBias: () => 'none',
    slidingWindow: (config) => readWindow(config, 0),
  },
  Qwen2ForCausalLM: {
    modelType: 'qwen2',
    defaults: { maxPosition: 32768, kvHeads: 32 },
    attentionBias: () => 'qkv',
    slidingWindow: readQwenWindow,
  },
  Qwen3ForCausalLM: {
    modelType: 'qwen3',
    defaults: { maxPosition: 32768, kvHeads: 32, headDim: 128 },
    attentionBias: (config) => (config.attention_bias ? 'all' : 'none'),
    slidingWindow: readQwenWindow,
    qkNorm: true,
  },
}

const identitySchema = z.looseObject({
  architectures: z.array(fieldText(), { error: 'an array of names' }).nullish(),
  model_type: fieldText().nullish(),
})

const ropeFields = {
  type: fieldText().nullish(),
  rope_type: fieldText().nullish(),
  rope_theta: fieldNumber(0).nullish(),
  factor: fieldNumber(0).nullish(),
  low_freq_factor: fieldNumber(0).nullish(),
  high_freq_factor: fieldNumber(0).nullish(),
  original_max_position_embeddings: fieldInteger(1).nullish(),
  partial_rotary_factor: fieldNumber(0).nullish(),
  attention_factor: fieldNumber(0).nullish(),
  beta_fast: fieldNumber(0).nullish(),
  beta_slow: fieldNumber(0).nullish(),
  mscale: z.number({ error: 'a number' }).nullish(),
  mscale_all_dim: z.number({ error: 'a number' }).nullish(),
  truncate: fieldBoolean().nullish(),
}
const ropeSchema = z.looseObject(ropeFields, { error: 'an object' })

const tokenIds = z.union([fieldInteger(0), z.array(fieldInteger(0))], { error: 'a token id or an array of them' })

const modelSchema = z.looseObject({
  vocab_size: fieldInteger(1),
  hidden_size: fieldInteger(1),
  num_hidden_layers: fieldInteger(1, 4096),
  num_attention_heads: fieldInteger(1),
  num_key_value_heads: fieldInteger(1).nullish(),
  head_dim: fieldInteger(2).nullish(),
  intermediate_size: fieldInteger(1),
  max_position_embeddings: fieldInteger(1).nullish(),
  rms_norm_eps: fieldNumber(0).nullish(),
  hidden_act: fieldText().nullish(),
  rope_theta: fieldNumber(0).nullish(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: ropeSchema.nullish(),
  partial_rotary_factor: fieldNumber(0).nullish(),
  tie_word_embeddings: fieldBoolean().nullish(),
  attention_bias: fieldBoolean().nullish(),
  mlp_bias: fieldBoolean().nullish(),
  sliding_window: fieldInteger(1).nullish(),
  use_sliding_window: fieldBoolean().nullish(),
  max_window_layers: fieldInteger(0).nullish(),
  layer_types: z.array(fieldText(), { error: 'an array of names' }).nullish(),
  eos_token_id: tokenIds.nullish(),
})
type Fields = z.output<typeof modelSchema>

/** Reads config.json. Throws CHECKPOINT_UNSUPPORTED naming what is not supported, CHECKPOINT_INVALID what is wrong. */
export function readConfig(config: Record<string, unknown>): ModelConfig {
  const { architectures, model_type: modelType } = checkFields(identitySchema, config, FILE)
  const entries = Object.entries(ARCHITECTURES)
  const named = architectures?.[0]
  const found = entries.find(([name, { modelType: type }]) => (named == null ? type === modelType : name === named))
  if (!found) {
    const names = entries.map(([name, { modelType: type }]) => (named == null ? type : name)).join(', ')
    throw named == null ? unsupported('model_type', names, modelType) : unsupported('architectures', names, named)
  }
  const [architecture, entry] = found
  if (modelType != null && modelType !== entry.modelType) throw unsupported('model_type', entry.modelType, modelType)
  return { architecture, ...readModel(config, entry) }
}

/** End tokens of generation_config.json, `eos_token_id` being a number or an array. */
export function readEndTokens(config: Record<string, unknown>, file: string): number[] {
  const { eos_token_id: ids } = checkFields(z.looseObject({ eos_token_id: tokenIds.nullish() }), config, file)
  return ids == null ? [] : [ids].flat()
}

function readModel(raw: Record<string, unknown>, architecture: Architecture): Omit<ModelConfig, 'architecture'> {
  const { defaults } = architecture
  const config = checkFields(modelSchema, raw, FILE)
  const heads = config.num_attention_heads
  // transformers writes only what differs from its defaults, and null for "as many as there are heads".
  const kvHeads =
    config.num_key_value_heads ?? (config.num_key_value_heads === undefined ? defaults.kvHeads : undefined) ?? heads
  if (heads % kvHeads !== 0) {
    throw invalid('num_key_value_heads', `a divisor of num_attention_heads (${heads})`, kvHeads)
  }
  const headDim =
    config.head_dim ?? (config.head_dim === undefined ? defaults.headDim : undefined) ?? config.hidden_size / heads
  if (!Number.isInteger(headDim)) {
    throw invalid(
      'hidden_size',
      `a multiple of num_attention_heads (${heads}) where head_dim is absent`,
      config.hidden_size,
    )
  }
  if (headDim % 2 !== 0) throw invalid('head_dim', 'an even number', headDim)
  // Meta's own spelling and transformers' are the same function.
  const activation = config.hidden_act ?? 'silu'
  if (activation !== 'silu' && activation !== 'swish') throw unsupported('hidden_act', 'silu', activation)
  if ((config.partial_rotary_factor ?? 1) !== 1) {
    throw unsupported('partial_rotary_factor', '1', config.partial_rotary_factor)
  }
  const maxPosition = config.max_position_embeddings ?? defaults.maxPosition
  return {
    spec: {
      vocab: config.vocab_size,
      hidden: config.hidden_size,
      layers: config.num_hidden_layers,
      heads,
      kvHeads,
      headDim,
      intermediate: config.intermediate_size,
      rmsEpsilon: config.rms_norm_eps ?? 1e-6,
      ...readRope(config, maxPosition),
      slidingWindow: architecture.slidingWindow?.(config) ?? 0,
      qkNorm: architecture.qkNorm ?? false,
    },
    tiedEmbeddings: config.tie_word_embeddings ?? false,
    attentionBias: architecture.attentionBias(config),
    feedForwardBias: architecture.feedForwardBias?.(config) ?? false,
    endTokens: config.eos_token_id == null ? [] : [config.eos_token_id].flat(),
  }
}

/** The window of a model whose layers from `firstLayer` on have one; 0: none. */
function readWindow(config: Fields, firstLayer: number): number {
  const window = config.sliding_window === undefined ? DEFAULT_WINDOW : config.sliding_window
  if (window === null) return 0
  const types = config.layer_types
  const other = types?.find((type) => type !== 'sliding_attention' && type !== 'full_attention')
  if (other !== undefined) throw unsupported('layer_types', 'sliding_attention or full_attention', other)
  const layers = config.num_hidden_layers
  const sliding = types
    ? types.filter((type) => type === 'sliding_attention').length
    : layers - Math.min(layers, firstLayer)
  if (sliding === 0) return 0
  if (sliding === (types?.length ?? layers)) return window
  throw types
    ? unsupported('layer_types', 'one type for all layers', [...new Set(types)])
    : unsupported('max_window_layers', `0, or at least num_hidden_layers (${layers})`, firstLayer)
}

function readQwenWindow(config: Fields): number {
  return config.use_sliding_window ? readWindow(config, config.max_window_layers ?? DEFAULT_MAX_WINDOW_LAYERS) : 0
}

/** The rotary embedding, and how long a context it makes of `maxPosition`. */
function readRope(config: Fields, maxPosition: number): { rope: RopeSpec; maxPosition: number } {
  // transformers 5 writes everything into rope_parameters, earlier ones theta beside rope_scaling.
  const field = config.rope_parameters ? 'rope_parameters' : 'rope_scaling'
  const scaling = config.rope_parameters ?? config.rope_scaling
  const none: RopeSpec = {
    theta: scaling?.rope_theta ?? config.rope_theta ?? 10000,
    scaling: 'none',
    factor: 1,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalMaxPosition: 0,
    attentionFactor: 1,
    betaFast: 32,
    betaSlow: 1,
    truncate: true,
  }
  if (!scaling) return { rope: none, maxPosition }
  if ((scaling.partial_rotary_factor ?? 1) !== 1) {
    throw unsupported(`${field}.partial_rotary_factor`, '1', scaling.partial_rotary_factor)
  }
  const require = (name: 'factor' | 'low_freq_factor' | 'high_freq_factor' | 'original_max_position_embeddings') => {
    const value = scaling[name]
    if (value == null) throw invalid(`${field}.${name}`, `a number for rope type '${type}'`, value)
    return value
  }
  const longer = (length: number) => {
    if (length > LONGEST_CONTEXT) throw invalid(`${field}.factor`, `a context of at most ${LONGEST_CONTEXT}`, length)
    return Math.max(maxPosition, Math.floor(length))
  }
  const type = scaling.rope_type ?? scaling.type ?? 'default'
  switch (type) {
    case 'default':
      return { rope: none, maxPosition }
    case 'linear':
      return { rope: { ...none, scaling: 'linear', factor: require('factor') }, maxPosition }
    case 'dynamic': {
      // Theta is that of the greatest length from the first token on: a key's rotation may not depend on what follows.
      const factor = require('factor')
      return {
        rope: { ...none, scaling: 'dynamic', factor, originalMaxPosition: maxPosition },
        maxPosition: longer(maxPosition * factor),
      }
    }
    case 'llama3': {
      const rope: RopeSpec = {
        ...none,
        scaling: 'llama3',
        factor: require('factor'),
        lowFrequencyFactor: require('low_freq_factor'),
        highFrequencyFactor: require('high_freq_factor'),
        originalMaxPosition: require('original_max_position_embeddings'),
      }
      return { rope, maxPosition }
    }
    case 'yarn': {
      const original = scaling.original_max_position_embeddings ?? maxPosition
      const factor = scaling.factor ?? maxPosition / original
      const rope: RopeSpec = {
        ...none,
        scaling: 'yarn',
        factor,
        originalMaxPosition: original,
        attentionFactor: scaling.attention_factor ?? yarnAttention(factor, scaling.mscale, scaling.mscale_all_dim),
        betaFast: scaling.beta_fast ?? none.betaFast,
        betaSlow: scaling.beta_slow ?? none.betaSlow,
        truncate: scaling.truncate ?? true,
      }
      return { rope, maxPosition: longer(original * factor) }
    }
    default:
      throw unsupported(
        `${field}.${scaling.rope_type == null ? 'type' : 'rope_type'}`,
        'default, linear, dynamic, llama3 or yarn',
        type,
      )
  }
}

/** YaRN's 1 / sqrt(temperature) (Peng et al. 2023, section 3.4), with DeepSeek's two scales where both are given. */
function yarnAttention(factor: number, scale: number | null | undefined, ofAll: number | null | undefined): number {
  const attention = (by: number) => (factor <= 1 ? 1 : 0.1 * by * Math.log(factor) + 1)
  return scale && ofAll ? attention(scale) / attention(ofAll) : attention(1)
}

function invalid(field: string, expected: string, found: unknown): MillraceError {
  return new MillraceError('CHECKPOINT_INVALID', {
    message: `${FILE}: field '${field}': expected ${expected}, found ${show(found)}`,
    remedy: `check that ${FILE} belongs to this checkpoint`,
  })
}

function unsupported(field: string, supported: string, found: unknown): MillraceError {
  return new MillraceError('CHECKPOINT_UNSUPPORTED', {
    message: `${FILE}: field '${field}': ${show(found)} is not supported, expected ${supported}`,
    remedy: `supported here: ${supported}`,
  })
}

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
  attentionBias: boolean
  feedForwardBias: boolean
  /** End tokens that config.json names. */
  endTokens: number[]
}

/** Reads the config of one family of models. */
type ConfigReader = (config: Record<string, unknown>) => Omit<ModelConfig, 'architecture'>

/** The supported architectures, and the `model_type` that stands for one where `architectures` is absent. */
const ARCHITECTURES: Record<string, { modelType: string; read: ConfigReader }> = {
  LlamaForCausalLM: { modelType: 'llama', read: readLlama },
}

const FILE = 'config.json'

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
}
const ropeSchema = z.looseObject(ropeFields, { error: 'an object' })

const tokenIds = z.union([fieldInteger(0), z.array(fieldInteger(0))], { error: 'a token id or an array of them' })

const llamaSchema = z.looseObject({
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
  eos_token_id: tokenIds.nullish(),
})

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
  return { architecture, ...entry.read(config) }
}

/** End tokens of generation_config.json, `eos_token_id` being a number or an array. */
export function readEndTokens(config: Record<string, unknown>, file: string): number[] {
  const { eos_token_id: ids } = checkFields(z.looseObject({ eos_token_id: tokenIds.nullish() }), config, file)
  return ids == null ? [] : [ids].flat()
}

function readLlama(raw: Record<string, unknown>): Omit<ModelConfig, 'architecture'> {
  const config = checkFields(llamaSchema, raw, FILE)
  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  if (heads % kvHeads !== 0) {
    throw invalid('num_key_value_heads', `a divisor of num_attention_heads (${heads})`, kvHeads)
  }
  const headDim = config.head_dim ?? config.hidden_size / heads
  if (config.head_dim == null && !Number.isInteger(headDim)) {
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
  return {
    spec: {
      vocab: config.vocab_size,
      hidden: config.hidden_size,
      layers: config.num_hidden_layers,
      heads,
      kvHeads,
      headDim,
      intermediate: config.intermediate_size,
      // The defaults of transformers' LlamaConfig, which writes only what differs from them.
      maxPosition: config.max_position_embeddings ?? 2048,
      rmsEpsilon: config.rms_norm_eps ?? 1e-6,
      rope: readRope(config),
    },
    tiedEmbeddings: config.tie_word_embeddings ?? false,
    attentionBias: config.attention_bias ?? false,
    feedForwardBias: config.mlp_bias ?? false,
    endTokens: config.eos_token_id == null ? [] : [config.eos_token_id].flat(),
  }
}

function readRope(config: z.output<typeof llamaSchema>): RopeSpec {
  // transformers 5 writes everything into rope_parameters, earlier ones theta beside rope_scaling.
  const field = config.rope_parameters ? 'rope_parameters' : 'rope_scaling'
  const scaling = config.rope_parameters ?? config.rope_scaling
  const rope: RopeSpec = {
    theta: scaling?.rope_theta ?? config.rope_theta ?? 10000,
    scaling: 'none',
    factor: 1,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalMaxPosition: 0,
  }
  if (!scaling) return rope
  if ((scaling.partial_rotary_factor ?? 1) !== 1) {
    throw unsupported(`${field}.partial_rotary_factor`, '1', scaling.partial_rotary_factor)
  }
  const require = (name: 'factor' | 'low_freq_factor' | 'high_freq_factor' | 'original_max_position_embeddings') => {
    const value = scaling[name]
    if (value == null) throw invalid(`${field}.${name}`, `a number for rope type '${type}'`, value)
    return value
  }
  const type = scaling.rope_type ?? scaling.type ?? 'default'
  switch (type) {
    case 'default':
      return rope
    case 'linear':
      return { ...rope, scaling: 'linear', factor: require('factor') }
    case 'llama3':
      return {
        ...rope,
        scaling: 'llama3',
        factor: require('factor'),
        lowFrequencyFactor: require('low_freq_factor'),
        highFrequencyFactor: require('high_freq_factor'),
        originalMaxPosition: require('original_max_position_embeddings'),
      }
    default:
      throw unsupported(
        `${field}.${scaling.rope_type == null ? 'type' : 'rope_type'}`,
        'default, linear or llama3',
        type,
      )
  }
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

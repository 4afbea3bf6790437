/** config.json -> ModelSpec. An architecture is a file in architectures/. */
import { z } from 'zod'
import type { ModelSpec } from '../binding.ts'
import type { Architecture, AttentionBias } from './architectures/architecture.ts'
import { ARCHITECTURES } from './architectures/index.ts'
import {
  CONFIG_FILE,
  type Fields,
  identitySchema,
  invalidField,
  modelSchema,
  tokenIds,
  unsupportedField,
} from './fields.ts'
import { checkFields } from './json.ts'
import { checkKeys } from './keys.ts'
import { readRope } from './rope.ts'

/** What config.json says about a model, beyond the shapes that kernels need. */
export interface ModelConfig {
  /** As config.json spells it: 'LlamaForCausalLM'. */
  architecture: string
  spec: ModelSpec
  /** The head is the embedding table. */
  tiedEmbeddings: boolean
  attentionBias: AttentionBias
  feedForwardBias: boolean
  /** End tokens that config.json names. */
  endTokens: number[]
}

/** Takes a sentence about what is in a checkpoint and not read. */
export type Warn = (message: string) => void

/**
 * Reads config.json. Throws CHECKPOINT_UNSUPPORTED naming what is not supported, CHECKPOINT_INVALID what is wrong. `warn`
 * is told of fields that could matter and are not read.
 */
export function readConfig(config: Record<string, unknown>, warn: Warn = () => {}): ModelConfig {
  const { architectures, model_type: modelType } = checkFields(identitySchema, config, CONFIG_FILE)
  const entries = Object.entries(ARCHITECTURES)
  const named = architectures?.[0]
  const found = entries.find(([name, { modelType: type }]) => (named == null ? type === modelType : name === named))
  if (!found) {
    const names = entries.map(([name, { modelType: type }]) => (named == null ? type : name)).join(', ')
    throw named == null
      ? unsupportedField('model_type', names, modelType)
      : unsupportedField('architectures', names, named)
  }
  const [architecture, entry] = found
  if (modelType != null && modelType !== entry.modelType) {
    throw unsupportedField('model_type', entry.modelType, modelType)
  }
  const model = readModel(config, entry, warn)
  checkKeys(config, architecture, entry.fields, warn)
  return { architecture, ...model }
}

/** End tokens of generation_config.json, `eos_token_id` being a number or an array. */
export function readEndTokens(config: Record<string, unknown>, file: string): number[] {
  const { eos_token_id: ids } = checkFields(z.looseObject({ eos_token_id: tokenIds.nullish() }), config, file)
  return ids == null ? [] : [ids].flat()
}

function readModel(
  raw: Record<string, unknown>,
  architecture: Architecture,
  warn: Warn,
): Omit<ModelConfig, 'architecture'> {
  const { defaults } = architecture
  const config = checkFields(modelSchema, raw, CONFIG_FILE)
  const heads = config.num_attention_heads
  // transformers writes only what differs from its defaults, and null for "as many as there are heads".
  const kvHeads =
    config.num_key_value_heads ?? (config.num_key_value_heads === undefined ? defaults.kvHeads : undefined) ?? heads
  if (heads % kvHeads !== 0) {
    throw invalidField('num_key_value_heads', `a divisor of num_attention_heads (${heads})`, kvHeads)
  }
  const headDim =
    config.head_dim ?? (config.head_dim === undefined ? defaults.headDim : undefined) ?? config.hidden_size / heads
  if (!Number.isInteger(headDim)) {
    throw invalidField(
      'hidden_size',
      `a multiple of num_attention_heads (${heads}) where head_dim is absent`,
      config.hidden_size,
    )
  }
  if (headDim % 2 !== 0) throw invalidField('head_dim', 'an even number', headDim)
  // Meta's own spelling and transformers' are the same function.
  const activation = config.hidden_act ?? 'silu'
  if (activation !== 'silu' && activation !== 'swish') throw unsupportedField('hidden_act', 'silu', activation)
  checkLayerTypes(config, architecture)
  const slidingWindow = architecture.slidingWindow?.(config) ?? 0
  const layerTypes = config.layer_types ?? [slidingWindow > 0 ? 'sliding_attention' : 'full_attention']
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
      ...readRope(config, maxPosition, [...new Set(layerTypes)], warn),
      slidingWindow,
      qkNorm: architecture.qkNorm ?? false,
    },
    tiedEmbeddings: config.tie_word_embeddings ?? false,
    attentionBias: architecture.attentionBias(config),
    feedForwardBias: architecture.feedForwardBias?.(config) ?? false,
    endTokens: config.eos_token_id == null ? [] : [config.eos_token_id].flat(),
  }
}

function checkLayerTypes({ layer_types: types, num_hidden_layers: layers }: Fields, architecture: Architecture): void {
  if (!types) return
  const known = architecture.slidingWindow ? ['sliding_attention', 'full_attention'] : ['full_attention']
  const other = types.find((type) => !known.includes(type))
  if (other !== undefined) throw unsupportedField('layer_types', known.join(' or '), other)
  if (types.length !== layers) {
    throw invalidField('layer_types', `one a layer (num_hidden_layers: ${layers})`, types.length)
  }
}

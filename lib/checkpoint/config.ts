/** config.json -> program. An architecture is a file in architectures/. */
import { z } from 'zod'
import type { Activation } from '../binding.ts'
import type { Architecture } from './architectures/architecture.ts'
import { ARCHITECTURES, WITH_TEXT_CONFIG } from './architectures/index.ts'
import { buildDecoder, type DecoderShape } from './decoder.ts'
import {
  CONFIG_FILE,
  type Fields,
  identitySchema,
  invalidField,
  modelSchema,
  tokenIds,
  unsupportedField,
} from './fields.ts'
import { checkFields, isObject } from './json.ts'
import { checkKeys } from './keys.ts'
import type { NamedProgram } from './program.ts'
import { readRopes } from './rope.ts'
import { type ModelSpec, specOf } from './spec.ts'

/** What config.json says about a model. */
export interface ModelConfig {
  /** As config.json spells it: 'LlamaForCausalLM'. */
  architecture: string
  spec: ModelSpec
  /** What is computed, and of which tensors. */
  named: NamedProgram
  /** The head is the embedding table. */
  tiedEmbeddings: boolean
  /** End tokens that config.json names. */
  endTokens: number[]
}

/** Takes a sentence about what is in a checkpoint and not read. */
export type Warn = (message: string) => void

/**
 * Reads config.json. Throws CHECKPOINT_UNSUPPORTED naming what is not supported, CHECKPOINT_INVALID what is wrong. `warn`
 * is told of fields that could matter and are not read.
 */
export function readConfig(whole: Record<string, unknown>, warn: Warn = () => {}): ModelConfig {
  const outer = checkFields(identitySchema, whole, CONFIG_FILE)
  const ofParts = WITH_TEXT_CONFIG.find((name) => name === outer.architectures?.[0])
  // The text's part says what it is by its model_type alone.
  const config = ofParts ? textOf(whole) : whole
  const { architectures, model_type: modelType } = ofParts ? checkFields(identitySchema, config, CONFIG_FILE) : outer
  const entries = Object.entries(ARCHITECTURES)
  const named = ofParts ? undefined : architectures?.[0]
  const found = entries.find(([name, { modelType: type }]) => (named == null ? type === modelType : name === named))
  if (!found) {
    const names = entries.map(([name, { modelType: type }]) => (named == null ? type : name)).join(', ')
    throw named == null
      ? unsupportedField('model_type', names, modelType)
      : unsupportedField('architectures', [names, ...WITH_TEXT_CONFIG].join(', '), named)
  }
  const [architecture, entry] = found
  if (modelType != null && modelType !== entry.modelType) {
    throw unsupportedField('model_type', entry.modelType, modelType)
  }
  const model = readModel(withAbsent(config, entry), entry, warn)
  checkKeys(config, ofParts ?? architecture, entry.fields, warn)
  return { architecture: ofParts ?? architecture, ...model }
}

/** The text's part, with what belongs to all parts. */
function textOf(whole: Record<string, unknown>): Record<string, unknown> {
  const text = whole.text_config
  if (!isObject(text)) throw invalidField('text_config', 'an object', text)
  const { architectures: _, ...own } = text
  const shared = ['eos_token_id', 'tie_word_embeddings', 'quantization_config', 'compression_config', 'dtype']
  const said = shared.flatMap((key) => (own[key] == null && whole[key] != null ? [[key, whole[key]]] : []))
  return { ...own, ...Object.fromEntries(said) }
}

/** What the architecture's class in transformers makes of fields that are not there. */
function withAbsent(
  config: Record<string, unknown>,
  { absent, ropesByType, defaults }: Architecture,
): Record<string, unknown> {
  const original =
    defaults.originalMaxPosition === undefined ? {} : { original_max_position_embeddings: defaults.originalMaxPosition }
  // An older spelling of the field is the field.
  const { rope_parameters: ropes, ...others } = absent ?? {}
  const spelt = ropes === undefined || config.rope_scaling != null ? {} : { rope_parameters: ropes }
  const full = { ...original, ...others, ...spelt, ...config }
  if (!ropesByType) return full
  const { rope_scaling: scaling, rope_parameters: parameters, ...rest } = full as Record<string, unknown>
  const nested = isObject(parameters) ? parameters : {}
  const flat = Object.keys(nested).length > 0 && !Object.values(nested).some(isObject)
  const own = (type: string) => (isObject(nested[type]) ? nested[type] : flat ? nested : {})
  const { full: theta, sliding, slidingField = '' } = ropesByType
  return {
    ...rest,
    rope_parameters: {
      full_attention: {
        rope_theta: rest.rope_theta ?? theta,
        ...own('full_attention'),
        ...(isObject(scaling) ? scaling : {}),
      },
      sliding_attention: {
        rope_theta: rest[slidingField] ?? (slidingField === '' ? (rest.rope_theta ?? sliding) : sliding),
        ...(isObject(nested.sliding_attention) ? nested.sliding_attention : {}),
      },
    },
  }
}

/** End tokens of generation_config.json, `eos_token_id` being a number or an array. */
export function readEndTokens(config: Record<string, unknown>, file: string): number[] {
  const { eos_token_id: ids } = checkFields(z.looseObject({ eos_token_id: tokenIds.nullish() }), config, file)
  return ids == null ? [] : [ids].flat()
}

const WINDOWS = ['sliding_window', 'sliding_window_pattern', 'use_sliding_window', 'max_window_layers']

/** What an architecture does not read may be anything: it was copied with the rest. */
function withoutUnreadWindows(raw: Record<string, unknown>, { fields }: Architecture): Record<string, unknown> {
  const unused = fields.includes('use_sliding_window') && !raw.use_sliding_window
  const isRead = (key: string) => fields.includes(key) && !(unused && key === 'sliding_window')
  return Object.fromEntries(Object.entries(raw).filter(([key]) => !WINDOWS.includes(key) || isRead(key)))
}

function readModel(
  raw: Record<string, unknown>,
  architecture: Architecture,
  warn: Warn,
): Omit<ModelConfig, 'architecture'> {
  const { defaults } = architecture
  const config = checkFields(modelSchema, withoutUnreadWindows(raw, architecture), CONFIG_FILE)
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
  checkLayerTypes(config, architecture)
  const windows = architecture.windows?.(config) ?? Array<number>(config.num_hidden_layers).fill(0)
  const typeOf = (layer: number) =>
    config.layer_types?.[layer] ?? (windows[layer]! > 0 ? 'sliding_attention' : 'full_attention')
  const types = [...new Set(windows.map((_, layer) => typeOf(layer)))]
  const positions = config.max_position_embeddings ?? defaults.maxPosition
  const { ropes, maxPosition } = readRopes(
    config,
    positions,
    types,
    (type) => architecture.headDimOf?.(config, type) ?? headDim,
    architecture,
    warn,
  )
  const llama: DecoderShape = {
    vocab: config.vocab_size,
    hidden: config.hidden_size,
    layers: config.num_hidden_layers,
    maxPosition,
    epsilon: config.rms_norm_eps ?? defaults.epsilon ?? 1e-6,
    norms: { beforeAttention: 'input_layernorm', beforeFeedForward: 'post_attention_layernorm' },
    layer: (index) => ({
      heads,
      kvHeads,
      headDim,
      intermediate: config.intermediate_size,
      activation: readActivation(config, architecture),
      window: windows[index]!,
      rope: ropes.get(typeOf(index))!,
      biases: [],
      headNorms: 'none',
    }),
  }
  const shape = architecture.decoder?.(config, llama) ?? llama
  return {
    spec: specOf(shape),
    named: buildDecoder(shape),
    tiedEmbeddings: config.tie_word_embeddings ?? defaults.tied ?? false,
    endTokens: config.eos_token_id == null ? [] : [config.eos_token_id].flat(),
  }
}

// Meta's own spelling and transformers' are the same function.
const SILU: Readonly<Record<string, Activation>> = { silu: 'silu', swish: 'silu' }

function readActivation(
  config: Fields,
  { activations = SILU, activationField = 'hidden_act' }: Architecture,
): Activation {
  const [first] = Object.keys(activations)
  const found: string = config[activationField] ?? first!
  if (Object.hasOwn(activations, found)) return activations[found]!
  throw unsupportedField(activationField, activations === SILU ? 'silu' : Object.keys(activations).join(' or '), found)
}

function checkLayerTypes({ layer_types: types, num_hidden_layers: layers }: Fields, architecture: Architecture): void {
  if (!types) return
  const known = [
    ...(architecture.layerTypes ?? ['full_attention']),
    ...(architecture.windows ? ['sliding_attention'] : []),
  ]
  const other = types.find((type) => !known.includes(type))
  if (other !== undefined) throw unsupportedField('layer_types', known.join(' or '), other)
  if (types.length !== layers) {
    throw invalidField('layer_types', `one a layer (num_hidden_layers: ${layers})`, types.length)
  }
}

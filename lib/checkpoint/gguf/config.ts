/** A GGUF file's metadata as the config.json of the same model: what is computed is then read in one place. */
import type { NativeTensor } from '../../binding.ts'
import { MillraceError } from '../../errors.ts'
import { isNeutral, list } from '../keys.ts'
import type { GgufArchitecture } from './architectures.ts'
import type { GgufMetadata } from './metadata.ts'
import type { TensorNames } from './names.ts'

/** Field of config.json -> key after the architecture's name: also how complaints are told. */
const KEYS: Readonly<Record<string, string>> = {
  hidden_size: 'embedding_length',
  num_hidden_layers: 'block_count',
  num_attention_heads: 'attention.head_count',
  num_key_value_heads: 'attention.head_count_kv',
  head_dim: 'attention.key_length',
  intermediate_size: 'feed_forward_length',
  max_position_embeddings: 'context_length',
  rms_norm_eps: 'attention.layer_norm_rms_epsilon',
  rope_theta: 'rope.freq_base',
  rope_scaling: 'rope.scaling',
  partial_rotary_factor: 'rope.dimension_count',
  sliding_window: 'attention.sliding_window',
  vocab_size: 'vocab_size',
}

/** Read for every architecture. */
const READ = new Set([
  ...Object.values(KEYS),
  'attention.value_length',
  'expert_count',
  'rope.scaling.type',
  'rope.scaling.factor',
  'rope.scaling.original_context_length',
  'rope.scaling.attn_factor',
  'rope.scaling.yarn_ext_factor',
  'rope.scaling.yarn_attn_factor',
  'rope.scaling.yarn_beta_fast',
  'rope.scaling.yarn_beta_slow',
  'rope.scaling.yarn_log_multiplier',
  'rope.scale_linear',
])

/** Known to change no number, beside `general.`, `tokenizer.`, `split.` and `quantize.`. */
const HARMLESS = /^(rope\.scaling\.finetuned|tensor_data_layout|expert_used_count|pooling_type)$/
const OTHERS_KEYS = /^(general|tokenizer|split|quantize|training|imatrix)\./

/** Divisors of rope's frequencies, of short contexts and of long ones. */
export interface RopeFactors {
  short: readonly number[]
  long: readonly number[]
}

export interface GgufConfig {
  /** As config.json would say it. */
  record: Record<string, unknown>
  headDim: number
}

/** Throws CHECKPOINT_INVALID or CHECKPOINT_UNSUPPORTED naming the file and the key. */
export function makeConfig(
  metadata: GgufMetadata,
  [name, architecture]: [string, GgufArchitecture],
  tensors: readonly NativeTensor[],
  factors?: RopeFactors,
): GgufConfig {
  const key = (field: string) => `${name}.${KEYS[field] ?? field}`
  const integer = (field: string) => metadata.require(key(field), metadata.integer(key(field), 1))
  const one = (field: string) => uniform(metadata, key(field))
  const hidden = integer('hidden_size')
  const heads = metadata.require(key('num_attention_heads'), one('num_attention_heads'))
  const headDim = metadata.integer(key('head_dim'), 1) ?? hidden / heads
  const valueDim = metadata.integer(`${name}.attention.value_length`, 1) ?? hidden / heads
  if (headDim !== valueDim && !architecture.latents) {
    throw metadata.unsupported(`${name}.attention.value_length`, `the length of keys (${headDim})`, valueDim)
  }
  if (metadata.boolean(`${name}.attention.causal`) === false) {
    throw metadata.unsupported(`${name}.attention.causal`, 'true', false)
  }
  const rotary = metadata.integer(key('partial_rotary_factor'), 1)
  const of = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const embedding = metadata.require('the tensor token_embd.weight', of.get('token_embd.weight'))
  return {
    headDim,
    record: {
      architectures: [architecture.architecture(metadata, of)],
      model_type: architecture.modelType(metadata, of),
      vocab_size: embedding.shape[0],
      hidden_size: hidden,
      num_hidden_layers: integer('num_hidden_layers') - (architecture.layersBeyond?.(metadata) ?? 0),
      num_attention_heads: heads,
      num_key_value_heads: one('num_key_value_heads') ?? heads,
      head_dim: headDim,
      // Of mixtures alone files need not have it.
      intermediate_size: metadata.require(
        key('intermediate_size'),
        one('intermediate_size') ?? metadata.integer(`${name}.expert_feed_forward_length`, 1),
      ),
      max_position_embeddings: integer('max_position_embeddings'),
      ...(architecture.layerNorm
        ? {}
        : { rms_norm_eps: metadata.require(key('rms_norm_eps'), metadata.number(key('rms_norm_eps'))) }),
      rope_theta: metadata.number(key('rope_theta')) ?? 10000,
      rope_scaling: ropeScaling(metadata, name, architecture, factors),
      // Beside the parameters it holds, where the class has a default.
      original_max_position_embeddings: metadata.integer(`${name}.rope.scaling.original_context_length`, 1),
      ...(rotary === undefined || rotary === headDim || architecture.latents
        ? {}
        : { partial_rotary_factor: rotary / headDim }),
      tie_word_embeddings: !of.has('output.weight'),
      eos_token_id: endTokens(metadata),
      ...architecture.fields?.(metadata, of),
    },
  }
}

/** A number that may be given once a layer, where all are the same. */
function uniform(metadata: GgufMetadata, key: string): number | undefined {
  const value = metadata.integers(key)
  if (!Array.isArray(value)) return value
  if (value.length > 0 && value.every((item) => item === value[0])) return value[0]
  throw metadata.unsupported(key, 'the same number for every layer', `[${list(value.map(String), 4)}]`)
}

/** As llama.cpp reads it: YaRN's amplitude is its own 0.1 ln(factor) + 1 times two factors that are mostly absent. */
function ropeScaling(
  metadata: GgufMetadata,
  name: string,
  { yarnLogarithm = false, yarnWhole = true, latents = false }: GgufArchitecture,
  factors: RopeFactors | undefined,
): Record<string, unknown> | null {
  const prefix = `${name}.rope.scaling`
  const number = (key: string) => metadata.number(`${prefix}.${key}`)
  const older = metadata.number(`${name}.rope.scale_linear`)
  const type = metadata.text(`${prefix}.type`) ?? (older === undefined ? 'none' : 'linear')
  const factor = number('factor') || older || 1
  const amplitude = (number('attn_factor') ?? 1) * (number('yarn_attn_factor') ?? 1)
  if (factors) {
    return {
      rope_type: 'longrope',
      short_factor: factors.short,
      long_factor: factors.long,
      original_max_position_embeddings: metadata.integer(`${prefix}.original_context_length`, 1),
      attention_factor: amplitude,
    }
  }
  if (type !== 'yarn' && type !== 'longrope' && amplitude !== 1) {
    throw metadata.unsupported(`${prefix}.attn_factor`, `1 with rope scaling '${type}'`, amplitude)
  }
  if (type === 'none' || (type === 'linear' && factor === 1)) return null
  if (type !== 'yarn') return { rope_type: type, factor }
  const mixed = number('yarn_ext_factor') ?? 1
  if (mixed !== 1 && mixed >= 0) throw metadata.unsupported(`${prefix}.yarn_ext_factor`, '1', mixed)
  const logarithm = number('yarn_log_multiplier') ?? 0
  if (logarithm !== 0 && !yarnLogarithm && !latents)
    throw metadata.unsupported(`${prefix}.yarn_log_multiplier`, '0', logarithm)
  const growth = metadata.number(`${name}.attention.temperature_scale`)
  return {
    rope_type: 'yarn',
    factor,
    original_max_position_embeddings: metadata.integer(`${prefix}.original_context_length`, 1),
    ...(logarithm === 0
      ? { attention_factor: amplitude * (0.1 * Math.log(Math.max(factor, 1)) + 1) }
      : latents
        ? { mscale: 10 * logarithm, mscale_all_dim: 10 * logarithm }
        : { mscale: 1, mscale_all_dim: logarithm }),
    ...(growth === undefined ? {} : { llama_4_scaling_beta: growth }),
    beta_fast: number('yarn_beta_fast'),
    beta_slow: number('yarn_beta_slow'),
    ...(yarnWhole ? {} : { truncate: false }),
  }
}

/** Control tokens that end an answer, as chat formats write them: files name mostly one of them. */
const ENDS = new Set([
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end|>',
  '<|end_of_text|>',
  '<|endoftext|>',
  '<|return|>',
  '<end_of_turn>',
  '<turn|>',
  '<end_of_utterance>',
  '<EOT>',
  '[EOT]',
  '<\uff5cend\u2581of\u2581sentence\uff5c>',
])
const CONTROL = 3

function endTokens(metadata: GgufMetadata): number[] {
  const named = ['eos', 'eot', 'eom'].map((end) => metadata.integer(`tokenizer.ggml.${end}_token_id`, 0, 2 ** 32 - 1))
  const texts = metadata.texts('tokenizer.ggml.tokens')
  const types = metadata.numbers('tokenizer.ggml.token_type')
  const found: number[] = []
  for (let id = 0; texts && types && id < Math.min(texts.length, types.length); id++) {
    if (types[id] === CONTROL && ENDS.has(texts.at(id))) found.push(id)
  }
  // 2^32 - 1 stands for "none".
  return [...new Set([...named.filter((id) => id !== undefined && id < 2 ** 31), ...found])] as number[]
}

/** Tells of keys that could matter and are not read. */
export function checkGgufKeys(
  metadata: GgufMetadata,
  [name, { keys = [] }]: [string, GgufArchitecture],
  warn: (message: string) => void,
): void {
  const unread = metadata.keys.filter((key) => {
    if (OTHERS_KEYS.test(key)) return false
    const own = key.startsWith(`${name}.`) ? key.slice(name.length + 1) : undefined
    if (own === undefined) return true
    if (READ.has(own) || keys.includes(own) || HARMLESS.test(own)) return false
    return own !== 'attention.causal' && !isNeutral(own, metadata.get(key))
  })
  if (unread.length > 0)
    warn(`${metadata.file}: metadata keys that ${name} does not have are not read: ${list(unread)}`)
}

/** A complaint about config.json or about names of a Hugging Face folder, in the file's own words. */
export function asGguf(error: unknown, { file }: GgufMetadata, name: string, names: TensorNames): MillraceError {
  const { code, message, remedy, cause } = MillraceError.fromNative(error)
  const told = message
    .replace(/^config\.json: (?:field ')?([\w]+)([\w.]*)'?/, (_, field: string, rest: string) =>
      Object.hasOwn(KEYS, field)
        ? `${file}: metadata key '${name}.${KEYS[field]}${rest}'`
        : `${file}: '${field}${rest}'`,
    )
    .replace('.rope.scaling.rope_type', '.rope.scaling.type')
    .replace(/'((?:model\.|lm_head)[\w.]*)'/g, (_, hub: string) => `'${names.toStored(hub)}'`)
    .replace('in the safetensors files', `in ${file}`)
    .replaceAll('config.json', 'the metadata')
  return new MillraceError(code, {
    message: told,
    remedy: remedy.includes('config.json') ? 'fetch the file again, or report it to whoever converted it' : remedy,
    cause: cause ?? error,
  })
}

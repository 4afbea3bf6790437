/**
 * Which keys of config.json matter. Those that say what is computed are read (fields.ts); of the others, transformers acts
 * on a few whatever the architecture, which are refused; many are known to change no number; the rest could, and are told.
 */
import type { Warn } from './config.ts'
import { CONFIG_FILE, unsupportedField } from './fields.ts'
import { isObject, show } from './json.ts'

/** Read for every architecture, or read elsewhere. */
const READ = [
  'architectures',
  'model_type',
  'vocab_size',
  'hidden_size',
  'num_hidden_layers',
  'num_attention_heads',
  'num_key_value_heads',
  'head_dim',
  'intermediate_size',
  'max_position_embeddings',
  'rms_norm_eps',
  'hidden_act',
  'rope_theta',
  'rope_scaling',
  'rope_parameters',
  'partial_rotary_factor',
  'original_max_position_embeddings',
  'tie_word_embeddings',
  'layer_types',
  // Where the architecture does not read them, the biases in the file decide: none unread may be other than zero.
  'attention_bias',
  'mlp_bias',
  'quantization_config',
  'compression_config',
  'transformers_weights',
]

/** What transformers does for every architecture and is not done here: what is expected, and when that is so. */
const REFUSED: Readonly<Record<string, { expected: string; is: (value: unknown) => boolean }>> = {
  // Attention to both sides.
  is_causal: { expected: 'true', is: (value) => value == null || value === true },
  is_encoder_decoder: { expected: 'false', is: (value) => isNeutral('is_encoder_decoder', value) },
  // Other sizes for single layers.
  per_layer_config: { expected: 'nothing', is: (value) => isNeutral('per_layer_config', value) },
}

/** Known to change no number of a model of the architectures here. */
const HARMLESS = new Set([
  // Of transformers' base class: how outputs are returned, what other heads are called, where the model came from.
  'return_dict',
  'return_dict_in_generate',
  'torchscript',
  'torch_dtype',
  'dtype',
  'use_bfloat16',
  'tf_legacy_loss',
  'tie_encoder_decoder',
  'cross_attention_hidden_size',
  'chunk_size_feed_forward',
  'finetuning_task',
  'id2label',
  'label2id',
  'num_labels',
  'problem_type',
  'task_specific_params',
  'tokenizer_class',
  'prefix',
  'name_or_path',
  'transformers_version',
  'transformers.js_config',
  'auto_map',
  'custom_pipelines',
  'is_decoder',
  // How it is computed, not what.
  'use_cache',
  'pretraining_tp',
  'attn_implementation',
  'use_flash_attn',
  'use_flash_attention',
  'use_flash_attention_2',
  'use_sdpa',
  'use_fused_rms_norm',
  'use_fused_rope',
  'use_fused_swiglu',
  'fused_ops',
  'tensor_parallel_degree',
  'sequence_parallel',
  'experts_implementation',
  'cache_implementation',
  // Of generation; generation_config.json is where they belong.
  'max_length',
  'max_new_tokens',
  'min_length',
  'do_sample',
  'early_stopping',
  'num_beams',
  'num_beam_groups',
  'diversity_penalty',
  'temperature',
  'top_k',
  'top_p',
  'typical_p',
  'repetition_penalty',
  'length_penalty',
  'no_repeat_ngram_size',
  'encoder_no_repeat_ngram_size',
  'bad_words_ids',
  'num_return_sequences',
  'output_scores',
  'remove_invalid_values',
  'exponential_decay_length_penalty',
  'suppress_tokens',
  'begin_suppress_tokens',
  'is_llama_config', // SmolLM
  // Lengths that nothing is cut at.
  'max_sequence_length',
  'max_seq_len',
  'seq_length',
  'model_max_length',
  'tokenizer_model_max_length',
  'tokenizer_padding_side',
  // vLLM's own way to contexts beyond the trained one (Qwen2.5-1M); transformers has none of it.
  'dual_chunk_attention_config',
])

/** Whole groups of harmless keys: private ones, ids of tokens, and all that is of training or of other modalities. */
const HARMLESS_GROUPS = [
  /^_/,
  /_token_ids?$/,
  /dropout(_prob|_rate)?$/,
  /^(initializer|init)_|_init(ializer)?(_std|_range)?$/,
  /^output_(attentions|hidden_states|past|router_logits)$/,
  /(aux|z)_loss_coef(ficient)?$/,
  /^(train|training|pretrain|finetune|freeze|unfreeze|tune|lora|peft|unsloth|wandb|gradient|optimizer|neftune)(_|$)/,
  /(^|_)(lr|learning_rate|weight_decay|version|path|commit|hash|date|license|author|url|description)$/,
  /^(mm|vision|image|audio|video|speech)_/,
  /^(use_)?gradient_checkpointing$/,
]

/** Values that say what is so anyway. */
const NEUTRAL: Readonly<Record<string, readonly unknown[]>> = {
  activation: ['swiglu', 'silu'],
  full_attn_mod: [1], // Phi-4-mini: of how many layers one has no window
  norm_type: ['rmsnorm', 'rms_norm', 'RMSNorm'],
  position_embedding_type: ['rope', 'rotary'],
}

/** A value that changes nothing, whatever is meant: nothing at all, or a factor of one. */
export function isNeutral(key: string, value: unknown): boolean {
  if (value == null || value === false || value === 0 || value === '') return true
  if (Array.isArray(value)) return value.length === 0
  if (isObject(value)) return Object.keys(value).length === 0
  if (value === 1 && /(scale|scaling|multiplier|factor)$/.test(key)) return true
  return NEUTRAL[key]?.includes(value) ?? false
}

/** Throws CHECKPOINT_UNSUPPORTED for what cannot be left out, and warns of what is left out and not known to be harmless. */
export function checkKeys(
  config: Record<string, unknown>,
  architecture: string,
  fields: readonly string[],
  warn: Warn,
): void {
  const unread: string[] = []
  for (const [key, value] of Object.entries(config)) {
    if (Object.hasOwn(REFUSED, key) && !fields.includes(key)) {
      const { expected, is } = REFUSED[key]!
      if (!is(value)) throw unsupportedField(key, expected, value)
    } else if (!READ.includes(key) && !fields.includes(key) && !isHarmless(key) && !isNeutral(key, value)) {
      unread.push(key)
    }
  }
  if (unread.length === 0) return
  warn(`${CONFIG_FILE}: not read, as ${architecture} of transformers has no such fields: ${list(unread)}`)
}

function isHarmless(key: string): boolean {
  return HARMLESS.has(key) || HARMLESS_GROUPS.some((group) => group.test(key))
}

/** Names for a sentence, the first few of many. */
export function list(names: readonly string[], most = 8): string {
  const first = names.slice(0, most).map(show).join(', ')
  return names.length > most ? `${first} and ${names.length - most} more` : first
}

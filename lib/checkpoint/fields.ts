/** The fields of config.json that say what is computed, and how a wrong or unsupported one is told. */
import { z } from 'zod'
import { MillraceError } from '../errors.ts'
import { fieldBoolean, fieldInteger, fieldNumber, fieldText, show } from './json.ts'

export const CONFIG_FILE = 'config.json'

// Some files say -1 for "none".
const tokenId = fieldInteger(-(2 ** 31))
export const tokenIds = z.union([tokenId, z.array(tokenId)], { error: 'a token id or an array of them' })

export const identitySchema = z.looseObject({
  architectures: z.array(fieldText(), { error: 'an array of names' }).nullish(),
  model_type: fieldText().nullish(),
})

/**
 * What may hold one set of rope's parameters, or one a layer type: rope.ts reads what is in it. What Python takes for
 * nothing is none.
 */
const ropeObject = z.preprocess(
  (value) => (!value || (Array.isArray(value) && value.length === 0) ? undefined : value),
  z.looseObject({}, { error: 'an object' }).optional(),
)

export const modelSchema = z.looseObject({
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
  hidden_activation: fieldText().nullish(),
  rope_theta: z.unknown().optional(),
  rope_scaling: ropeObject,
  rope_parameters: ropeObject,
  partial_rotary_factor: z.unknown().optional(),
  original_max_position_embeddings: z.unknown().optional(),
  tie_word_embeddings: fieldBoolean().nullish(),
  attention_bias: fieldBoolean().nullish(),
  mlp_bias: fieldBoolean().nullish(),
  sliding_window: fieldInteger(1).nullish(),
  sliding_window_pattern: z
    .union([fieldInteger(0), z.string().regex(/^[LG]+$/)], { error: 'a number or a word of L and G' })
    .nullish(),
  use_sliding_window: fieldBoolean().nullish(),
  max_window_layers: fieldInteger(0).nullish(),
  layer_types: z.array(fieldText(), { error: 'an array of names' }).nullish(),
  eos_token_id: tokenIds.nullish(),
})
export type Fields = z.output<typeof modelSchema>

export function invalidField(field: string, expected: string, found: unknown): MillraceError {
  return new MillraceError('CHECKPOINT_INVALID', {
    message: `${CONFIG_FILE}: field '${field}': expected ${expected}, found ${show(found)}`,
    remedy: `check that ${CONFIG_FILE} belongs to this checkpoint`,
  })
}

export function unsupportedField(field: string, supported: string, found: unknown): MillraceError {
  return new MillraceError('CHECKPOINT_UNSUPPORTED', {
    message: `${CONFIG_FILE}: field '${field}': ${show(found)} is not supported, expected ${supported}`,
    remedy: `supported here: ${supported}`,
  })
}

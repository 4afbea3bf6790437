import { describe, expect, test } from 'vitest'
import { readConfig } from '../../../lib/checkpoint/config.ts'

const llama = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 32000,
  hidden_size: 4096,
  num_hidden_layers: 4,
  num_attention_heads: 32,
  intermediate_size: 11008,
}
const warningsOf = (config: object) => {
  const warnings: string[] = []
  readConfig({ ...llama, ...config }, (message) => warnings.push(message))
  return warnings
}

describe('fields that are not read', () => {
  test.each([
    { logit_scale: 0.0625 },
    { final_logit_softcapping: 30 },
    { embedding_multiplier: 12 },
    { clip_qkv: 8 },
    { use_qk_norm: true },
    { no_rope_layers: [1, 1, 0] },
    { num_local_experts: 8 },
    { rotary_pct: 0.25 },
    { rope_local_base_freq: 10000 },
    { sliding_window: 4096 },
    { text_config: { tie_word_embeddings: true } },
    { rope_interleaved: true },
    { output_multiplier_scale: 0.5 },
    { never_heard_of: 'something' },
  ])('are told by name where they could matter: %j', (config) => {
    expect(warningsOf(config)).toEqual([expect.stringContaining(`"${Object.keys(config)[0]}"`)])
  })
  test('are told in one sentence', () => {
    const many = Object.fromEntries(Array.from({ length: 20 }, (_, index) => [`strange_${index}`, index + 2]))
    expect(warningsOf(many)).toEqual([expect.stringMatching(/"strange_0", .* and 12 more$/)])
  })
  test.each([
    { logit_scale: 1, residual_multiplier: 1.0 },
    { num_experts: 0, use_qk_norm: false, clip_qkv: null, no_rope_layers: [], moe: {}, note: '' },
    { torch_dtype: 'bfloat16', dtype: 'bfloat16', _name_or_path: 'x', auto_map: { AutoModel: 'x' }, use_cache: false },
    { id2label: { 0: 'LABEL_0' }, temperature: 0.6, top_p: 0.9, do_sample: true, max_length: 20, pad_token_id: -1 },
    { attention_dropout: 0.1, hidden_dropout_prob: 0.1, initializer_range: Number.NaN, router_aux_loss_coef: 0.001 },
    { pretraining_tp: 2, unsloth_version: '2024.9', vision_config: { hidden_size: 5 }, image_token_index: 3 },
    { output_attentions: true, output_hidden_states: true, output_router_logits: true },
    { is_causal: true, is_encoder_decoder: false, per_layer_config: {} },
  ])('are passed over where they do not: %j', (config) => expect(warningsOf(config)).toEqual([]))
  test.each([{ is_causal: false }, { is_encoder_decoder: true }, { per_layer_config: { 0: { head_dim: 64 } } }])(
    'are refused where transformers acts on them for every architecture: %j',
    (config) =>
      expect(() => warningsOf(config)).toThrowError(
        expect.objectContaining({
          code: 'CHECKPOINT_UNSUPPORTED',
          message: expect.stringContaining(Object.keys(config)[0]!),
        }),
      ),
  )
})

test('layer types: one a layer, and none that the architecture does not have', () => {
  const types = (layer_types: string[]) => () => warningsOf({ layer_types })
  expect(types(Array(4).fill('full_attention'))()).toEqual([])
  expect(types(Array(3).fill('full_attention'))).toThrow(
    /'layer_types': expected one a layer \(num_hidden_layers: 4\), found 3/,
  )
  expect(types(Array(4).fill('sliding_attention'))).toThrow(/'layer_types': "sliding_attention" is not supported/)
})

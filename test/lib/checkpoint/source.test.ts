import { describe, expect, test } from 'vitest'
import { readConfig } from '../../../lib/checkpoint/config.ts'
import type { Quantisation } from '../../../lib/checkpoint/quantisation.ts'
import { makeSource } from '../../../lib/checkpoint/source.ts'

const linears = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
]
const gptq: Quantisation = { method: 'gptq', bits: 4, groupSize: 128, symmetric: true, actOrder: false, format: 'gptq' }

const config = (more = {}) =>
  readConfig({
    model_type: 'llama',
    vocab_size: 10,
    hidden_size: 8,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 8,
    ...more,
  })

/** Tensor names of two layers; `parts` are the tensors of each linear. */
function names(parts: string[], more: string[] = []): { name: string }[] {
  const layer = (index: number) => [
    `model.layers.${index}.input_layernorm.weight`,
    `model.layers.${index}.post_attention_layernorm.weight`,
    ...linears.flatMap((linear) => parts.map((part) => `model.layers.${index}.${linear}.${part}`)),
  ]
  return ['model.embed_tokens.weight', 'model.norm.weight', ...layer(0), ...layer(1), ...more].map((name) => ({ name }))
}

describe('makeSource', () => {
  test('plain linears and a head of its own', () => {
    const { layers, head, embedding, finalNorm } = makeSource(
      config(),
      { method: 'none' },
      names(['weight'], ['lm_head.weight']),
    )
    expect(layers).toHaveLength(2)
    expect(layers[1]!.down).toMatchObject({ format: 'plain', weight: 'model.layers.1.mlp.down_proj.weight', bias: '' })
    expect(layers[0]!.attentionNorm).toBe('model.layers.0.input_layernorm.weight')
    expect(head).toMatchObject({ format: 'plain', weight: 'lm_head.weight' })
    expect({ embedding, finalNorm }).toEqual({ embedding: 'model.embed_tokens.weight', finalNorm: 'model.norm.weight' })
  })

  test('GPTQ, with and without g_idx, version 1 and 2', () => {
    const source = makeSource(
      config({ tie_word_embeddings: true }),
      gptq,
      names(['qweight', 'qzeros', 'scales', 'g_idx']),
    )
    expect(source.layers[0]!.query).toEqual({
      format: 'gptq',
      weight: 'model.layers.0.self_attn.q_proj.qweight',
      zeros: 'model.layers.0.self_attn.q_proj.qzeros',
      scales: 'model.layers.0.self_attn.q_proj.scales',
      gIdx: 'model.layers.0.self_attn.q_proj.g_idx',
      bias: '',
      bits: 4,
      groupSize: 128,
      symmetric: true,
      zerosMinusOne: true,
    })
    expect(source.head).toMatchObject({ format: 'plain', weight: 'model.embed_tokens.weight' })
    const second = makeSource(
      config({ tie_word_embeddings: true }),
      { ...gptq, format: 'gptq_v2' },
      names(['qweight', 'qzeros', 'scales']),
    )
    expect(second.layers[0]!.query).toMatchObject({ gIdx: '', zerosMinusOne: false })
  })

  test('a mixture: what has qweight is quantised, what has weight is not', () => {
    const { head, layers } = makeSource(config(), gptq, names(['qweight', 'qzeros', 'scales'], ['lm_head.weight']))
    expect([layers[0]!.up.format, head.format]).toEqual(['gptq', 'plain'])
    const quantised = makeSource(
      config(),
      gptq,
      names(['weight'], ['lm_head.qweight', 'lm_head.qzeros', 'lm_head.scales']),
    )
    expect([quantised.layers[0]!.up.format, quantised.head.format]).toEqual(['plain', 'gptq'])
  })

  test('biases only where the config says so', () => {
    const all = names(['weight', 'bias'])
    const { layers } = makeSource(config({ tie_word_embeddings: true, attention_bias: true }), { method: 'none' }, all)
    expect(layers[0]!.output.bias).toBe('model.layers.0.self_attn.o_proj.bias')
    expect(layers[0]!.gate.bias).toBe('')
  })

  test('names the tensor that is missing', () => {
    const without = (name: string, parts = ['weight']) =>
      names(parts, ['lm_head.weight']).filter((tensor) => tensor.name !== name)
    const refused = (tensors: { name: string }[], quantisation: Quantisation, message: RegExp) =>
      expect(() => makeSource(config(), quantisation, tensors)).toThrowError(
        expect.objectContaining({ code: 'CHECKPOINT_INVALID', message: expect.stringMatching(message) }),
      )
    for (const name of [
      'model.norm.weight',
      'model.embed_tokens.weight',
      'lm_head.weight',
      'model.layers.1.mlp.up_proj.weight',
    ]) {
      refused(without(name), { method: 'none' }, new RegExp(`expected tensor '${name}'`))
    }
    refused(without('model.layers.0.mlp.up_proj.scales', ['qweight', 'qzeros', 'scales']), gptq, /up_proj.scales'/)
    refused(
      without('model.layers.0.mlp.up_proj.weight'),
      gptq,
      /up_proj.qweight' or 'model.layers.0.mlp.up_proj.weight'/,
    )
    refused(names(['qweight', 'qzeros', 'scales']), { method: 'none' }, /expected settings of the quantisation/)
  })
})

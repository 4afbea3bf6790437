import { describe, expect, test } from 'vitest'
import { readConfig } from '../../../lib/checkpoint/config.ts'
import type { Quantisation } from '../../../lib/checkpoint/quantisation/index.ts'
import { makeSource as makeUnits } from '../../../lib/checkpoint/source.ts'

const linears = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
]
const gptq: Quantisation = {
  method: 'gptq',
  bits: 4,
  groupSize: 128,
  symmetric: true,
  actOrder: false,
  format: 'gptq',
  rules: [],
}

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

/** A plain decoder's tensors by what they are. */
function makeSource(...of: Parameters<typeof makeUnits>) {
  const { units, tables } = makeUnits(...of)
  const head = units.at(-1)!
  const layers = Array.from({ length: (units.length - 1) / 2 }, (_, layer) => {
    const [attention, feedForward] = [units[2 * layer]!, units[2 * layer + 1]!]
    const [query, key, value] = attention.linears[0]!
    const [gate, up] = feedForward.linears[0]!
    const [attentionNorm, queryNorm, keyNorm] = attention.vectors.map(({ tensor }) => tensor)
    return {
      attentionNorm,
      queryNorm,
      keyNorm,
      feedForwardNorm: feedForward.vectors[0]!.tensor,
      query: query!,
      key: key!,
      value: value!,
      output: attention.linears[1]![0]!,
      gate: gate!,
      up: up!,
      down: feedForward.linears[1]![0]!,
    }
  })
  return { layers, embedding: tables[0], finalNorm: head.vectors[0]!.tensor, head: head.linears[0]![0]! }
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
    expect(source.layers[0]!.query).toMatchObject({
      format: 'gptq',
      weight: 'model.layers.0.self_attn.q_proj.qweight',
      zeros: 'model.layers.0.self_attn.q_proj.qzeros',
      scales: 'model.layers.0.self_attn.q_proj.scales',
      gIdx: 'model.layers.0.self_attn.q_proj.g_idx',
      shape: '',
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

  test('AWQ: zeros, which a checkpoint without zero points may leave out, and no g_idx', () => {
    const awq: Quantisation = { method: 'awq', bits: 4, groupSize: 32, symmetric: false, format: 'gemm', excluded: [] }
    const all = names(['qweight', 'qzeros', 'scales', 'g_idx'], ['lm_head.weight'])
    const { layers, head } = makeSource(config(), awq, all)
    expect(layers[1]!.down).toMatchObject({
      format: 'awq',
      weight: 'model.layers.1.mlp.down_proj.qweight',
      zeros: 'model.layers.1.mlp.down_proj.qzeros',
      scales: 'model.layers.1.mlp.down_proj.scales',
      gIdx: '',
      shape: '',
      bias: '',
      bits: 4,
      groupSize: 32,
      symmetric: false,
      zerosMinusOne: false,
    })
    expect(head.format).toBe('plain')
    const without = names(['qweight', 'scales'], ['lm_head.weight'])
    expect(makeSource(config(), { ...awq, symmetric: true }, without).layers[0]!.down.zeros).toBe('')
    expect(() => makeSource(config(), awq, without)).toThrow(/q_proj.qzeros'/)
  })

  test('compressed-tensors: zero points only where not symmetric', () => {
    const compressed: Quantisation = {
      method: 'compressed-tensors',
      bits: 4,
      groupSize: -1,
      symmetric: false,
      actOrder: false,
      format: 'pack-quantized',
      excluded: ['lm_head', 're:.*up_proj'],
    }
    const parts = ['weight_packed', 'weight_scale', 'weight_shape', 'weight_zero_point', 'weight_g_idx', 'weight']
    const all = names(parts, ['lm_head.weight', 'lm_head.weight_packed'])
    const { layers, head } = makeSource(config(), compressed, all)
    expect(layers[0]!.value).toMatchObject({
      format: 'compressed-tensors',
      weight: 'model.layers.0.self_attn.v_proj.weight_packed',
      zeros: 'model.layers.0.self_attn.v_proj.weight_zero_point',
      scales: 'model.layers.0.self_attn.v_proj.weight_scale',
      gIdx: 'model.layers.0.self_attn.v_proj.weight_g_idx',
      shape: 'model.layers.0.self_attn.v_proj.weight_shape',
      bias: '',
      bits: 4,
      groupSize: -1,
      symmetric: false,
      zerosMinusOne: false,
    })
    expect([layers[0]!.up.format, head.format]).toEqual(['plain', 'plain'])
    expect(makeSource(config(), { ...compressed, symmetric: true }, all).layers[0]!.value.zeros).toBe('')
    const few = names(['weight_packed', 'weight_scale', 'weight'], ['lm_head.weight'])
    expect(makeSource(config(), { ...compressed, symmetric: true }, few).layers[0]!.value).toMatchObject({
      gIdx: '',
      shape: '',
    })
    expect(() => makeSource(config(), compressed, few)).toThrow(/q_proj.weight_zero_point'/)
  })

  test("GPTQ's rules: settings of one linear's own, a linear left plain, one of other bits refused by name", () => {
    const all = names(['qweight', 'qzeros', 'scales', 'weight'], ['lm_head.weight'])
    const rules = [
      { pattern: '.*0.*up_proj', excluded: true },
      { pattern: '.*1.*up_proj', excluded: false, groupSize: 16, symmetric: false },
    ]
    const { layers } = makeSource(config(), { ...gptq, rules }, all)
    expect(layers[0]!.up).toMatchObject({ format: 'plain', weight: 'model.layers.0.mlp.up_proj.weight' })
    expect(layers[1]!.up).toMatchObject({ format: 'gptq', groupSize: 16, symmetric: false })
    expect(layers[1]!.down).toMatchObject({ format: 'gptq', groupSize: 128, symmetric: true })
    const eight = { ...gptq, rules: [{ pattern: '.*down', excluded: false, bits: 3 }] }
    expect(() => makeSource(config(), eight, all)).toThrowError(
      expect.objectContaining({
        code: 'CHECKPOINT_UNSUPPORTED',
        message: expect.stringMatching(
          /".\*down": 'model.layers.0.mlp.down_proj' of 3 bits is not supported, expected 4 or 8/,
        ),
      }),
    )
    // A rule for linears that are not quantised changes nothing.
    const plain = names(['weight'], ['lm_head.weight'])
    expect(makeSource(config(), eight, plain).layers[0]!.down.format).toBe('plain')
  })

  test('what the settings contradict is refused, naming both', () => {
    const refused = (quantisation: Quantisation, tensors: { name: string }[], message: RegExp) =>
      expect(() => makeSource(config(), quantisation, tensors)).toThrowError(
        expect.objectContaining({ code: 'CHECKPOINT_INVALID', message: expect.stringMatching(message) }),
      )
    const packed = names(['qweight', 'qzeros', 'scales'], ['lm_head.weight'])
    refused(
      { ...gptq, rules: [{ pattern: '.*q_proj', excluded: true }] },
      packed,
      /'model.layers.0.self_attn.q_proj.qweight': by field 'dynamic': pattern ".\*q_proj" expected 'model.layers.0.self_attn.q_proj.weight'/,
    )
    refused(
      gptq,
      names(['weight_packed'], ['lm_head.weight']),
      /q_proj.weight_packed': by quant_method 'gptq' expected/,
    )
  })

  test("Qwen2's biases and Qwen3's head norms must be there", () => {
    const qwen2 = config({ model_type: 'qwen2', num_key_value_heads: 2, tie_word_embeddings: true })
    const { layers } = makeSource(qwen2, { method: 'none' }, names(['weight', 'bias']))
    expect(layers[0]!.value.bias).toBe('model.layers.0.self_attn.v_proj.bias')
    // GPTQ writers add biases of zero to linears that have none.
    expect([layers[0]!.output.bias, layers[0]!.down.bias]).toEqual(['', ''])
    expect(() => makeSource(qwen2, { method: 'none' }, names(['weight']))).toThrow(/q_proj.bias'/)

    const qwen3 = config({ model_type: 'qwen3', num_key_value_heads: 2, tie_word_embeddings: true })
    const norms = [0, 1].flatMap((layer) =>
      ['q_norm', 'k_norm'].map((norm) => `model.layers.${layer}.self_attn.${norm}.weight`),
    )
    expect(makeSource(qwen3, { method: 'none' }, names(['weight'], norms)).layers[1]).toMatchObject({
      queryNorm: 'model.layers.1.self_attn.q_norm.weight',
      keyNorm: 'model.layers.1.self_attn.k_norm.weight',
    })
    expect(() => makeSource(qwen3, { method: 'none' }, names(['weight'], norms.slice(1)))).toThrow(/q_norm.weight'/)
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

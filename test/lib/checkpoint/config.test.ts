import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { readConfig, readEndTokens } from '../../../lib/checkpoint/config.ts'
import { MillraceError } from '../../../lib/errors.ts'

const llama = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 32000,
  hidden_size: 4096,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  intermediate_size: 11008,
  hidden_act: 'silu',
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  eos_token_id: 2,
}
/** Of the first layer, the parts that have a bias. */
const biasesOf = (config: Record<string, unknown>) =>
  readConfig(config)
    .named.units.slice(0, 2)
    .flatMap(({ linears }) => linears.flat())
    .flatMap(({ module, bias }) => (bias ? [module.slice('model.layers.0.'.length)] : []))
const QKV = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj']
const refused = (config: object, code: string, message: RegExp) =>
  expect(() => readConfig({ ...llama, ...config })).toThrowError(
    expect.objectContaining({ code, message: expect.stringMatching(message) }),
  )

describe('Llama', () => {
  test('Llama 1 and 2: one KV head a head, no rope scaling', () => {
    expect(readConfig(llama)).toEqual({
      architecture: 'LlamaForCausalLM',
      spec: {
        vocab: 32000,
        hidden: 4096,
        layers: 32,
        heads: 32,
        kvHeads: 32,
        headDim: 128,
        intermediate: 11008,
        maxPosition: 4096,
        rmsEpsilon: 1e-5,
        rope: {
          headDim: 128,
          rotary: 128,
          theta: 10000,
          scaling: 'none',
          factor: 1,
          lowFrequencyFactor: 1,
          highFrequencyFactor: 4,
          originalMaxPosition: 0,
          attentionFactor: 1,
          betaFast: 32,
          betaSlow: 1,
          truncate: true,
        },
        slidingWindow: 0,
        windowedLayers: 0,
        qkNorm: false,
      },
      named: expect.anything(),
      tiedEmbeddings: false,
      endTokens: [2],
    })
    expect(biasesOf(llama)).toEqual([])
  })

  test('Llama 3: grouped heads, rope scaling in every spelling', () => {
    const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 }
    const expected = {
      theta: 500000,
      scaling: 'llama3',
      factor: 8,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalMaxPosition: 8192,
    }
    for (const rope of [
      { rope_theta: 500000, rope_scaling: { ...scaling, rope_type: 'llama3' } },
      { rope_theta: 500000, rope_scaling: { ...scaling, type: 'llama3' } },
      { rope_parameters: { ...scaling, rope_type: 'llama3', rope_theta: 500000 } },
    ]) {
      const { spec, endTokens } = readConfig({
        ...llama,
        num_key_value_heads: 8,
        eos_token_id: [128001, 128009],
        ...rope,
      })
      expect(spec).toMatchObject({ kvHeads: 8, rope: expected })
      expect(endTokens).toEqual([128001, 128009])
    }
  })

  test('linear scaling, explicit head size, ties and biases', () => {
    const config = readConfig({
      ...llama,
      head_dim: 64,
      rope_scaling: { type: 'linear', factor: 4 },
      tie_word_embeddings: true,
      attention_bias: true,
      mlp_bias: true,
    })
    expect(config.tiedEmbeddings).toBe(true)
    const mlp = ['mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj']
    expect(biasesOf({ ...llama, attention_bias: true, mlp_bias: true })).toEqual([...QKV, 'self_attn.o_proj', ...mlp])
    expect(config.spec).toMatchObject({ headDim: 64, rope: { scaling: 'linear', factor: 4 } })
    const cwm = { ...llama, architectures: ['CwmForCausalLM'], model_type: 'cwm' }
    expect(biasesOf({ ...cwm, mlp_bias: true })).toEqual(mlp)
    for (const kind of ['Gemma', 'Gemma2', 'Gemma3']) {
      const gemma = {
        ...llama,
        architectures: [`${kind}ForCausalLM`],
        model_type: undefined,
        hidden_act: 'gelu_pytorch_tanh',
      }
      const said = { ...gemma, hidden_activation: 'gelu_pytorch_tanh', attention_bias: true }
      expect(biasesOf(said)).toEqual([...QKV, 'self_attn.o_proj'])
    }
  })

  test("absent and null fields take transformers' defaults", () => {
    const config = {
      ...llama,
      rms_norm_eps: undefined,
      max_position_embeddings: null,
      hidden_act: null,
      rope_scaling: null,
      eos_token_id: null,
    }
    expect(readConfig(config)).toMatchObject({ spec: { rmsEpsilon: 1e-6, maxPosition: 2048 }, endTokens: [] })
    expect(readConfig({ ...llama, rope_scaling: { rope_type: 'default' } }).spec.rope.scaling).toBe('none')
    expect(readConfig({ ...llama, architectures: undefined }).architecture).toBe('LlamaForCausalLM')
  })
})

describe('Mistral', () => {
  const mistral = { ...llama, architectures: ['MistralForCausalLM'], model_type: 'mistral', num_key_value_heads: 8 }

  test('version 0.1 has a window, version 0.3 none', () => {
    expect(readConfig({ ...mistral, sliding_window: 4096 })).toMatchObject({
      architecture: 'MistralForCausalLM',
      spec: { slidingWindow: 4096, windowedLayers: 32, qkNorm: false, kvHeads: 8 },
    })
    expect(biasesOf(mistral)).toEqual([])
    expect(readConfig({ ...mistral, sliding_window: null }).spec.slidingWindow).toBe(0)
  })
  test("absent fields take transformers' defaults, which are not Llama's", () => {
    const { spec } = readConfig({ ...mistral, num_key_value_heads: undefined, max_position_embeddings: undefined })
    expect(spec).toMatchObject({ slidingWindow: 4096, kvHeads: 8, maxPosition: 131072 })
    expect(readConfig({ ...mistral, num_key_value_heads: null }).spec.kvHeads).toBe(32)
  })
  test('a head size of its own', () => {
    expect(readConfig({ ...mistral, head_dim: 160, sliding_window: null }).spec).toMatchObject({ headDim: 160 })
  })
  test('layers have a window or none, as each is said to', () => {
    const layer_types = [...Array(31).fill('full_attention'), 'sliding_attention']
    const { spec, named } = readConfig({ ...mistral, layer_types })
    expect(spec).toMatchObject({ slidingWindow: 4096, windowedLayers: 1 })
    expect(named.program.kv).toEqual([
      { layers: 31, window: 0, kvHeads: 8, headDim: 128 },
      { layers: 1, window: 4096, kvHeads: 8, headDim: 128 },
    ])
    refused({ ...mistral, layer_types: ['chunked_attention'] }, 'CHECKPOINT_UNSUPPORTED', /"chunked_attention"/)
    refused({ ...mistral, sliding_window: 0 }, 'CHECKPOINT_INVALID', /'sliding_window': expected an integer from 1/)
    expect(readConfig({ ...mistral, layer_types: Array(32).fill('full_attention') }).spec.slidingWindow).toBe(0)
  })
  test('windows that an architecture does not read are no reason to refuse it', () => {
    const strange = { sliding_window: -1, use_sliding_window: 'no', max_window_layers: null }
    expect(readConfig({ ...llama, ...strange }).spec.slidingWindow).toBe(0)
    const unused = { sliding_window: 0, use_sliding_window: false }
    const qwen = { architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', num_key_value_heads: 4 }
    expect(readConfig({ ...llama, ...qwen, ...unused }).spec.slidingWindow).toBe(0)
  })
})

describe('Qwen2 and Qwen3', () => {
  const qwen2 = { ...llama, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', num_key_value_heads: 4 }
  const qwen3 = { ...qwen2, architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3' }

  test('Qwen2 has biases of query, key and value whatever else is said, and no window unless it is used', () => {
    const said = { sliding_window: 131072, max_window_layers: 28, use_sliding_window: false, attention_bias: false }
    expect(readConfig({ ...qwen2, ...said })).toMatchObject({
      architecture: 'Qwen2ForCausalLM',
      spec: { slidingWindow: 0, qkNorm: false, headDim: 128 },
    })
    expect(biasesOf({ ...qwen2, ...said })).toEqual(QKV)
  })
  test('Qwen3 norms its heads, whose size is 128 unless said', () => {
    expect(readConfig({ ...qwen3, hidden_size: 1024, num_attention_heads: 16 })).toMatchObject({
      architecture: 'Qwen3ForCausalLM',
      spec: { qkNorm: true, headDim: 128, heads: 16, kvHeads: 4 },
    })
    expect(biasesOf(qwen3)).toEqual([])
    expect(readConfig({ ...qwen3, head_dim: 64 }).spec.headDim).toBe(64)
    expect(biasesOf({ ...qwen3, attention_bias: true })).toEqual([...QKV, 'self_attn.o_proj'])
  })
  test('a window of all layers, of the last, or of none', () => {
    const window = { use_sliding_window: true, sliding_window: 512 }
    expect(readConfig({ ...qwen2, ...window, max_window_layers: 0 }).spec.slidingWindow).toBe(512)
    expect(readConfig({ ...qwen2, ...window, max_window_layers: 32 }).spec.slidingWindow).toBe(0)
    expect(readConfig({ ...qwen3, ...window, max_window_layers: 40 }).spec.slidingWindow).toBe(0)
    expect(
      readConfig({ ...qwen3, ...window, layer_types: Array(32).fill('sliding_attention') }).spec.slidingWindow,
    ).toBe(512)
    expect(readConfig({ ...qwen2, ...window, max_window_layers: 28 }).spec.windowedLayers).toBe(4)
  })
})

describe('rope scaling', () => {
  const rope = (rope_scaling: object, more = {}) => readConfig({ ...llama, ...more, rope_scaling }).spec

  test('dynamic is of the greatest length, which the context grows to', () => {
    expect(rope({ type: 'dynamic', factor: 2.5 })).toMatchObject({
      maxPosition: 10240,
      rope: { scaling: 'dynamic', factor: 2.5, originalMaxPosition: 4096 },
    })
  })
  test("yarn: Qwen's spelling, the attention factor of the paper", () => {
    const { rope: yarn, maxPosition } = rope({ type: 'yarn', factor: 4, original_max_position_embeddings: 32768 })
    expect(yarn).toMatchObject({ scaling: 'yarn', factor: 4, originalMaxPosition: 32768, betaFast: 32, betaSlow: 1 })
    expect(yarn.attentionFactor).toBeCloseTo(0.1 * Math.log(4) + 1, 12)
    expect(yarn.truncate).toBe(true)
    expect(maxPosition).toBe(131072)
  })
  test('yarn: everything said, or left out', () => {
    const said = { attention_factor: 0.9, beta_fast: 16, beta_slow: 2, truncate: false }
    expect(rope({ rope_type: 'yarn', factor: 4, ...said }).rope).toMatchObject({
      attentionFactor: 0.9,
      betaFast: 16,
      betaSlow: 2,
      truncate: false,
      originalMaxPosition: 4096,
    })
    expect(rope({ rope_type: 'yarn', factor: 1 }).rope.attentionFactor).toBe(1)
    const two = rope({ rope_type: 'yarn', factor: 40, mscale: 0.75, mscale_all_dim: 1 }).rope.attentionFactor
    expect(two).toBeCloseTo((0.075 * Math.log(40) + 1) / (0.1 * Math.log(40) + 1), 12)
    // Without a factor, it is how much longer the context is than the original.
    expect(rope({ rope_type: 'yarn', original_max_position_embeddings: 1024 }).rope.factor).toBe(4)
  })
  test('refused: a context beyond all bounds', () => {
    refused(
      { rope_scaling: { type: 'dynamic', factor: 1e9 } },
      'CHECKPOINT_INVALID',
      /'rope_scaling.factor': expected a context of at most/,
    )
  })
})

describe('refusals', () => {
  test('another architecture, by name, with the supported ones', () => {
    refused(
      { architectures: ['MambaForCausalLM'] },
      'CHECKPOINT_UNSUPPORTED',
      /"MambaForCausalLM" is not supported, expected LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM/,
    )
    refused({ architectures: undefined, model_type: 'bert' }, 'CHECKPOINT_UNSUPPORTED', /'model_type': "bert"/)
    refused({ model_type: 'mistral' }, 'CHECKPOINT_UNSUPPORTED', /'model_type': "mistral"/)
    refused({ architectures: ['__proto__'] }, 'CHECKPOINT_UNSUPPORTED', /architectures/)
  })
  test.each([
    [{ vocab_size: 0 }, /'vocab_size': expected an integer from 1 .*, found 0/],
    [{ hidden_size: '4096' }, /'hidden_size': .*, found "4096"/],
    [{ num_hidden_layers: undefined }, /'num_hidden_layers': .*, found nothing/],
    [{ num_key_value_heads: 5 }, /'num_key_value_heads': expected a divisor of num_attention_heads \(32\), found 5/],
    [{ num_attention_heads: 30 }, /'hidden_size': expected a multiple of num_attention_heads \(30\)/],
    [{ head_dim: 7 }, /'head_dim': expected an even number, found 7/],
    [{ rms_norm_eps: 0 }, /'rms_norm_eps': expected a number above 0, found 0/],
    [
      { rope_scaling: { type: 'linear' } },
      /'rope_scaling.factor': expected a number for rope type 'linear', found null|nothing/,
    ],
    [{ rope_scaling: 'linear' }, /'rope_scaling': expected an object, found "linear"/],
    [{ eos_token_id: ['x'] }, /'eos_token_id/],
    [{ tie_word_embeddings: 'yes' }, /'tie_word_embeddings': expected true or false, found "yes"/],
  ])('a wrong field: %j', (config, message) => refused(config, 'CHECKPOINT_INVALID', message))
  test.each([
    [{ hidden_act: 'gelu' }, /'hidden_act': "gelu" is not supported, expected silu/],
    [
      { rope_scaling: { type: 'su', factor: 4 } },
      /'rope_scaling.type': "su" is not supported, expected default, linear, dynamic, llama3 or yarn/,
    ],
    [{ rope_scaling: { rope_type: 'mrope', factor: 4 } }, /'rope_scaling.rope_type': "mrope"/],
    [{ rope_parameters: { rope_type: 'longrope' } }, /'rope_parameters.rope_type': "longrope"/],
    [{ partial_rotary_factor: 0.5 }, /'partial_rotary_factor': 0.5/],
  ])('what is not supported: %j', (config, message) => refused(config, 'CHECKPOINT_UNSUPPORTED', message))

  const architectures = [
    ['LlamaForCausalLM', 'llama'],
    ['MistralForCausalLM', 'mistral'],
    ['Qwen2ForCausalLM', 'qwen2'],
    ['Qwen3ForCausalLM', 'qwen3'],
  ]
  const fields = [
    ...Object.keys(llama),
    'num_key_value_heads',
    'head_dim',
    'sliding_window',
    'use_sliding_window',
    'max_window_layers',
    'layer_types',
    'attention_bias',
  ]
  const ropeValue = fc.record(
    {
      rope_type: fc.oneof(fc.constantFrom('default', 'linear', 'dynamic', 'llama3', 'yarn'), fc.jsonValue()),
      factor: fc.oneof(fc.double(), fc.jsonValue({ maxDepth: 1 })),
      original_max_position_embeddings: fc.oneof(fc.integer(), fc.jsonValue({ maxDepth: 1 })),
      attention_factor: fc.double(),
      beta_fast: fc.double(),
      mscale: fc.double(),
      mscale_all_dim: fc.double(),
      low_freq_factor: fc.double(),
      high_freq_factor: fc.double(),
    },
    { requiredKeys: [] },
  )
  test('any values in any fields are either read or refused with a code', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...architectures),
        fc.dictionary(fc.constantFrom(...fields), fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.integer(), fc.boolean()), {
          maxKeys: 3,
        }),
        fc.option(ropeValue, { nil: undefined }),
        ([name, type], values, rope_scaling) => {
          try {
            const { spec } = readConfig({ ...llama, architectures: [name], model_type: type, rope_scaling, ...values })
            // What the native side takes: integers in range, and finite numbers.
            for (const value of [spec.layers, spec.heads, spec.kvHeads, spec.headDim, spec.maxPosition]) {
              expect(Number.isInteger(value) && value > 0 && value < 2 ** 31).toBe(true)
            }
            expect(Number.isInteger(spec.slidingWindow) && spec.slidingWindow >= 0).toBe(true)
            expect(Number.isInteger(spec.rope.originalMaxPosition)).toBe(true)
          } catch (error) {
            expect(error).toBeInstanceOf(MillraceError)
            expect((error as MillraceError).code).toMatch(/^CHECKPOINT_/)
          }
        },
      ),
      { numRuns: 3000 },
    )
  })
})

test('end tokens of generation_config.json', () => {
  expect(readEndTokens({}, 'generation_config.json')).toEqual([])
  expect(readEndTokens({ eos_token_id: 7 }, 'generation_config.json')).toEqual([7])
  expect(readEndTokens({ eos_token_id: [7, 8] }, 'generation_config.json')).toEqual([7, 8])
  expect(() => readEndTokens({ eos_token_id: 'x' }, 'generation_config.json')).toThrow(
    /generation_config.json: field 'eos_token_id'/,
  )
})

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
          theta: 10000,
          scaling: 'none',
          factor: 1,
          lowFrequencyFactor: 1,
          highFrequencyFactor: 4,
          originalMaxPosition: 0,
        },
      },
      tiedEmbeddings: false,
      attentionBias: false,
      feedForwardBias: false,
      endTokens: [2],
    })
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
    expect(config).toMatchObject({ tiedEmbeddings: true, attentionBias: true, feedForwardBias: true })
    expect(config.spec).toMatchObject({ headDim: 64, rope: { scaling: 'linear', factor: 4 } })
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

describe('refusals', () => {
  test('another architecture, by name, with the supported ones', () => {
    refused(
      { architectures: ['MambaForCausalLM'] },
      'CHECKPOINT_UNSUPPORTED',
      /"MambaForCausalLM" is not supported, expected LlamaForCausalLM/,
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
    [{ rope_scaling: { type: 'yarn', factor: 4 } }, /'rope_scaling.type': "yarn" is not supported/],
    [{ rope_scaling: { rope_type: 'dynamic', factor: 4 } }, /'rope_scaling.rope_type': "dynamic"/],
    [{ rope_parameters: { rope_type: 'longrope' } }, /'rope_parameters.rope_type': "longrope"/],
    [{ partial_rotary_factor: 0.5 }, /'partial_rotary_factor': 0.5/],
  ])('what is not supported: %j', (config, message) => refused(config, 'CHECKPOINT_UNSUPPORTED', message))

  test('any value in any field is either read or refused with a code', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...Object.keys(llama), 'rope_scaling', 'head_dim'),
        fc.jsonValue({ maxDepth: 2 }),
        (field, value) => {
          try {
            expect(readConfig({ ...llama, [field]: value }).spec.layers).toBeGreaterThan(0)
          } catch (error) {
            expect(error).toBeInstanceOf(MillraceError)
            expect((error as MillraceError).code).toMatch(/^CHECKPOINT_/)
          }
        },
      ),
      { numRuns: 1000 },
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

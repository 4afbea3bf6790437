/** Every form of rope that transformers 4 and 5 write, against what transformers 5 makes of it. */
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
  max_position_embeddings: 4096,
}
const mistral = { ...llama, architectures: ['MistralForCausalLM'], model_type: 'mistral', num_key_value_heads: 8 }

function read(config: object, base: object = llama) {
  const warnings: string[] = []
  const { rope, maxPosition } = readConfig({ ...base, ...config }, (message) => warnings.push(message)).spec
  return { rope, maxPosition, warnings }
}
const refused = (config: object, code: string, message: RegExp, base: object = llama) =>
  expect(() => read(config, base)).toThrowError(
    expect.objectContaining({ code, message: expect.stringMatching(message), remedy: expect.stringMatching(/./) }),
  )

describe('theta', () => {
  test.each([
    ['nowhere', {}, 10000],
    ['at top level', { rope_theta: 5e5 }, 5e5],
    ['null, everywhere', { rope_theta: null, rope_scaling: null, rope_parameters: null }, 10000],
    ['beside an empty rope_scaling', { rope_theta: 5e5, rope_scaling: {} }, 5e5],
    ['beside what Python takes for nothing', { rope_theta: 5e5, rope_scaling: false, rope_parameters: [] }, 5e5],
    ['in rope_parameters', { rope_parameters: { rope_type: 'default', rope_theta: 5e5 } }, 5e5],
    ['in rope_parameters without a type', { rope_parameters: { rope_theta: 5e5 } }, 5e5],
    ['in rope_scaling', { rope_scaling: { rope_type: 'default', rope_theta: 5e5 } }, 5e5],
    ['beside rope_parameters', { rope_theta: 5e5, rope_parameters: { rope_type: 'default' } }, 5e5],
    ['null in rope_parameters', { rope_theta: 5e5, rope_parameters: { rope_theta: null } }, 5e5],
    ['in both: what is in the parameters', { rope_theta: 1e6, rope_parameters: { rope_theta: 5e5 } }, 5e5],
    ['an empty rope_scaling beside rope_parameters', { rope_scaling: {}, rope_parameters: { rope_theta: 5e5 } }, 5e5],
  ])('%s', (_, config, theta) => {
    const { rope, warnings } = read(config)
    expect(rope).toMatchObject({ theta, scaling: 'none' })
    expect(warnings).toEqual([])
  })
  test.each([Number.NaN, Number.POSITIVE_INFINITY, 0, -1, '10000'])('refused: %s', (rope_theta) => {
    refused({ rope_theta }, 'CHECKPOINT_INVALID', /'rope_theta': expected a number above 0/)
    refused({ rope_parameters: { rope_theta } }, 'CHECKPOINT_INVALID', /'rope_parameters.rope_theta'/)
  })
})

describe('one set of parameters a type of layer', () => {
  const full = { rope_type: 'default', rope_theta: 5e5 }
  const sliding = { rope_type: 'default', rope_theta: 1e4 }
  const layer_types = Array(4).fill('full_attention')

  test.each([
    ['alone', { rope_parameters: { full_attention: full }, layer_types }],
    ['without layer_types', { rope_parameters: { full_attention: full } }],
    ['with an unused type', { rope_parameters: { full_attention: full, sliding_attention: sliding }, layer_types }],
    [
      'with an unused type, without layer_types',
      { rope_parameters: { sliding_attention: sliding, full_attention: full } },
    ],
    ['with null for the unused type', { rope_parameters: { full_attention: full, sliding_attention: null } }],
    ['in rope_scaling', { rope_scaling: { full_attention: full, sliding_attention: sliding } }],
    ['theta at top level', { rope_theta: 5e5, rope_parameters: { full_attention: { rope_type: 'default' } } }],
    ['theta for all types', { rope_parameters: { rope_theta: 5e5, full_attention: { rope_type: 'default' } } }],
    ['theta for all types, and the same again', { rope_parameters: { rope_theta: 5e5, full_attention: full } }],
  ])('%s', (_, config) => {
    const { rope, warnings } = read(config)
    expect(rope).toMatchObject({ theta: 5e5, scaling: 'none' })
    expect(warnings).toEqual([])
  })
  test('of windows in all layers, theirs', () => {
    const rope_parameters = { full_attention: full, sliding_attention: sliding }
    expect(read({ rope_parameters, sliding_window: 512 }, mistral).rope.theta).toBe(1e4)
    expect(read({ rope_parameters, sliding_window: null }, mistral).rope.theta).toBe(5e5)
  })
  test('a scaling of a type', () => {
    const yarn = { rope_type: 'yarn', rope_theta: 1e6, factor: 4, original_max_position_embeddings: 1024 }
    expect(read({ rope_parameters: { full_attention: yarn, sliding_attention: sliding } })).toMatchObject({
      rope: { scaling: 'yarn', theta: 1e6, factor: 4, originalMaxPosition: 1024 },
      maxPosition: 4096,
    })
  })
  test('by layer where types differ; refused: a type that is not there, two thetas', () => {
    const qwen2 = { ...llama, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', num_key_value_heads: 8 }
    const both = { full_attention: full, sliding_attention: sliding }
    const mixed = { layer_types: ['full_attention', 'sliding_attention', 'full_attention', 'full_attention'] }
    const window = { use_sliding_window: true, sliding_window: 64 }
    const { named } = readConfig({ ...qwen2, ...mixed, ...window, rope_parameters: both })
    expect(named.program.ropes.map(({ theta }) => theta)).toEqual([5e5, 1e4])
    const attends = named.program.units.flatMap(({ ops }) => ops.filter(({ op }) => op === 'attend'))
    expect(attends).toMatchObject([{ rope: 0 }, { rope: 1 }, { rope: 0 }, { rope: 0 }])
    expect(read({ rope_parameters: { ...both, sliding_attention: full }, ...mixed }, qwen2).rope.theta).toBe(5e5)
    refused(
      { rope_parameters: { sliding_attention: sliding } },
      'CHECKPOINT_INVALID',
      /'rope_parameters': expected parameters of full_attention/,
    )
    refused(
      { rope_theta: 5e5, rope_parameters: { full_attention: null } },
      'CHECKPOINT_UNSUPPORTED',
      /'rope_parameters.full_attention': null/,
    )
    refused(
      { rope_parameters: { rope_theta: 1e6, full_attention: full } },
      'CHECKPOINT_INVALID',
      /'rope_parameters.rope_theta'/,
    )
    refused(
      { rope_parameters: { full_attention: { rope_type: 'longrope' } } },
      'CHECKPOINT_UNSUPPORTED',
      /'rope_parameters.full_attention.rope_type': "longrope"/,
    )
    refused(
      { rope_parameters: { full_attention: { rope_type: 'linear' } } },
      'CHECKPOINT_INVALID',
      /'rope_parameters.full_attention.factor'/,
    )
  })
})

describe('rope_scaling beside rope_parameters', () => {
  const yarn = { type: 'yarn', factor: 4, original_max_position_embeddings: 1024 }
  test('holds alone; what is lost is told', () => {
    const beside = read({ rope_theta: 1e6, rope_scaling: yarn, rope_parameters: { rope_type: 'linear', factor: 2 } })
    expect(beside.rope).toMatchObject({ theta: 1e6, scaling: 'yarn', factor: 4 })
    expect(beside.warnings).toEqual([expect.stringMatching(/'rope_parameters' beside it is not/)])
    const same = { rope_type: 'default', rope_theta: 5e5 }
    expect(read({ rope_scaling: same, rope_parameters: same })).toMatchObject({ rope: { theta: 5e5 }, warnings: [] })
  })
  test('a theta that would be lost is refused', () => {
    const newer = { rope_type: 'default', rope_theta: 1e6 }
    const lost = /'rope_scaling.rope_theta': expected the rope_theta of rope_parameters, 1000000/
    refused({ rope_scaling: yarn, rope_parameters: newer }, 'CHECKPOINT_INVALID', lost)
    refused({ rope_scaling: yarn, rope_parameters: { full_attention: newer } }, 'CHECKPOINT_INVALID', lost)
    expect(read({ rope_theta: 1e6, rope_scaling: yarn, rope_parameters: newer }).rope.theta).toBe(1e6)
    expect(read({ rope_scaling: { ...yarn, rope_theta: 1e6 }, rope_parameters: newer }).rope.theta).toBe(1e6)
  })
})

describe('original_max_position_embeddings', () => {
  const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 }
  test.each([
    ['yarn', { rope_type: 'yarn', factor: 4 }],
    ['llama3', llama3],
  ])('of %s: in it, beside it, or that of the context; beside it wins', (_, rope_scaling) => {
    const name = 'original_max_position_embeddings'
    const inside = read({ rope_scaling: { ...rope_scaling, [name]: 1024 } })
    expect(inside.rope.originalMaxPosition).toBe(1024)
    expect(read({ [name]: 1024, rope_scaling })).toEqual(inside)
    expect(read({ [name]: 1024, rope_parameters: rope_scaling })).toEqual(inside)
    expect(read({ [name]: 1024, rope_scaling: { ...rope_scaling, [name]: 2048 } })).toEqual(inside)
    const nested = { full_attention: { ...rope_scaling, [name]: 1024 } }
    expect(read({ [name]: 2048, rope_parameters: nested })).toEqual(inside)
    refused(
      { [name]: 1024, rope_parameters: { full_attention: rope_scaling } },
      'CHECKPOINT_INVALID',
      /'rope_parameters.full_attention.original_max_position_embeddings': expected a number there/,
    )
    expect(read({ rope_scaling }).rope.originalMaxPosition).toBe(4096)
    refused(
      { [name]: 0.5, rope_scaling },
      'CHECKPOINT_INVALID',
      /'original_max_position_embeddings': expected an integer/,
    )
  })
  test('other types do not read it', () => {
    const { rope, warnings } = read({
      original_max_position_embeddings: 7,
      rope_scaling: { type: 'linear', factor: 2 },
    })
    expect(rope).toMatchObject({ scaling: 'linear', originalMaxPosition: 0 })
    expect(warnings).toEqual([])
  })
})

test('type and rope_type: the second, if it says something', () => {
  expect(read({ rope_scaling: { type: 'yarn', rope_type: 'linear', factor: 2 } }).rope.scaling).toBe('linear')
  expect(read({ rope_scaling: { type: 'linear', rope_type: null, factor: 2 } }).rope.scaling).toBe('linear')
  refused({ rope_scaling: { type: 5 } }, 'CHECKPOINT_INVALID', /'rope_scaling.type': expected a text/)
  for (const type of ['longrope', 'su', 'mrope', 'ntk', 'proportional', '__proto__', 'constructor']) {
    refused(
      { rope_parameters: { rope_type: type } },
      'CHECKPOINT_UNSUPPORTED',
      new RegExp(`"${type}" is not supported`),
    )
  }
})

test('partial_rotary_factor, wherever it is', () => {
  for (const partial_rotary_factor of [1, null]) {
    expect(read({ partial_rotary_factor, rope_parameters: { partial_rotary_factor } }).warnings).toEqual([])
  }
  for (const partial_rotary_factor of [0.5, Number.NaN, '1']) {
    refused({ partial_rotary_factor }, 'CHECKPOINT_UNSUPPORTED', /'partial_rotary_factor'/)
    refused(
      { rope_parameters: { partial_rotary_factor } },
      'CHECKPOINT_UNSUPPORTED',
      /'rope_parameters.partial_rotary_factor'/,
    )
    const nested = { full_attention: { partial_rotary_factor } }
    refused({ rope_parameters: nested }, 'CHECKPOINT_UNSUPPORTED', /full_attention.partial_rotary_factor/)
  }
})

describe('fields of other types', () => {
  test('are told and not read', () => {
    const { rope, warnings } = read({
      rope_scaling: { rope_type: 'linear', factor: 2, attention_factor: 0.5, beta_fast: 'x' },
    })
    expect(rope).toMatchObject({ scaling: 'linear', factor: 2, attentionFactor: 1 })
    expect(warnings).toEqual([
      expect.stringMatching(/'rope_scaling': not read for rope type 'linear'.*"attention_factor", "beta_fast"/),
    ])
    expect(read({ rope_scaling: { factor: 2 } }).warnings).toEqual([expect.stringContaining('"factor"')])
    expect(read({ rope_parameters: { rope_type: 'default', attention_factor: Number.NaN } }).warnings).toHaveLength(1)
  })
  test('are passed over where they say nothing', () => {
    const rope_scaling = { rope_type: 'default', factor: 1, attention_factor: null, long_factor: [], finetuned: true }
    expect(read({ rope_scaling }).warnings).toEqual([])
  })
})

test('of yarn, 0 is nothing as in Python, and NaN is refused', () => {
  const yarn = { rope_type: 'yarn', factor: 2 }
  expect(read({ rope_scaling: { ...yarn, beta_fast: 0, beta_slow: 0, mscale: 0, mscale_all_dim: 0 } })).toEqual(
    read({ rope_scaling: yarn }),
  )
  for (const field of ['factor', 'attention_factor', 'beta_fast', 'mscale']) {
    refused(
      { rope_scaling: { ...yarn, [field]: Number.NaN } },
      'CHECKPOINT_INVALID',
      new RegExp(`'rope_scaling.${field}': .*found NaN`),
    )
  }
})

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { CheckpointFolder } from '../../../lib/checkpoint/folder.ts'
import { moduleSettings, parseQuantisation, readQuantisation } from '../../../lib/checkpoint/quantisation/index.ts'
import { MillraceError } from '../../../lib/errors.ts'
import { temporaryFolder } from '../folder.ts'

const gptq = { quant_method: 'gptq', bits: 4, group_size: 128, sym: true, desc_act: false }
const parse = (config: object) => parseQuantisation({ ...gptq, ...config }, 'config.json: quantization_config')

describe('GPTQ', () => {
  test('versions', () => {
    expect(parse({})).toEqual({
      method: 'gptq',
      bits: 4,
      groupSize: 128,
      symmetric: true,
      actOrder: false,
      format: 'gptq',
      rules: [],
    })
    expect(parse({ checkpoint_format: 'gptq_v2' })).toMatchObject({ format: 'gptq_v2' })
    expect(parse({ format: 'gptq_v2' })).toMatchObject({ format: 'gptq_v2' })
  })
  test('group sizes, asymmetry, act-order', () => {
    expect(parse({ group_size: -1, sym: false, desc_act: true })).toMatchObject({
      groupSize: -1,
      symmetric: false,
      actOrder: true,
    })
  })
  test('an empty dynamic is none', () => {
    expect(parse({ dynamic: {} })).toMatchObject({ method: 'gptq' })
    expect(parse({ dynamic: null })).toMatchObject({ method: 'gptq' })
    expect(parse({ dynamic: false })).toMatchObject({ method: 'gptq', rules: [] })
  })
})

describe("GPTQModel's rules", () => {
  const modules = [0, 1, 10].flatMap((layer) =>
    ['self_attn.q_proj', 'mlp.down_proj'].map((part) => `model.layers.${layer}.${part}`),
  )
  const settings = (dynamic: object) => modules.map(moduleSettings(parse({ dynamic }), modules))
  const all = { quantised: true, bits: 4, groupSize: 128, symmetric: true, of: { method: 'gptq' } }

  test('exclude, override, and hold from the beginning of the name, the first that matches', () => {
    const [q0, down0, q1, down1, q10, down10] = settings({
      '-:.*down': {},
      '+:model\\.layers\\.1\\.': { group_size: 32 },
      'model\\.layers\\.1': { sym: false, bits: 8 },
      'layers.*': { group_size: 64 },
    })
    expect([down0, down1, down10].map((of) => of!.quantised)).toEqual([false, false, false])
    expect(down0).toMatchObject({ reason: expect.stringContaining('.*down') })
    expect(q0).toMatchObject(all)
    expect(q1).toMatchObject({ ...all, groupSize: 32 })
    expect(q10).toMatchObject({ ...all, symmetric: false, bits: 8 })
  })
  test.each([
    ['(?P<layer>x)', 'CHECKPOINT_UNSUPPORTED'],
    ['x\\Z', 'CHECKPOINT_UNSUPPORTED'],
    ['x{,3}', 'CHECKPOINT_UNSUPPORTED'],
    ['(', 'CHECKPOINT_UNSUPPORTED'],
    ['((.+)+)+!', 'CHECKPOINT_INVALID'],
  ])('a pattern that cannot be read, or takes for ever: %s', (pattern, code) => {
    expect(() => settings({ [pattern]: {} })).toThrowError(
      expect.objectContaining({ code, message: expect.stringContaining(JSON.stringify(pattern).slice(1, -1)) }),
    )
  })
  test('rules that are wrong are named', () => {
    expect(() => parse({ dynamic: { '.*q': { bits: 'four' } } })).toThrow(/dynamic\["\.\*q"\]: field 'bits'.*"four"/)
    expect(() => parse({ dynamic: { '.*q': 4 } })).toThrow(/expected an object, found 4/)
    expect(() => parse({ dynamic: ['.*q'] })).toThrow(/'dynamic': expected an object/)
    expect(() => parse({ dynamic: { '.*q': { pack_dtype: 'int8' } } })).toThrow(/'pack_dtype': "int8"/)
  })
})

describe('AWQ', () => {
  const awq = { quant_method: 'awq', bits: 4, group_size: 128, zero_point: true, version: 'gemm' }
  const parseAwq = (config: object) => parseQuantisation({ ...awq, ...config }, 'config.json: quantization_config')
  const read = {
    method: 'awq',
    bits: 4,
    groupSize: 128,
    symmetric: false,
    format: 'gemm',
    excluded: [],
  }

  test("config.json's names and quant_config.json's", async () => {
    expect(parseAwq({})).toEqual(read)
    expect(parseAwq({ modules_to_not_convert: null, zero_point: false, group_size: -1 })).toEqual({
      ...read,
      groupSize: -1,
      symmetric: true,
    })
    const path = await temporaryFolder({
      'quant_config.json': { w_bit: 4, q_group_size: 64, zero_point: true, version: 'GEMM' },
    })
    expect(await readQuantisation({ path, config: {} } as CheckpointFolder)).toEqual({ ...read, groupSize: 64 })
  })
  test('modules_to_not_convert are parts of names', () => {
    const names = ['model.layers.0.mlp.up_proj', 'model.layers.0.mlp.down_proj']
    const settings = names.map(moduleSettings(parseAwq({ modules_to_not_convert: ['down_proj'] }), names))
    expect(settings.map((of) => of.quantised)).toEqual([true, false])
  })
  test.each([
    [{ version: 'gemv' }, /'version': "gemv" is not supported, expected gemm/],
    [{ version: 'gemv_fast' }, /'version': "gemv_fast"/],
    [{ version: 'llm-awq' }, /'version': "llm-awq"/],
    [{ version: 'exllama' }, /'version': "exllama"/],
    [{ backend: 'llm-awq' }, /'backend': "llm-awq" is not supported, expected autoawq/],
    [{ version: undefined, checkpoint_format: 'marlin' }, /'checkpoint_format': "marlin"/],
    [{ version: undefined, format: 'gemv' }, /'format': "gemv"/],
    [{ bits: 8 }, /'bits': 8 is not supported, expected 4$/],
    [{ bits: undefined, w_bit: 3 }, /'w_bit': 3 is not supported/],
    [{ pack_dtype: 'int16' }, /'pack_dtype'/],
  ])('refused by name: %j', (config, message) => {
    expect(() => parseAwq(config)).toThrowError(
      expect.objectContaining({ code: 'CHECKPOINT_UNSUPPORTED', message: expect.stringMatching(message) }),
    )
  })
  test('neither name of the bits, or of the group size', () => {
    expect(() => parseAwq({ bits: undefined })).toThrowError(
      expect.objectContaining({ code: 'CHECKPOINT_INVALID', message: expect.stringMatching(/'bits'.*'w_bit'/) }),
    )
    expect(() => parseAwq({ group_size: undefined })).toThrow(/'group_size'.*'q_group_size'/)
  })
})

describe('compressed-tensors', () => {
  const weights = { num_bits: 4, type: 'int', symmetric: true, strategy: 'group', group_size: 128 }
  const parseCompressed = (more: object = {}, group: object = {}, inWeights: object = {}) =>
    parseQuantisation(
      {
        quant_method: 'compressed-tensors',
        format: 'pack-quantized',
        quantization_status: 'compressed',
        config_groups: {
          group_0: {
            targets: ['Linear'],
            weights: { ...weights, ...inWeights },
            input_activations: null,
            output_activations: null,
            ...group,
          },
        },
        ignore: ['lm_head'],
        kv_cache_scheme: null,
        ...more,
      },
      'config.json: quantization_config',
    )
  const read = {
    method: 'compressed-tensors',
    bits: 4,
    groupSize: 128,
    symmetric: true,
    actOrder: false,
    format: 'pack-quantized',
    excluded: ['lm_head'],
  }

  test('strategies, symmetry, order', () => {
    expect(parseCompressed()).toEqual(read)
    expect(parseCompressed({}, {}, { strategy: 'channel', group_size: null })).toEqual({ ...read, groupSize: -1 })
    expect(parseCompressed({}, {}, { strategy: undefined })).toEqual(read)
    expect(parseCompressed({}, {}, { symmetric: false, actorder: 'group' })).toEqual({
      ...read,
      symmetric: false,
      actOrder: true,
    })
    for (const actorder of ['weight', 'static', null, false]) {
      expect(parseCompressed({}, {}, { actorder })).toEqual(read)
    }
    expect(parseCompressed({ sparsity_config: { format: 'dense' }, transform_config: {} })).toEqual(read)
    expect(parseCompressed({ format: undefined }, { format: 'pack-quantized' })).toEqual(read)
    // Some that are packed say so: the tensors decide.
    expect(parseCompressed({ quantization_status: 'frozen' })).toEqual(read)
  })
  test('what activations and the KV cache would be rounded to is not read', () => {
    const eight = { num_bits: 8, type: 'int', dynamic: true }
    expect(
      parseCompressed({ kv_cache_scheme: eight }, { input_activations: eight, output_activations: eight }),
    ).toEqual(read)
  })
  test('several groups: names before patterns before all linears, each with its own format', () => {
    const eight = { ...weights, num_bits: 8, group_size: 32 }
    const floats = { num_bits: 8, type: 'float', strategy: 'channel' }
    const read = parseCompressed({
      format: 'mixed-precision',
      config_groups: {
        a: { targets: ['Linear'], weights, format: 'pack-quantized' },
        b: { targets: ['re:.*down'], weights: eight, format: 'pack-quantized' },
        c: { targets: ['model.layers.1.mlp.down_proj'], weights: floats, format: 'float-quantized' },
        d: { targets: ['LlamaAttention'], weights: null },
      },
      ignore: ['re:.*layers.2'],
    })
    expect(read).toMatchObject({ method: 'mixed', format: 'compressed-tensors', excluded: ['re:.*layers.2'] })
    const names = [0, 1, 2].flatMap((layer) => ['up', 'down'].map((part) => `model.layers.${layer}.mlp.${part}_proj`))
    const settings = names.map(moduleSettings(read, names))
    expect(settings.map((of) => of.quantised && [of.of.method, of.bits, of.groupSize])).toEqual([
      ['compressed-tensors', 4, 128],
      ['compressed-tensors', 8, 32],
      ['compressed-tensors', 4, 128],
      ['fp8', 8, -1],
      false,
      false,
    ])
    // A module that no group names is as it is.
    const one = parseCompressed({}, { targets: ['re:.*down'] })
    expect(
      names
        .slice(0, 2)
        .map(moduleSettings(one, names))
        .map((of) => of.quantised),
    ).toEqual([false, true])
  })
  test('names of a model of several parts mean the modules of its text', () => {
    const read = parseCompressed({ ignore: ['model.language_model.layers.0.mlp.up_proj'] })
    const settings = moduleSettings(read, ['model.layers.0.mlp.up_proj'], (module) => [
      module.replace('model.', 'model.language_model.'),
    ])
    expect(settings('model.layers.0.mlp.up_proj').quantised).toBe(false)
  })
  test('compression_config, as the first versions called it', async () => {
    const config = { compression_config: { quant_method: 'hqq' } }
    await expect(
      readQuantisation({ path: await temporaryFolder({}), config } as unknown as CheckpointFolder),
    ).rejects.toThrow(/config.json: compression_config: field 'quant_method': "hqq"/)
  })
  test('ignore: names, and patterns from the beginning of a name', () => {
    const names = [
      'lm_head',
      'model.layers.0.mlp.up_proj',
      'model.layers.1.mlp.up_proj',
      'model.layers.1.mlp.gate_proj',
    ]
    const settings = names.map(moduleSettings(parseCompressed({ ignore: ['lm_head', 're:.*1.*up', 're:mlp'] }), names))
    expect(settings.map((of) => of.quantised)).toEqual([false, true, false, true])
  })
  test.each([
    [{ format: 'marlin-24' }, {}, {}, /'format': "marlin-24" is not supported, expected pack-quantized, int-/],
    [
      { format: 'mixed-precision' },
      {},
      {},
      /'format': "mixed-precision" is not supported, expected pack-quantized, int-/,
    ],
    [{}, { format: 'nvfp4-pack-quantized' }, {}, /'format': "pack-quantized" is not supported, expected nvfp4/],
    [{ format: undefined }, {}, {}, /'format': nothing/],
    [{ config_groups: {} }, {}, {}, /'config_groups': \{\} is not supported, expected groups with weights/],
    [{ config_groups: { a: { targets: [] } } }, {}, {}, /'config_groups': \{"a":.* expected groups with weights/],
    [
      {},
      { targets: ['Linear', 'Embedding'] },
      {},
      /targets': \["Linear","Embedding"\] is not supported, expected Linear/,
    ],
    [{ sparsity_config: { format: 'sparse-24-bitmask' } }, {}, {}, /'sparsity_config.format': "sparse-24-bitmask"/],
    [{ transform_config: { config_groups: { R1: {} } } }, {}, {}, /'transform_config': \["R1"\]/],
    [{}, {}, { num_bits: 3 }, /weights.num_bits': 3 is not supported, expected 4 or 8/],
    [{}, {}, { type: 'float' }, /weights.type': "float"/],
    [{}, {}, { dynamic: true }, /weights.dynamic': true/],
    [{}, {}, { strategy: 'block' }, /weights.strategy': "block" is not supported, expected group, channel or tensor/],
    [{}, {}, { actorder: 'sideways' }, /weights.actorder': "sideways"/],
  ])('refused by name: %j %j %j', (config, group, inWeights, message) => {
    expect(() => parseCompressed(config, group, inWeights)).toThrowError(
      expect.objectContaining({ code: 'CHECKPOINT_UNSUPPORTED', message: expect.stringMatching(message) }),
    )
  })
  test.each([
    [{ config_groups: undefined }, {}, {}, /'config_groups': expected an object of groups, found nothing/],
    [{ ignore: 'lm_head' }, {}, {}, /'ignore': expected an array of names, found "lm_head"/],
    [{}, { targets: undefined }, {}, /targets': expected an array of names/],
    [{}, {}, { group_size: null }, /weights.group_size': expected a positive integer for strategy 'group'/],
    [{}, {}, { num_bits: 'four' }, /weights.num_bits'.*found "four"/],
  ])('wrong: %j %j %j', (config, group, inWeights, message) => {
    expect(() => parseCompressed(config, group, inWeights)).toThrowError(
      expect.objectContaining({ code: 'CHECKPOINT_INVALID', message: expect.stringMatching(message) }),
    )
  })
})

test('any settings are either read or refused with a code', () => {
  const base = {
    gptq,
    awq: { quant_method: 'awq', bits: 4, group_size: 128, version: 'gemm' },
    compressed: {
      quant_method: 'compressed-tensors',
      format: 'pack-quantized',
      config_groups: { group_0: { targets: ['Linear'], weights: { num_bits: 4, group_size: 32, strategy: 'group' } } },
      ignore: ['lm_head'],
    },
    fp8: { quant_method: 'fp8', fmt: 'e4m3', weight_block_size: [128, 128], modules_to_not_convert: ['lm_head'] },
    modelopt: { quant_method: 'modelopt', quant_algo: 'NVFP4', group_size: 16, ignore: ['lm_head', '*proj'] },
    autoRound: { quant_method: 'auto-round', bits: 4, group_size: 128, extra_config: { lm_head: { bits: 16 } } },
  }
  const fields = [...new Set(Object.values(base).flatMap(Object.keys)), 'dynamic', 'modules_to_not_convert', 'sym']
  const modules = ['lm_head', 'model.layers.0.mlp.up_proj']
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.values(base)),
      fc.dictionary(fc.constantFrom(...fields), fc.jsonValue({ maxDepth: 3 }), { maxKeys: 3 }),
      (settings, values) => {
        try {
          const quantisation = parseQuantisation({ ...settings, ...values }, 'config.json')
          const of = modules.map(moduleSettings(quantisation, modules))
          for (const module of of) {
            if (module.quantised) expect(Number.isInteger(module.groupSize)).toBe(true)
          }
        } catch (error) {
          expect(error).toBeInstanceOf(MillraceError)
          expect((error as MillraceError).code).toMatch(/^CHECKPOINT_/)
        }
      },
    ),
    { numRuns: 2000 },
  )
})

describe('float formats', () => {
  const none = { method: 'fp8', bits: 8, symmetric: true }
  test.each([
    [
      { quant_method: 'fp8', weight_block_size: [128, 64] },
      { ...none, blockRows: 128, groupSize: 64 },
    ],
    [
      { quant_method: 'fp8', weight_block_size: null, fmt: 'e4m3' },
      { ...none, blockRows: -1, groupSize: -1 },
    ],
    [
      { quant_method: 'modelopt', quant_algo: 'FP8' },
      { ...none, blockRows: -1, groupSize: -1 },
    ],
    [
      { quant_method: 'modelopt', quant_algo: 'NVFP4' },
      { method: 'nvfp4', groupSize: 16, format: 'modelopt' },
    ],
    [
      { quant_method: 'fbgemm_fp8', modules_to_not_convert: ['lm_head'] },
      { ...none, blockRows: 1, groupSize: -1, excluded: ['lm_head'] },
    ],
    [
      {
        quant_method: 'modelopt',
        quant_algo: 'MIXED_PRECISION',
        quantized_layers: { a: { quant_algo: 'FP8' }, b: { quant_algo: 'NVFP4', group_size: 16 } },
      },
      { method: 'mixed', format: 'modelopt', groups: [{ targets: ['a'] }, { targets: ['b'] }] },
    ],
  ])('%j', (settings, expected) => {
    expect(parse({ group_size: undefined, ...settings })).toMatchObject(expected)
  })
  const compressed = (format: string, weights: object) =>
    parseQuantisation(
      {
        quant_method: 'compressed-tensors',
        format,
        config_groups: { group_0: { targets: ['Linear'], weights, input_activations: { num_bits: 8, dynamic: true } } },
        ignore: ['lm_head'],
      },
      'config.json',
    )
  test.each([
    ['tensor', {}, -1, -1],
    ['channel', {}, 1, -1],
    ['block', { block_structure: [128, 128] }, 128, 128],
  ])('float-quantized by %s', (strategy, more, blockRows, size) => {
    const read = compressed('float-quantized', { num_bits: 8, type: 'float', strategy, ...more })
    expect(read).toEqual({ ...none, blockRows, groupSize: size, excluded: ['lm_head'] })
  })
  test('nvfp4-pack-quantized, int-quantized', () => {
    const four = { num_bits: 4, type: 'float', strategy: 'tensor_group', group_size: 16 }
    expect(compressed('nvfp4-pack-quantized', four)).toMatchObject({ method: 'nvfp4', format: 'nvfp4-pack-quantized' })
    const eight = { num_bits: 8, type: 'int', strategy: 'channel' }
    expect(compressed('int-quantized', eight)).toMatchObject({ bits: 8, groupSize: -1, format: 'int-quantized' })
  })
  test('what modelopt leaves out, by names with *', () => {
    const names = ['lm_head', 'model.layers.0.mlp.up_proj', 'model.layers.1.mlp.up_proj']
    const read = parse({
      quant_method: 'modelopt',
      quant_algo: 'NVFP4',
      group_size: 16,
      ignore: ['lm_head', '*.1.mlp*'],
    })
    expect(names.map(moduleSettings(read, names)).map((of) => of.quantised)).toEqual([false, true, false])
  })
  test('AutoRound writes the layout of GPTQ, and rules of modules', () => {
    const names = ['lm_head', 'model.layers.0.mlp.up_proj']
    const read = parse({
      quant_method: 'auto-round',
      packing_format: 'auto_round:auto_gptq',
      extra_config: { lm_head: { bits: 16 }, 'model.layers.0.mlp.up_proj': { bits: 8, group_size: 32 } },
    })
    expect(read).toMatchObject({ method: 'gptq', format: 'gptq', bits: 4 })
    const [head, up] = names.map(moduleSettings(read, names))
    expect(head!.quantised).toBe(false)
    expect(up).toMatchObject({ quantised: true, bits: 8, groupSize: 32 })
  })
  test("AutoRound's first versions said it by the kernels that were to run", () => {
    const read = (backend: string) => parse({ quant_method: 'intel/auto-round', packing_format: undefined, backend })
    expect(read('auto_round:gptq:exllamav2')).toMatchObject({ method: 'gptq', format: 'gptq' })
    expect(read('auto_round:awq:gemm')).toMatchObject({ method: 'awq' })
    expect(() => read('auto_round:exllamav2')).toThrow(/'backend': "auto_round:exllamav2" is not supported/)
  })
  test.each([
    [{ quant_method: 'fp8', fmt: 'e5m2' }, /'fmt'/],
    [{ quant_method: 'modelopt', quant_algo: 'W4A8_AWQ' }, /'quant_algo': "W4A8_AWQ" is not supported, expected NVFP4/],
    [{ quant_method: 'auto-round', packing_format: 'auto_round:llm_compressor' }, /'packing_format'/],
  ])('refused by name: %j', (settings, message) => {
    expect(() => parse(settings)).toThrowError(
      expect.objectContaining({ code: 'CHECKPOINT_UNSUPPORTED', message: expect.stringMatching(message) }),
    )
  })
})

describe('refusals, by name', () => {
  test.each(['bitsandbytes', 'eetq', 'hqq', undefined, 7])('quant_method %j', (method) => {
    expect(() => parse({ quant_method: method })).toThrowError(
      expect.objectContaining({
        code: 'CHECKPOINT_UNSUPPORTED',
        message: expect.stringContaining(
          `'quant_method': ${method === undefined ? 'nothing' : JSON.stringify(method)} is not supported`,
        ),
      }),
    )
  })
  test.each([
    [{ bits: 3 }, /'bits': 3 is not supported, expected 4 or 8/],
    [{ checkpoint_format: 'marlin' }, /'checkpoint_format': "marlin"/],
    [{ is_marlin_format: true }, /'checkpoint_format': "marlin"/],
    [{ pack_dtype: 'int8' }, /'pack_dtype'/],
  ])('%j', (config, message) => {
    expect(() => parse(config)).toThrowError(
      expect.objectContaining({ code: 'CHECKPOINT_UNSUPPORTED', message: expect.stringMatching(message) }),
    )
  })
  test.each([
    [{ group_size: 0 }, /'group_size': expected a positive integer, or -1, found 0/],
    [{ group_size: undefined }, /'group_size'.*found nothing/],
    [{ bits: 'four' }, /'bits'.*found "four"/],
  ])('%j', (config, message) => {
    expect(() => parse(config)).toThrowError(
      expect.objectContaining({ code: 'CHECKPOINT_INVALID', message: expect.stringMatching(message) }),
    )
  })
})

describe('where it is said', () => {
  const read = (path: string, config = {}) => readQuantisation({ path, config } as CheckpointFolder)

  test('config.json rules; null there is as good as nothing', async () => {
    const folder = await temporaryFolder({ 'quantize_config.json': { bits: 4, group_size: 32 } })
    expect(await read(folder, { quantization_config: gptq })).toMatchObject({ groupSize: 128 })
    expect(await read(folder, { quantization_config: null })).toMatchObject({ groupSize: 32 })
    await expect(read(folder, { quantization_config: 'gptq' })).rejects.toThrow(/expected an object/)
  })
  test("quantize_config.json needs no method; quant_config.json is AWQ's", async () => {
    expect(
      await read(await temporaryFolder({ 'quantize_config.json': { bits: 4, group_size: 64, sym: false } })),
    ).toMatchObject({
      method: 'gptq',
      symmetric: false,
    })
    await expect(read(await temporaryFolder({ 'quant_config.json': { w_bit: 4 } }))).rejects.toThrow(
      /quant_config.json: field 'group_size': expected it or 'q_group_size'/,
    )
  })
  test('nowhere: none', async () => {
    expect(await read(await temporaryFolder({}))).toEqual({ method: 'none' })
  })
})

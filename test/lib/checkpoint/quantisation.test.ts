import { describe, expect, test } from 'vitest'
import type { CheckpointFolder } from '../../../lib/checkpoint/folder.ts'
import { parseQuantisation, readQuantisation } from '../../../lib/checkpoint/quantisation.ts'
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
  })
})

describe('refusals, by name', () => {
  test.each(['awq', 'compressed-tensors', 'bitsandbytes', 'fp8', 'hqq', undefined, 7])('quant_method %j', (method) => {
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
    [{ bits: 8 }, /'bits': 8 is not supported, expected 4/],
    [{ dynamic: { '-:.*down.*': {} } }, /'dynamic'/],
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
      /quant_config.json: .*"awq"/,
    )
  })
  test('nowhere: none', async () => {
    expect(await read(await temporaryFolder({}))).toEqual({ method: 'none' })
  })
})

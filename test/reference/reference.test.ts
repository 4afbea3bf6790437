/** The tests' own reader, writer and float64 model, held to what is known of them apart from the product. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { afterAll, describe, expect, test } from 'vitest'
import { modelFolder } from '../goldens/golden.ts'
import { GOLDEN_MODELS } from '../goldens/models.ts'
import { writeRandomCheckpoint } from './checkpoint.ts'
import type { Config } from './config.ts'
import { floatBits, floatValue } from './float.ts'
import { Random } from './random.ts'
import { numbers, readFolder, type Tensors, tensor, writeFolder } from './safetensors.ts'
import { ReferenceModel, readLinear, ropeFrequencies } from './transformer.ts'

const scratch = mkdtempSync(join(tmpdir(), 'millrace-reference-'))
afterAll(() => rmSync(scratch, { recursive: true }))

describe('half-precision floats', () => {
  test.each(['F16', 'BF16'] as const)('every finite %s survives the round trip', (format) => {
    for (let bits = 0; bits < 65536; bits++) {
      const value = floatValue(format, bits)
      if (!Number.isNaN(value)) expect(floatBits(format, value)).toBe(bits)
    }
  })

  test('values known from the formats', () => {
    expect(floatValue('F16', 0x3c00)).toBe(1)
    expect(floatValue('F16', 0x0001)).toBe(2 ** -24)
    expect(floatValue('F16', 0x7bff)).toBe(65504)
    expect(floatValue('BF16', 0x3fc0)).toBe(1.5)
    expect(floatBits('F16', 1 + 2 ** -11)).toBe(0x3c00)
    expect(floatBits('F16', 1 + 3 * 2 ** -11)).toBe(0x3c02)
    expect(floatBits('F16', 65519.9)).toBe(0x7bff)
    expect(floatBits('F16', 65520)).toBe(0x7c00)
    expect(floatBits('F16', -(2 ** -25))).toBe(0x8000)
  })
})

describe('safetensors', () => {
  test.each([1, 3])('%i files give back what was written', (shards) => {
    const tensors: Tensors = new Map([
      ['f16', tensor('F16', [2, 3], [0, -1, 0.5, 65504, 2 ** -24, -3])],
      ['bf16', tensor('BF16', [2], [1, -0.0078125])],
      ['i32', tensor('I32', [2], [-1, 0x7fffffff])],
      ['i64', tensor('I64', [1], [-(2 ** 53) + 1])],
      ['empty', tensor('F32', [0, 4], [])],
      ['scalar', tensor('F64', [], [0.1])],
    ])
    const dir = join(scratch, `written-${shards}`)
    writeFolder(dir, tensors, shards)
    const read = readFolder(dir)
    expect([...read.keys()].sort()).toEqual([...tensors.keys()].sort())
    for (const [name, value] of tensors) {
      expect(read.get(name)!.shape).toEqual(value.shape)
      expect(numbers(read.get(name)!)).toEqual(numbers(value))
    }
  })
})

describe('GPTQ', () => {
  const config = (format: 'gptq' | 'gptq_v2') =>
    ({
      quantization_config: { bits: 4, group_size: 8, sym: false, desc_act: false, checkpoint_format: format },
    }) as Config
  /** K = 16 rows, N = 8 columns, every nibble 5, groups of 8, scales 1 and 2. */
  const linear = (zeros: number[], order?: number[]): Tensors => {
    const tensors: Tensors = new Map([
      ['x.qweight', tensor('I32', [2, 8], new Int32Array(16).fill(0x55555555))],
      ['x.qzeros', tensor('I32', [2, 1], Int32Array.from(zeros))],
      ['x.scales', tensor('F16', [2, 8], [...Array(8).fill(1), ...Array(8).fill(2)])],
    ])
    if (order) tensors.set('x.g_idx', tensor('I32', [16], order))
    return tensors
  }

  test('version 1 stores zero - 1, version 2 stores zero', () => {
    const zeros = [0x33333333, 0x11111111]
    const one = readLinear(linear(zeros), config('gptq'), 'x').weights
    const two = readLinear(linear(zeros), config('gptq_v2'), 'x').weights
    // Output feature 0: eight inputs of group 0, then eight of group 1.
    expect([...one.subarray(0, 16)]).toEqual([...Array(8).fill(1), ...Array(8).fill(6)])
    expect([...two.subarray(0, 16)]).toEqual([...Array(8).fill(2), ...Array(8).fill(8)])
  })

  test('a version-1 nibble 0xF is a zero point of 0 that borrowed from its neighbour', () => {
    // Zero points 0, 5, 5, ...: 0x55555550 - 0x11111111 = 0x4444443f.
    const { weights, k } = readLinear(linear([0x4444443f, 0x44444444]), config('gptq'), 'x')
    expect(weights[0]).toBe(5)
    for (let n = 1; n < 8; n++) expect(weights[n * k]).toBe(0)
  })

  test('g_idx decides the group of each input', () => {
    const order = [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    const { weights } = readLinear(linear([0x44444444, 0x22222222], order), config('gptq'), 'x')
    expect([...weights.subarray(0, 16)]).toEqual(order.map((group) => (group === 0 ? 0 : 4)))
  })
})

test('llama3 rope scaling keeps short wavelengths, stretches long ones and blends in between', () => {
  const plain = { rope_theta: 500000 } as Config
  const scaling = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 } as const
  const scaled = { ...plain, rope_scaling: { ...scaling, original_max_position_embeddings: 8192 } }
  const ratios = ropeFrequencies(scaled, 128).map((f, i) => f / ropeFrequencies(plain, 128)[i]!)
  expect(ratios[0]).toBe(1)
  expect(ratios[63]).toBeCloseTo(1 / 8, 12)
  const blended = ratios.filter((ratio) => ratio > 1 / 8 + 1e-9 && ratio < 1 - 1e-9)
  expect(blended.length).toBeGreaterThan(2)
  expect([...blended]).toEqual([...blended].sort((a, b) => b - a))
})

test('random numbers have the mean and deviation they promise', () => {
  const random = new Random(1)
  const values = Float64Array.from({ length: 20000 }, () => random.normal())
  const mean = values.reduce((a, b) => a + b) / values.length
  expect(mean).toBeCloseTo(0, 1)
  expect(Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length)).toBeCloseTo(1, 1)
})

test('a checkpoint is the same bytes each time', () => {
  const [name, options] = Object.entries(GOLDEN_MODELS)[0]!
  const dir = join(scratch, name)
  writeRandomCheckpoint(dir, options)
  for (const file of ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors']) {
    const committed = readFileSync(join(modelFolder(name)!, file))
    expect(readFileSync(join(dir, file)).equals(committed), file).toBe(true)
  }
})

describe('text', () => {
  const tokenizerOf = (dir: string) => {
    const json = (name: string) => JSON.parse(readFileSync(join(dir, name), 'utf8'))
    return new Tokenizer(json('tokenizer.json'), json('tokenizer_config.json'))
  }
  const continuation = (dir: string, prompt: string, count: number) => {
    const tokenizer = tokenizerOf(dir)
    const { tokens } = new ReferenceModel(dir).greedy(tokenizer.encode(prompt).ids, count)
    return tokenizer.decode(tokens)
  }

  test('the tokenizer of a random checkpoint takes any text, a token a byte', () => {
    const tokenizer = tokenizerOf(modelFolder('gptq-v1-sym-g128')!)
    const text = 'Grüße, 世界! 🦦\n\u0000'
    const { ids } = tokenizer.encode(text)
    expect(ids.length).toBe(1 + Buffer.byteLength(text))
    expect(ids[0]).toBe(0)
    expect(tokenizer.decode(ids.slice(1))).toBe(text)
  })

  test('stories260k tells the story that its README gives', () => {
    const dir = modelFolder('stories260k')!
    const readme = readFileSync(join(dir, 'README.md'), 'utf8')
    const [, story] = /```\n([\s\S]*?)\n```/.exec(readme)!
    expect(continuation(dir, '', 256).trim()).toBe(story)
  })

  test('demo begins as its README says', () => {
    const dir = modelFolder('demo')!
    const text = continuation(dir, 'Once upon a time', 34)
    const story =
      ', there was a kind girl named Daisy. She lived in a snowy valley. The sun was warm and the sky was blue.'
    expect(text.startsWith(story)).toBe(true)
  })
})

/** GGUF files that the tests write, of every type and architecture, against the tests' own float64 model of the same weights. */
import { mkdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { addon } from '../../lib/binding.ts'
import { inspect, type LoadOptions, load, plan } from '../../lib/index.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { type CheckpointOptions, writeRandomCheckpoint } from '../reference/checkpoint.ts'
import { type ConvertOptions, convertFolder, f32, type GgufMetadata, text, u32 } from '../reference/gguf.ts'
import { GGUF_TYPES } from '../reference/gguf_blocks.ts'
import { ReferenceModel, relativeError } from '../reference/transformer.ts'

const LARGEST_ERROR = 2e-3

// Rows of every width are whole blocks of 256.
const shape = {
  vocab: 272,
  hidden: 256,
  layers: 1,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  intermediate: 512,
  maxPosition: 128,
}
const tokens = [0, 17, 30, 99, 260, 3, 3, 71, 200, 45, 2, 140]

async function write(options: Partial<CheckpointOptions>, convert: ConvertOptions) {
  const folder = await temporaryFolder({})
  writeRandomCheckpoint(folder, { seed: 5, shape, dtype: 'F32', ...options })
  return { folder, path: convertFolder(folder, convert) }
}

/** Resident and streamed logits are the same bits, and near those of float64. */
async function compare(folder: string, path: string): Promise<void> {
  const expected = new ReferenceModel(folder).logits(tokens)
  let resident: Float32Array | undefined
  for (const placement of ['resident', 'streamed'] as const) {
    await using model = await load(path, { device: 'cpu', placement, poison: true })
    const { logits } = await model.score(tokens, { logits: true })
    const all = Float64Array.from(expected.flatMap((row) => [...row]))
    expect(relativeError(logits!, all)).toBeLessThan(LARGEST_ERROR)
    resident ??= logits!
    expect(logits).toEqual(resident)
  }
}

describe('types', () => {
  test.each(GGUF_TYPES)('%s', async (type) => {
    const { folder, path } = await write({ seed: 11 }, { type })
    await compare(folder, path)
    const { quantisation } = await inspect(path)
    expect(quantisation).toMatchObject({
      method: 'gguf',
      linears: { attn_q: { [type]: 1 }, token_embd: { [type]: 1 } },
    })
  })

  test('mixed within a layer, as K-quants are', async () => {
    const type = (name: string) =>
      /attn_v|ffn_down|output\.weight/.test(name) ? 'Q6_K' : /attn_k/.test(name) ? 'Q8_0' : 'Q4_K'
    const { folder, path } = await write({ shape: { ...shape, layers: 2 } }, { type })
    await compare(folder, path)
    const { quantisation, parameters } = await inspect(path)
    expect(quantisation).toMatchObject({ linears: { attn_v: { Q6_K: 2 }, attn_q: { Q4_K: 2 }, output: { Q6_K: 1 } } })
    expect(parameters).toBe(2 * 272 * 256 + 256 + 2 * (256 * 256 * 2 + 2 * 256 * 128 + 3 * 256 * 512 + 2 * 256))
  })
})

describe('architectures', () => {
  const { headDim } = shape
  const cases: [string, Partial<CheckpointOptions>, Partial<ConvertOptions>][] = [
    ['llama, tied', { tied: true }, {}],
    ['llama with biases', { attentionBias: true, mlpBias: true }, {}],
    ['llama with a window', { architecture: 'mistral', slidingWindow: 5 }, {}],
    ['qwen2, tied', { architecture: 'qwen2', tied: true }, {}],
    ['qwen3', { architecture: 'qwen3' }, {}],
    ['qwen3 with biases and a window', { architecture: 'qwen3', attentionBias: true, slidingWindow: 4 }, {}],
    ['heads of another size', { shape: { ...shape, headDim: 128, heads: 2, kvHeads: 1 } }, {}],
    [
      'linear rope',
      { shape: { ...shape, ropeScaling: { rope_type: 'linear', factor: 4 } } },
      { metadata: { 'llama.rope.scaling.type': text('linear'), 'llama.rope.scaling.factor': f32(4) } },
    ],
    [
      'yarn',
      {
        architecture: 'qwen2',
        shape: {
          ...shape,
          ropeScaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32, beta_fast: 16 },
        },
      },
      {
        metadata: {
          'qwen2.rope.scaling.type': text('yarn'),
          'qwen2.rope.scaling.factor': f32(4),
          'qwen2.rope.scaling.original_context_length': u32(32),
          'qwen2.rope.scaling.yarn_beta_fast': f32(16),
        },
      },
    ],
    [
      "Llama 3.1's factors",
      {
        shape: {
          ...shape,
          ropeTheta: 500,
          ropeScaling: {
            rope_type: 'llama3',
            factor: 8,
            low_freq_factor: 1,
            high_freq_factor: 4,
            original_max_position_embeddings: 64,
          },
        },
      },
      {
        extra: [
          {
            name: 'rope_freqs.weight',
            type: 'F32',
            shape: [headDim / 2],
            data: new Uint8Array(llama3Factors(headDim, 500, 8, 1, 4, 64).buffer),
          },
        ],
      },
    ],
  ]
  test.each(cases)('%s', async (_, options, convert) => {
    const { folder, path } = await write(options, { type: 'Q8_0', ...convert })
    await compare(folder, path)
  })

  test('Q4_0 is kept in 4 bits', async () => {
    const { path } = await write({ tied: true }, { type: 'Q4_0' })
    const { units } = await inspect(path)
    expect(units.map((unit) => [...new Set(unit.types)])).toEqual([['q4'], ['q4'], ['q4']])
  })
})

/** What converters write of Llama 3.1's rescaling: by how much each pair is slowed. */
function llama3Factors(dim: number, theta: number, factor: number, low: number, high: number, original: number) {
  return Float32Array.from({ length: dim / 2 }, (_, pair) => {
    const wavelength = (2 * Math.PI) / theta ** ((-2 * pair) / dim)
    if (wavelength < original / high) return 1
    if (wavelength > original / low) return factor
    const smooth = (original / wavelength - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)
  })
}

describe('files', () => {
  test('split files, by any part and by their folder', async () => {
    const { folder, path } = await write({}, { type: 'Q5_K', parts: 3 })
    await compare(folder, path)
    const third = path.replace('00001-of', '00003-of')
    expect((await inspect(third)).files.map(({ name }) => name)).toHaveLength(3)
    const alone = join(folder, 'alone')
    mkdirSync(alone)
    for (const part of [1, 2, 3]) {
      const name = `model-0000${part}-of-00003.gguf`
      renameSync(join(folder, name), join(alone, name))
    }
    await using model = await load(alone, { device: 'cpu' })
    expect((await model.score(tokens)).logprobs).toHaveLength(tokens.length - 1)
    expect((await plan(alone, { device: 'cpu' })).contextLength).toBe(128)
  })

  test.each([
    [2, undefined],
    [3, 64],
  ])('version %d, alignment %s', async (version, alignment) => {
    const { folder, path } = await write({}, { type: 'Q8_0', version, ...(alignment ? { alignment } : {}) })
    await compare(folder, path)
  })

  test('text, chat and end tokens come from the metadata', async () => {
    const options: LoadOptions = { device: 'cpu' }
    const { folder, path } = await write({}, { type: 'F16', metadata: { 'tokenizer.ggml.eot_token_id': u32(7) } })
    await using gguf = await load(path, options)
    await using hub = await load(folder, options)
    for (const sample of ['Once upon', ' \u00e9\u{1f600}', 'a<|end|>b']) {
      expect(await gguf.tokenizer.encode(sample)).toEqual(await hub.tokenizer.encode(sample))
      expect(gguf.tokenizer.decode(await gguf.tokenizer.encode(sample))).toBe(sample.replace(/<\|\w+\|>/g, ''))
    }
    const ask = (model: typeof gguf) =>
      model.chat([{ role: 'user', content: 'hello' }], { maxTokens: 5, temperature: 0, ignoreEos: true }).result
    expect((await ask(gguf)).text).toBe((await ask(hub)).text)
    expect(gguf.path).toBe(path)
  })

  test('loads of one file share its weights', async () => {
    const { path } = await write({}, { type: 'Q8_0' })
    await using _ = await load(path, { device: 'cpu' })
    const before = addon().weightBytes()
    await using __ = await load(path, { device: 'cpu' })
    expect(addon().weightBytes()).toBe(before)
  })

  test('packed weights are kept for the next load', async () => {
    const large = { ...shape, vocab: 65_536 } // the cache leaves small models out
    const { folder, path } = await write({ shape: large, tied: true }, { type: 'Q8_0' })
    const cache = join(folder, 'cache')
    const states: (string | undefined)[] = []
    const bits: Float32Array[] = []
    for (let round = 0; round < 2; round++) {
      await using model = await load(path, { device: 'cpu', cache })
      bits.push((await model.score(tokens)).logprobs)
      while (model.cache?.state === 'writing') await new Promise((resolve) => setTimeout(resolve, 20))
      states.push(model.cache?.state)
    }
    expect(states).toEqual(['written', 'read'])
    expect(bits[1]).toEqual(bits[0])
  })
})

describe('warnings and refusals', () => {
  const metadata = (extra: GgufMetadata): ConvertOptions => ({ type: 'Q8_0', metadata: extra })

  test('keys that nobody reads are told', async () => {
    const { path } = await write({}, metadata({ 'llama.strange_scale': f32(0.5), 'llama.leave_out': u32(0) }))
    const { warnings } = await inspect(path)
    expect(warnings).toEqual([expect.stringContaining('"llama.strange_scale"')])
    expect(warnings[0]).toContain('model.gguf')
  })

  test.each<[GgufMetadata, string, RegExp]>([
    [
      { 'general.architecture': text('gptneox') },
      'CHECKPOINT_UNSUPPORTED',
      /general\.architecture.*"gptneox".*llama, qwen2, qwen3/,
    ],
    [{ 'llama.expert_count': u32(8) }, 'CHECKPOINT_INVALID', /llama\.expert_used_count/],
    [{ 'general.type': text('adapter') }, 'CHECKPOINT_UNSUPPORTED', /general\.type.*"adapter"/],
    [{ 'llama.attention.head_count': u32(3) }, 'CHECKPOINT_INVALID', /model\.gguf.*llama\.attention\.head_count/],
    [{ 'llama.embedding_length': text('256') }, 'CHECKPOINT_INVALID', /llama\.embedding_length.*integer.*"256"/],
    [{ 'llama.attention.value_length': u32(32) }, 'CHECKPOINT_UNSUPPORTED', /value_length.*32.*64/],
    [{ 'llama.rope.dimension_count': u32(32) }, 'CHECKPOINT_UNSUPPORTED', /llama\.rope\.dimension_count/],
    [{ 'llama.rope.scaling.type': text('longrope') }, 'CHECKPOINT_UNSUPPORTED', /llama\.rope\.scaling\.type.*longrope/],
    [{ 'llama.block_count': u32(2) }, 'CHECKPOINT_INVALID', /blk\.1\./],
    [{ 'llama.feed_forward_length': u32(256) }, 'CHECKPOINT_INVALID', /blk\.0\.ffn_(gate|up|down)/],
    [
      { 'llama.attention.head_count_kv': { type: 'array', of: 'i32', value: [2, 1] } },
      'CHECKPOINT_UNSUPPORTED',
      /head_count_kv.*every layer/,
    ],
  ])('%o', async (extra, code, message) => {
    const { path } = await write({}, metadata(extra))
    for (const open of [inspect, load]) {
      await expect(open(path)).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
    }
  })

  test('a part of a layer that the architecture does not have', async () => {
    const extra = [
      { name: 'blk.0.ffn_gate_inp.weight', type: 'F32' as const, shape: [4, 256], data: new Uint8Array(4096) },
    ]
    const { path } = await write({}, { type: 'Q8_0', extra })
    await expect(inspect(path)).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringContaining("'blk.0.ffn_gate_inp.weight'"),
    })
  })
})

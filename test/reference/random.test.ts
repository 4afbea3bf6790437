/**
 * The product against the tests' own float64 model, on random models of every kind of checkpoint. MILLRACE_SEED=n
 * draws other models; the names of the tests say the seed.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type LoadOptions, load } from '../../lib/index.ts'
import { type CheckpointOptions, type ModelShape, writeRandomCheckpoint } from './checkpoint.ts'
import { Random } from './random.ts'
import { logSoftmax, ReferenceModel, relativeError } from './transformer.ts'

const SEED = Number(process.env.MILLRACE_SEED ?? 1)
const LARGEST_ERROR = 2e-3
// Of one position: rounding in the float16 KV cache makes up to 5e-3 in a few of thousands, a fault far more.
const LARGEST_ERROR_OF_A_POSITION = 1e-2
// Longer than a chunk of prefill, and than several KV blocks.
const SCORED_TOKENS = 150
const PROMPT_TOKENS = 21
const GENERATED_TOKENS = 24

function randomShape(random: Random, fixed: Partial<ModelShape> = {}): ModelShape {
  const headDim = random.pick([8, 16, 64, 80])
  const kvHeads = random.pick([1, 2, 3])
  return {
    // Not all are multiples of 16 or 64, the tiles that kernels work in.
    vocab: random.pick([258, 272, 304, 520]),
    hidden: random.pick([64, 96, 136, 200]),
    layers: random.integer(2, 3),
    heads: kvHeads * (headDim > 16 ? random.pick([1, 2]) : random.pick([1, 2, 4])),
    kvHeads,
    headDim,
    intermediate: random.pick([96, 128, 176, 264]),
    maxPosition: 256,
    // Also so large that it shows.
    rmsEpsilon: random.pick([1e-5, 1e-2]),
    ropeTheta: random.pick([10000, 500000]),
    ...fixed,
  }
}

const linearRope = { rope_type: 'linear', factor: 2.5 } as const
const llama3Rope = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
} as const

const dynamicRope = { rope_type: 'dynamic', factor: 4 } as const
const yarnRope = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 64 } as const
const anyRope = (random: Random): Partial<ModelShape> =>
  random.pick([{}, ...[llama3Rope, linearRope, yarnRope, dynamicRope].map((ropeScaling) => ({ ropeScaling }))])

const ARCHITECTURES = ['llama', 'mistral', 'qwen2', 'qwen3'] as const

/** A kind of each architecture in each format, with everything that they have of their own. */
function pairs(): Record<string, (random: Random) => Omit<CheckpointOptions, 'seed'>> {
  const formats: Record<string, (random: Random) => Partial<CheckpointOptions>> = {
    plain: (random) => ({ dtype: random.pick(['F16', 'BF16', 'F32']), tied: random.pick([true, false]) }),
    gptq: (random) => ({
      gptq: {
        version: random.pick([1, 2]),
        groupSize: random.pick([16, 32, 64, -1]),
        symmetric: random.pick([true, false]),
        order: random.pick(['absent', 'sequential', 'shared', 'separate']),
        dynamic: {
          '-:.*\\.0\\..*down': {},
          '+:model\\.layers\\.1\\.mlp': { group_size: 8, sym: false },
          '.*v_proj': { sym: true },
        },
      },
    }),
    awq: (random) => ({
      awq: {
        groupSize: random.pick([16, 32, 64, -1]),
        zeroPoint: random.pick([true, true, false]),
        scaleDtype: random.pick(['F16', 'BF16']),
        head: random.pick([true, false]),
        plain: random.pick([undefined, ['self_attn.o_proj', 'mlp.up_proj']]),
        saidIn: random.pick(['config.json', 'quant_config.json']),
      },
    }),
    'compressed-tensors': (random) => ({
      dtype: 'BF16',
      compressed: {
        groupSize: random.pick([16, 32, 64, -1]),
        symmetric: random.pick([true, false]),
        actOrder: random.pick([undefined, 'group', 'weight']),
        scaleDtype: random.pick(['F16', 'BF16']),
        head: random.pick([true, false]),
        ignore: random.pick([[], ['model.layers.0.mlp.gate_proj', 're:.*1.*k_proj']]),
      },
      shards: 2,
    }),
  }
  const kinds = ARCHITECTURES.flatMap((architecture) =>
    Object.entries(formats).map(([format, options]) => {
      const draw = (random: Random) => {
        const slidingWindow = architecture === 'llama' ? undefined : random.pick([undefined, 1, 37, 64, 500])
        return {
          shape: randomShape(random, { vocab: random.pick([272, 304]), ...anyRope(random) }),
          architecture,
          attentionBias: random.pick([true, false]),
          ...(slidingWindow === undefined ? {} : { slidingWindow }),
          ...options(random),
        }
      }
      return [`${architecture}, ${format}`, draw] as const
    }),
  )
  return Object.fromEntries(kinds)
}

const KINDS: Record<string, (random: Random) => Omit<CheckpointOptions, 'seed'>> = {
  'f32, biases': (random) => ({ shape: randomShape(random), dtype: 'F32', attentionBias: true, mlpBias: true }),
  'f16, tied, odd widths': (random) => ({
    shape: randomShape(random, { vocab: 301, hidden: 70, intermediate: 147 }),
    dtype: 'F16',
    tied: true,
  }),
  'bf16, llama3 rope': (random) => ({
    shape: randomShape(random, { ropeScaling: llama3Rope, headDim: 64 }),
    dtype: 'BF16',
  }),
  'gptq v1 symmetric, group 128': (random) => ({
    shape: randomShape(random, { hidden: 256, intermediate: 384 }),
    gptq: { version: 1, groupSize: 128, symmetric: true, order: 'sequential' },
    tied: true,
  }),
  'gptq v1 asymmetric, group 32, act-order': (random) => ({
    shape: randomShape(random, { hidden: 96, intermediate: 160 }),
    gptq: { version: 1, groupSize: 32, symmetric: false, order: 'shared' },
  }),
  'gptq v1 asymmetric, group 64 with a short last one, an act-order each': (random) => ({
    shape: randomShape(random, { hidden: 96, intermediate: 200 }),
    gptq: { version: 1, groupSize: 64, symmetric: false, order: 'separate' },
    attentionBias: true,
  }),
  'gptq v1 symmetric, group 64 with a short last one, act-order': (random) => ({
    shape: randomShape(random, { hidden: 136, intermediate: 264 }),
    gptq: { version: 1, groupSize: 64, symmetric: true, order: 'shared' },
    tied: true,
  }),
  'gptq v2 symmetric, group 16, no g_idx, linear rope': (random) => ({
    shape: randomShape(random, { ropeScaling: linearRope }),
    gptq: { version: 2, groupSize: 16, symmetric: true, order: 'absent' },
  }),
  'gptq v2 asymmetric, group 8': (random) => ({
    shape: randomShape(random),
    gptq: { version: 2, groupSize: 8, symmetric: false, order: random.pick(['absent', 'sequential', 'shared']) },
    tied: true,
  }),
  'gptq v1 symmetric, one group': (random) => ({
    shape: randomShape(random),
    gptq: { version: 1, groupSize: -1, symmetric: true, order: random.pick(['absent', 'sequential']) },
    mlpBias: true,
  }),
  'gptq v2 asymmetric, one group, bf16 scales, quantised head': (random) => ({
    shape: randomShape(random, { vocab: random.pick([272, 304, 520]) }),
    dtype: 'BF16',
    gptq: { version: 2, groupSize: -1, symmetric: false, order: 'sequential', scaleDtype: 'BF16', head: true },
  }),
  'gptq v1 in part, the rest plain, in shards, said in quantize_config.json': (random) => ({
    shape: randomShape(random),
    gptq: {
      version: 1,
      groupSize: 32,
      symmetric: false,
      order: 'shared',
      plain: ['self_attn.v_proj', 'mlp.up_proj', 'mlp.down_proj'],
      saidIn: 'quantize_config.json',
    },
    shards: 3,
  }),
  'all at random': (random) => {
    const tied = random.pick([true, false])
    const head = !tied && random.pick([true, false])
    const rope = random.pick([{}, { ropeScaling: llama3Rope }, { ropeScaling: linearRope }])
    return {
      shape: randomShape(random, head ? { ...rope, vocab: random.pick([272, 304, 520]) } : rope),
      dtype: random.pick(['F16', 'BF16', 'F32']),
      gptq: {
        version: random.pick([1, 2]),
        groupSize: random.pick([8, 16, 24, 32, 40, 64, 128, -1]),
        symmetric: random.pick([true, false]),
        order: random.pick(['absent', 'sequential', 'shared', 'separate']),
        head,
      },
      tied,
      attentionBias: random.pick([true, false]),
      mlpBias: random.pick([true, false]),
      shards: random.integer(1, 3),
    }
  },
}

const PLACEMENTS = ['resident', 'streamed', 'mixed'] as const

interface Outcome {
  logits: Float32Array
  logprobs: Float32Array
  generated: number[]
  generatedLogprobs: number[]
}

Object.entries({ ...KINDS, ...pairs() }).forEach(([kind, draw], index) => {
  describe(`${kind} (MILLRACE_SEED=${SEED})`, () => {
    const random = new Random(1000 * SEED + index)
    const dir = mkdtempSync(join(tmpdir(), 'millrace-random-'))
    const options = { ...draw(random), seed: 1000 * SEED + index }
    const { vocab, layers } = options.shape
    const tokens = Array.from({ length: SCORED_TOKENS }, () => random.integer(0, vocab - 1))
    const prompt = tokens.slice(0, PROMPT_TOKENS)
    const outcomes = new Map<string, Outcome>()
    let reference: ReferenceModel

    beforeAll(async () => {
      writeRandomCheckpoint(dir, options)
      reference = new ReferenceModel(dir)
      const mixed = (['streamed', 'resident', 'cpu'] as const).slice(0, layers)
      for (const name of PLACEMENTS) {
        const placement: LoadOptions['placement'] = name === 'mixed' ? mixed : name
        const model = await load(dir, { device: 'cpu', placement, poison: true })
        try {
          const { logits, logprobs } = await model.score(tokens, { logits: true })
          const generation = model.generate(prompt, { maxTokens: GENERATED_TOKENS, ignoreEos: true, logprobs: true })
          const result = await generation.result
          outcomes.set(name, {
            logits: logits!,
            logprobs,
            generated: result.tokens,
            generatedLogprobs: result.logprobs!,
          })
        } finally {
          await model.close()
        }
      }
    })
    afterAll(() => rmSync(dir, { recursive: true }))

    test('logits of a scored text', () => {
      const { logits, logprobs } = outcomes.get('streamed')!
      const expected = reference.logits(tokens)
      expect(logits.length).toBe(tokens.length * vocab)
      expected.forEach((row, i) => {
        const error = relativeError(logits.subarray(i * vocab, (i + 1) * vocab), row)
        expect(error, `position ${i}`).toBeLessThan(LARGEST_ERROR_OF_A_POSITION)
      })
      const all = Float64Array.from(expected.flatMap((row) => [...row]))
      expect(relativeError(logits, all), 'all positions').toBeLessThan(LARGEST_ERROR)
      const expectedLogprobs = tokens.slice(1).map((token, i) => logSoftmax(expected[i]!)[token]!)
      expect(relativeError(logprobs, expectedLogprobs)).toBeLessThan(LARGEST_ERROR)
    })

    test('greedy tokens and their log-probabilities', () => {
      const { generated, generatedLogprobs } = outcomes.get('streamed')!
      expect(generated.length).toBe(GENERATED_TOKENS)
      // The float64 model reads the product's own tokens, so that a near tie decided otherwise is no failure.
      const rows = reference.logits([...prompt, ...generated]).slice(PROMPT_TOKENS - 1, -1)
      const expected = rows.map((row, i) => logSoftmax(row)[generated[i]!]!)
      rows.forEach((row, i) => {
        const best = row.reduce((a, b) => Math.max(a, b))
        expect(best - row[generated[i]!]!, `token ${i} is the most likely`).toBeLessThan(1e-2)
        expect(Math.abs(generatedLogprobs[i]! - expected[i]!), `log-probability of token ${i}`).toBeLessThan(1e-2)
      })
    })

    test.each(['resident', 'mixed'])('%s gives the same bits as streamed', (name) => {
      const bits = ({ logits, logprobs }: Outcome) =>
        [logits, logprobs].map((x) => Buffer.from(x.buffer, x.byteOffset, x.byteLength))
      const [one, other] = [outcomes.get(name)!, outcomes.get('streamed')!]
      for (const [i, bytes] of bits(one).entries()) expect(bytes.equals(bits(other)[i]!)).toBe(true)
      expect(one.generated).toEqual(other.generated)
      expect(one.generatedLogprobs).toEqual(other.generatedLogprobs)
    })
  })
})

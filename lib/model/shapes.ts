/** Shapes of published models, as their config.json has them: for random weights at sizes that nobody wants to fetch. */
import type { RopeSpec } from '../binding.ts'
import type { DecoderShape } from '../checkpoint/decoder.ts'
import type { DeltaNetShape } from '../checkpoint/delta_net.ts'
import type { LatentShape } from '../checkpoint/latent.ts'
import { EXPERTS, type MixtureShape } from '../checkpoint/mixture.ts'
import { UNSCALED } from '../checkpoint/rope.ts'
import { invalidArgument, nearest } from '../options/validate.ts'

export const plainRope = (headDim: number, theta: number): RopeSpec => ({
  ...UNSCALED,
  headDim,
  rotary: headDim,
  theta,
})

const shape = (
  vocab: number,
  hidden: number,
  layers: number,
  heads: number,
  kvHeads: number,
  intermediate: number,
  maxPosition: number,
  theta: number,
): DecoderShape => ({
  vocab,
  hidden,
  layers,
  maxPosition,
  epsilon: 1e-5,
  norms: { beforeAttention: 'input_layernorm', beforeFeedForward: 'post_attention_layernorm' },
  layer: () => ({
    heads,
    kvHeads,
    headDim: hidden / heads,
    intermediate,
    activation: 'silu',
    window: 0,
    rope: plainRope(hidden / heads, theta),
    biases: [],
    headNorms: 'none',
  }),
})

interface MixtureSize {
  experts: number
  chosen: number
  width: number
  headDim?: number
}

/** The same with experts in the place of feed-forwards, and norms of query and key heads where Qwen 3 has them. */
const mixture = (
  dense: DecoderShape,
  { headDim, ...size }: MixtureSize,
  more: Partial<Omit<MixtureShape, 'names'>> & { headNorms?: boolean } = {},
): DecoderShape => {
  const { headNorms = false, ...own } = more
  return {
    ...dense,
    layer: (layer) => {
      const plain = dense.layer(layer)
      const dim = headDim ?? plain.headDim
      const experts: MixtureShape = { ...size, score: 'softmax', renormalise: true, names: EXPERTS, ...own }
      const rope = plain.rope && { ...plain.rope, headDim: dim, rotary: dim }
      return { ...plain, headDim: dim, rope, headNorms: headNorms ? 'heads' : 'none', mixture: experts }
    },
  }
}

/** Qwen3-Next and Qwen3.5: three layers of four keep states, norms add to 1, a quarter of each head rotates. */
const hybrid = (plain: DecoderShape, valueHeads: number, stored: DeltaNetShape['stored'] = 'apart'): DecoderShape => {
  const deltaNet: DeltaNetShape = {
    ...{ keyHeads: 16, valueHeads, keyDim: 128, valueDim: 128, taps: 4 },
    module: 'linear_attn',
    stored,
  }
  return {
    ...plain,
    epsilon: 1e-6,
    plusOne: true,
    layer: (index) => {
      const own = plain.layer(index)
      const rope = { ...own.rope, headDim: 256, rotary: 64 }
      const attention = { headDim: 256, rope, headNorms: 'heads' as const, outputGate: true }
      return { ...own, ...attention, ...((index + 1) % 4 === 0 ? {} : { deltaNet }) }
    },
  }
}
/** DeepSeek's kind: keys and values of a latent, the first layer without experts. */
const latent = (plain: DecoderShape, own: Omit<LatentShape, 'rank' | 'rotary' | 'interleaved'>): DecoderShape => ({
  ...plain,
  layer: (index) => {
    const { mixture, ...layer } = plain.layer(index)
    const headDim = own.nope + 64
    return {
      ...layer,
      ...{ headDim, kvHeads: layer.heads, latent: { ...own, rank: 512, rotary: 64, interleaved: true } },
      ...(index === 0 || !mixture ? {} : { mixture }),
    }
  },
})

const SHARED = { shared: { module: 'mlp.shared_expert', width: 512, gate: 'mlp.shared_expert_gate' } }

const QWEN3_30B = { experts: 128, chosen: 8, width: 768, headDim: 128 }
const CLAMPED = { clamped: { alpha: 1.702, limit: 7 } }

export const SHAPES: Readonly<Record<string, DecoderShape>> = {
  'smollm2-135m': shape(49152, 576, 30, 9, 3, 1536, 8192, 1e5),
  'tinyllama-1.1b': shape(32000, 2048, 22, 32, 4, 5632, 2048, 1e4),
  'llama3.2-1b': shape(128256, 2048, 16, 32, 8, 8192, 131072, 5e5),
  'llama2-7b': shape(32000, 4096, 32, 32, 32, 11008, 4096, 1e4),
  'llama3-8b': shape(128256, 4096, 32, 32, 8, 14336, 8192, 5e5),
  'llama2-13b': shape(32000, 5120, 40, 40, 40, 13824, 4096, 1e4),
  'llama2-70b': shape(32000, 8192, 80, 64, 8, 28672, 4096, 1e4),
  'llama3-70b': shape(128256, 8192, 80, 64, 8, 28672, 8192, 5e5),
  'qwen3-30b-a3b': mixture(shape(151936, 2048, 48, 32, 4, 768, 40960, 1e6), QWEN3_30B, { headNorms: true }),
  'qwen3-next-80b-a3b': hybrid(
    mixture(shape(151936, 2048, 48, 16, 2, 5120, 262144, 1e7), { experts: 512, chosen: 10, width: 512 }, SHARED),
    32,
    'byKeyHeads',
  ),
  'qwen3.5-35b-a3b': hybrid(
    mixture(shape(248320, 2048, 40, 16, 2, 512, 262144, 1e7), { experts: 256, chosen: 8, width: 512 }, SHARED),
    32,
  ),
  'qwen3.5-27b': hybrid(shape(248320, 5120, 64, 24, 4, 17408, 262144, 1e7), 48),
  'gpt-oss-20b': mixture(
    shape(201088, 2880, 24, 64, 8, 2880, 131072, 150000),
    { experts: 32, chosen: 4, width: 2880, headDim: 64 },
    CLAMPED,
  ),
  'gpt-oss-120b': mixture(
    shape(201088, 2880, 36, 64, 8, 2880, 131072, 150000),
    { experts: 128, chosen: 4, width: 2880, headDim: 64 },
    CLAMPED,
  ),
  'mixtral-8x7b': mixture(shape(32000, 4096, 32, 32, 8, 14336, 32768, 1e6), { experts: 8, chosen: 2, width: 14336 }),
  'glm-4.5-air': mixture(
    shape(151552, 4096, 46, 96, 8, 1408, 131072, 1e6),
    { experts: 128, chosen: 8, width: 1408, headDim: 128 },
    { score: 'sigmoid', shared: { module: 'mlp.shared_experts', width: 1408 } },
  ),
  'glm-4.7-flash': latent(
    mixture(
      shape(154880, 2048, 47, 20, 20, 10240, 202752, 1e6),
      { experts: 64, chosen: 4, width: 1536 },
      { score: 'sigmoid', scale: 1.8, shared: { module: 'mlp.shared_experts', width: 1536 } },
    ),
    { queryRank: 768, nope: 192, valueDim: 256 },
  ),
  'deepseek-v2-lite': latent(
    mixture(
      shape(102400, 2048, 27, 16, 16, 10944, 163840, 1e4),
      { experts: 64, chosen: 6, width: 1408 },
      { renormalise: false, shared: { module: 'mlp.shared_experts', width: 2816 } },
    ),
    { nope: 128, valueDim: 128 },
  ),
  /** Of models/demo-moe. */
  'millrace-demo-moe': mixture(
    shape(2048, 384, 6, 6, 2, 128, 1024, 1e4),
    { experts: 32, chosen: 4, width: 128, headDim: 64 },
    { headNorms: true },
  ),
  /** Of models/demo: small enough to try anything that takes a shape. */
  'millrace-demo': shape(2048, 384, 8, 6, 2, 1024, 1024, 1e4),
}

/** A shape by its name; hyphens and case do not matter, so that 'Llama-3-8B' is found. Undefined if there is none. */
export function findShape(name: string): DecoderShape | undefined {
  const plain = (text: string) => text.toLowerCase().replace(/[^a-z0-9.]/g, '')
  const known = Object.keys(SHAPES).find((shape) => plain(shape) === plain(name))
  return known === undefined ? undefined : SHAPES[known]
}

/** A shape by its name. Throws INVALID_ARGUMENT. */
export function requireShape(name: string, what = 'one'): DecoderShape {
  const found = findShape(name)
  if (found) return found
  const likely = nearest(name, Object.keys(SHAPES))
  throw invalidArgument(
    `${what} of ${Object.keys(SHAPES).join(', ')}`,
    'shape',
    name,
    likely === undefined ? undefined : `did you mean '${likely}'?`,
  )
}

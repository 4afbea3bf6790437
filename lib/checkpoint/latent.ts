/**
 * Multi-head latent attention (arXiv:2405.04434): keys and values of all heads are made of one latent a token, which with a
 * part of the key that turns is all that the cache has.
 */
import type { RopeSpec } from '../binding.ts'
import type { BiasedPart } from './decoder.ts'
import type { ProgramBuilder, UnitBuilder } from './program.ts'

export interface LatentShape {
  /** Of the latent that queries are made of; left out: they are made of the residual stream. */
  queryRank?: number
  rank: number
  /** Of each head's query and key the elements that do not turn, and those that do. */
  nope: number
  rotary: number
  valueDim: number
  /** Neighbours turn together. */
  interleaved: boolean
}

interface Attention {
  heads: number
  rope: RopeSpec
  scale?: number
  biases: readonly BiasedPart[]
}

/** Of the norms of latents, whatever the others have: as in transformers. */
const EPSILON = 1e-6

/** The value that it computes of `from`, before the output projection. `prefix`: of the layer. */
export function buildLatent(
  builder: ProgramBuilder,
  unit: UnitBuilder,
  from: number,
  prefix: string,
  { heads, rope, scale, biases }: Attention,
  { queryRank, rank, nope, rotary, valueDim, interleaved }: LatentShape,
): number {
  const module = (name: string) => `${prefix}.self_attn.${name}`
  const bias = biases.length > 0
  const queries = heads * (nope + rotary)
  const q = builder.value('latent query', queries)
  const latent = builder.value('latent', rank + rotary)
  const out = builder.value('latent attended', heads * valueDim)
  if (queryRank === undefined) {
    unit.linear(from, q, [{ module: module('q_proj'), n: queries }])
  } else {
    const low = builder.value('query latent', queryRank)
    unit.linear(from, low, [{ module: module('q_a_proj'), n: queryRank, bias }])
    unit.norm(low, low, `${module('q_a_layernorm')}.weight`, { epsilon: EPSILON })
    unit.linear(low, q, [{ module: module('q_b_proj'), n: queries }])
  }
  unit.linear(from, latent, [{ module: module('kv_a_proj_with_mqa'), n: rank + rotary, bias }])
  unit.norm(latent, latent, `${module('kv_a_layernorm')}.weight`, { width: rank, epsilon: EPSILON })
  unit.latent(
    {
      q,
      latent,
      out,
      heads,
      rank,
      nope,
      rotary,
      valueDim,
      ...builder.kvLayer({ window: 0, kvHeads: 1, headDim: rank + rotary, latent: true }),
      rope: builder.rope({ ...rope, headDim: rotary, rotary }),
      ...(scale === undefined ? {} : { scale }),
      ...(interleaved ? { interleaved } : {}),
    },
    { module: module('kv_b_proj'), n: heads * (nope + valueDim) },
  )
  return out
}

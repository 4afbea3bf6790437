/**
 * Gated DeltaNet (arXiv:2412.06464), in the place of a layer's attention: a short convolution, and a matrix a head that each
 * token changes, which is all that the layer keeps of a sequence.
 */
import type { LinearPart, ProgramBuilder, UnitBuilder } from './program.ts'

export interface DeltaNetShape {
  keyHeads: number
  valueHeads: number
  keyDim: number
  valueDim: number
  /** Tokens that the convolution sees, its own counted. */
  taps: number
  /** Name within a layer. */
  module: string
  /**
   * How its projections are stored: by what they make (`in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a`), or by key heads
   * (`in_proj_qkvz`, `in_proj_ba`: of each key head its query, its key, then the values of its value heads, then their gates).
   */
  stored: 'apart' | 'byKeyHeads'
}

/** Parts of a state begin at multiples of so many floats: kStateAlignment in csrc/model/program.h. */
const STATE_ALIGNMENT = 4

const aligned = (floats: number) => Math.ceil(floats / STATE_ALIGNMENT) * STATE_ALIGNMENT

/** The value that it computes of `from`, before the output projection. `prefix`: of the layer. */
export function buildDeltaNet(
  builder: ProgramBuilder,
  unit: UnitBuilder,
  from: number,
  prefix: string,
  shape: DeltaNetShape,
): number {
  const { keyHeads, valueHeads, keyDim, valueDim, taps } = shape
  const [keys, values] = [keyHeads * keyDim, valueHeads * valueDim]
  const channels = 2 * keys + values
  const module = `${prefix}.${shape.module}`
  const input = builder.value('delta input', channels + values)
  const gates = builder.value('delta gates', 2 * valueHeads)
  const convolved = builder.value('convolved', channels)
  const read = builder.value('delta read', values)
  const normed = builder.value('delta normed', values)
  const gated = builder.value('delta gated', values)
  unit.linear(from, input, inputParts(module, shape))
  unit.linear(from, gates, gateParts(module, shape))
  const begin = aligned((taps - 1) * channels)
  const place = builder.kvLayer({ window: 0, kvHeads: 0, headDim: 0, state: begin + valueHeads * keyDim * valueDim })
  unit.op({
    op: 'conv',
    in: input,
    out: convolved,
    channels,
    taps,
    weight: unit.vectorOf({ tensor: `${module}.conv1d.weight`, columns: taps }, channels * taps),
    ...place,
    stateBegin: 0,
  })
  unit.op({
    op: 'delta',
    in: convolved,
    gates,
    out: read,
    keyHeads,
    valueHeads,
    keyDim,
    valueDim,
    rate: unit.vectorOf({ tensor: `${module}.A_log`, exponential: true }, valueHeads),
    bias: unit.vectorOf({ tensor: `${module}.dt_bias` }, valueHeads),
    ...place,
    stateBegin: begin,
  })
  unit.norm(read, normed, `${module}.norm.weight`, { width: valueDim, groups: valueHeads })
  unit.op({ op: 'gate', in: input, inBegin: channels, by: normed, begin: 0, out: gated, activation: 'silu' })
  return gated
}

/** Queries, keys and values of all heads, then the gates of the output. */
function inputParts(module: string, { keyHeads, valueHeads, keyDim, valueDim, stored }: DeltaNetShape): LinearPart[] {
  const [keys, values] = [keyHeads * keyDim, valueHeads * valueDim]
  if (stored === 'apart') {
    return [
      { module: `${module}.in_proj_qkv`, n: 2 * keys + values },
      { module: `${module}.in_proj_z`, n: values },
    ]
  }
  const own = values / keyHeads // of a key head's value heads
  const step = 2 * keyDim + 2 * own
  const part = (begin: number, run: number): LinearPart => ({
    module: `${module}.in_proj_qkvz`,
    n: keyHeads * run,
    rows: { begin, of: keyHeads * step, step, run },
  })
  return [part(0, keyDim), part(keyDim, keyDim), part(2 * keyDim, own), part(2 * keyDim + own, own)]
}

/** b and a of all value heads; few and of great weight, they stay as they are. */
function gateParts(module: string, { keyHeads, valueHeads, stored }: DeltaNetShape): LinearPart[] {
  if (stored === 'apart') {
    return ['in_proj_b', 'in_proj_a'].map((name) => ({ module: `${module}.${name}`, n: valueHeads, stays: true }))
  }
  const run = valueHeads / keyHeads
  return [0, run].map((begin) => ({
    module: `${module}.in_proj_ba`,
    n: valueHeads,
    rows: { begin, of: 2 * valueHeads, step: 2 * run, run },
    stays: true,
  }))
}

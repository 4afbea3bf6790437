/** What plans ask of a program. */
import type { NativeUnit, Op, Program, ProgramUnit } from '../binding.ts'

type AttendOp = Extract<Op, { op: 'attend' }>

const opsOf = ({ embed, units }: Program): Op[] => [...embed, ...units.flatMap(({ ops }) => ops)]

export const attendsOf = (program: Program): AttendOp[] =>
  opsOf(program).filter((op): op is AttendOp => op.op === 'attend')

export type LatentOp = Extract<Op, { op: 'latent' }>

export const latentsOf = (program: Program): LatentOp[] =>
  opsOf(program).filter((op): op is LatentOp => op.op === 'latent')

/** Width of the residual stream. */
export const hiddenOf = ({ values }: Program): number => values[0]!

const sum = (numbers: readonly number[]) => numbers.reduce((all, one) => all + one, 0)

/** Of the layers' linears that compute a row, the head apart: of a mixture's experts as many as answer it, each weight `ofExperts` times. */
export function layerWeights(program: Program, ofExperts = 1): number {
  const weights = program.units.map((unit) => {
    const share = activeShare(program, unit)
    const counted = (linear: number) => share(linear) * (share(linear) < 1 ? ofExperts : 1)
    return sum(unit.linears.map(({ k, parts }, linear) => counted(linear) * k * sum(parts)))
  })
  return sum(weights.filter((_, index) => !program.units[index]!.head))
}

/** Of a unit's linears, the share that computes a row: 1 but of experts, of which only some answer it. */
export function activeShare({ values }: Program, { ops }: ProgramUnit): (linear: number) => number {
  const experts = ops.find((op) => op.op === 'experts')
  if (!experts) return () => 1
  const share = values[experts.routes]! / 2 / experts.experts
  const end = experts.linear + 2 * experts.experts
  return (linear) => (linear >= experts.linear && linear < end ? share : 1)
}

/** Multiplications and additions of attention for a row that sees so many positions. */
export function attentionFlops(program: Program, seen: number): number {
  const attends = attendsOf(program).map(({ heads, headDim, kvClass }) => {
    const { window } = program.kv[kvClass]!
    return 4 * heads * headDim * (window > 0 ? Math.min(seen, window) : seen)
  })
  return sum(attends) + sum(latentsOf(program).map(({ heads, rank, rotary }) => 2 * heads * (2 * rank + rotary) * seen))
}

/** As half_values() in cuda/plan/lower.cc: values that only linears read, in rows of whole vectors of 64. */
function halfValues(program: Program): boolean[] {
  const half = program.values.map((_, value) => value !== 0 && value !== program.logits)
  for (const op of opsOf(program)) {
    switch (op.op) {
      case 'norm':
        half[op.in] = false
        if (op.in === op.out || op.add) half[op.out] = false
        break
      case 'scale':
        half[op.value] = false
        break
      case 'add':
        half[op.in] = half[op.out] = false
        break
      case 'linear':
      case 'gather':
        half[op.out] = false
        break
      case 'gate':
        // What it gates may be of either kind.
        half[op.in] = false
        break
      case 'attend':
        half[op.qkv] = false
        break
      case 'latent':
        half[op.q] = half[op.latent] = false
        break
      case 'conv':
        half[op.in] = half[op.out] = false
        break
      case 'delta':
        half[op.in] = half[op.gates] = half[op.out] = false
        break
      case 'route':
        half[op.in] = half[op.out] = false
        break
      case 'experts':
        half[op.routes] = half[op.out] = false
        break
    }
  }
  return half
}

/** Bytes of a GPU's buffers for a row of a step. `fused`: gate and up are one matrix in every layer. */
export function rowBytes(program: Program, fused: boolean): number {
  const half = halfValues(program)
  let bytes = program.values.reduce((sum, width, value) => {
    if (value === program.logits) return sum
    return sum + (half[value] ? 2 * Math.ceil(width / 64) * 64 : 4 * width)
  }, 0)
  let [gateUp, converted, permuted] = [0, 0, 0]
  for (const op of opsOf(program)) {
    if (op.op === 'glu' && !(fused && op.activation === 'silu')) {
      gateUp = Math.max(gateUp, 8 * Math.ceil(program.values[op.out]! / 8) * 8)
    }
    if (op.op !== 'glu' && op.op !== 'linear' && op.op !== 'experts') continue
    const width = program.values[op.in]!
    // Inputs of linears whose columns are permuted, which only some checkpoints have.
    permuted = Math.max(permuted, 2 * width)
    if (!half[op.in]) converted = Math.max(converted, 2 * Math.ceil(width / 64) * 64)
  }
  bytes += gateUp + converted + permuted
  return bytes
}

/** As kMostExpertBytes in cuda/plan/experts.h. */
const MOST_EXPERT_BYTES = 128 * 2 ** 20

/** Bytes of a GPU's buffers for what experts leave to be added up, of a step of so many rows. `fused`: as in rowBytes(). */
export function mixtureBytes(program: Program, rows: number, fused: boolean): number {
  const { values } = program
  const sizes = program.units.flatMap(({ ops, linears }) =>
    ops.flatMap((op) => {
      if (op.op !== 'experts') return []
      const [topK, hidden, width] = [values[op.routes]! / 2, values[op.out]!, linears[op.linear + 1]!.k]
      const atOnce = Math.max(1, Math.min(rows, Math.floor(MOST_EXPERT_BYTES / (4 * topK * hidden))))
      const gateUp = fused ? 0 : 8 * Math.ceil(width / 8) * 8
      const places = atOnce * topK
      // Lists: a place's own number, and tiles of it, at most one each.
      return [places * (4 * hidden + 2 * Math.ceil(width / 64) * 64 + gateUp + 4 + 32)]
    }),
  )
  return Math.max(0, ...sizes)
}

export const layersOf = (units: readonly Pick<NativeUnit, 'layer'>[]): number =>
  Math.max(0, ...units.map(({ layer }) => layer + 1))

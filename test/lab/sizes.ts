/** At what sizes every operation is tried, on each device. */
import { SHAPES, shapedOperations } from '../../lib/lab/index.ts'

export const AWKWARD: Record<string, Record<string, number>[]> = {
  linear: [
    { rows: 3, n: 192, k: 576 },
    { rows: 65, n: 576, k: 192, permuted: 1, epilogue: 1 },
    { rows: 9, n: 592, k: 1000, epilogue: 2 },
  ],
  q4: [
    { rows: 5, n: 200, k: 192, group: 32, zeros: 1, scaleType: 1 },
    { rows: 17, n: 576, k: 576, group: 0, zeros: 1, permuted: 1 },
    { rows: 1, n: 6144, k: 4096, group: 64 },
  ],
  attention: [
    { rows: 3, context: 300, heads: 6, kvHeads: 2, headDim: 64, window: 100 },
    { rows: 33, context: 77, heads: 8, kvHeads: 8, headDim: 128 },
    { rows: 3, context: 300, heads: 6, kvHeads: 2, headDim: 64, window: 100, kvType: 1 },
    { rows: 33, context: 777, heads: 8, kvHeads: 2, headDim: 128, kvType: 1 },
    { rows: 5, context: 90, heads: 4, kvHeads: 2, headDim: 80, kvType: 1 },
    { rows: 2, context: 50, heads: 2, kvHeads: 1, headDim: 256, kvType: 1 },
  ],
  route: [
    { rows: 3, experts: 8, topK: 2, renormalise: 0 },
    { rows: 65, experts: 160, topK: 6, groups: 8, topGroups: 3, sigmoid: 1, scale: 2.5 },
    { rows: 1, experts: 33, topK: 33 },
  ],
  experts: [
    { rows: 3, experts: 7, topK: 2, n: 192, k: 576, epilogue: 2 },
    { rows: 40, experts: 4, topK: 3, n: 200, k: 200, permuted: 1, places: 1 },
  ],
  combine: [
    { rows: 5, topK: 1, width: 100 },
    { rows: 70, topK: 8, width: 2048 },
  ],
}

/** Awkward ones, and those of a model. */
export function sizesOf(operation: string): Record<string, number>[] {
  const own = /^gem/.test(operation) ? [...AWKWARD.linear!, ...(operation.endsWith('q4') ? AWKWARD.q4! : [])] : []
  const attention = operation.startsWith('attention')
    ? AWKWARD.attention!
    : (AWKWARD[operation.replace(/_.*/, '')] ?? [])
  const shaped = shapedOperations(operation, SHAPES['smollm2-135m']!, { rows: 4, group: 64 })
  return [...own, ...attention, ...shaped.map(({ dimensions }) => dimensions)]
}

/** The operations of a model's pass with the dimensions that its shape gives them. */
import type { KvType } from '../binding.ts'
import type { ModelSpec } from '../checkpoint/spec.ts'
import { invalidArgument } from '../options/validate.ts'
import { checkOperation } from './operations.ts'

export interface ShapedOperation {
  /** What it is in the model: 'qkv', 'o', 'gate_up', 'down', 'head', or the operation itself. */
  part: string
  operation: string
  dimensions: Record<string, number>
}

export interface ShapeOptions {
  /** Default 1. */
  rows?: number | undefined
  /** Of 4-bit linears; default 128. */
  group?: number | undefined
  /** Positions that attention sees; default 1024. */
  context?: number | undefined
  /** How attention's keys and values are kept; default 'f16'. */
  kv?: KvType | undefined
}

/** Where an operation occurs in a model of this shape. Throws INVALID_ARGUMENT where it does not. */
export function shapedOperations(operation: string, spec: ModelSpec, options: ShapeOptions = {}): ShapedOperation[] {
  const { rows = 1, group = 128, context = 1024, kv = 'f16' } = options
  const query = spec.heads * spec.headDim
  const qkv = query + 2 * spec.kvHeads * spec.headDim
  checkOperation(operation)
  const linear = /^(gemv|gemm)_(\w+)$/.exec(operation)
  if (linear) {
    const q4 = linear[2] === 'q4' ? { group } : {} // the others have their own
    const of = (part: string, n: number, k: number, epilogue = 0) => ({
      part,
      operation,
      dimensions: { rows, n, k, epilogue, ...q4 },
    })
    const intermediate = Math.ceil(spec.intermediate / 8) * 8
    const head = of('head', spec.vocab, spec.hidden)
    if (linear[1] === 'gemm') return layer()
    return [...layer(), head]
    function layer() {
      return [
        of('qkv', qkv, spec.hidden),
        of('o', spec.hidden, query, 1),
        of('gate_up', 2 * intermediate, spec.hidden, 2),
        of('down', spec.hidden, spec.intermediate, 1),
      ]
    }
  }
  const mixture = spec.experts
  const experts = /^experts_(\w+)$/.exec(operation)
  if (experts) {
    if (mixture === undefined) return []
    const of = (part: string, own: Record<string, number>) => ({
      part,
      operation,
      dimensions: {
        rows,
        experts: mixture.count,
        topK: mixture.chosen,
        ...own,
        ...(experts[1] === 'q4' ? { group } : {}),
      },
    })
    const width = Math.ceil(mixture.width / 8) * 8
    return [
      of('gate_up', { n: 2 * width, k: spec.hidden, epilogue: 2 }),
      of('down', { n: spec.hidden, k: mixture.width, places: 1 }),
    ]
  }
  const one = (dimensions: Record<string, number>) => [
    { part: operation, operation, dimensions: { rows, ...dimensions } },
  ]
  const heads = { heads: spec.heads, kvHeads: spec.kvHeads, headDim: spec.headDim }
  switch (operation) {
    case 'rms_norm':
      return one({ width: spec.hidden, epsilon: spec.rmsEpsilon })
    case 'norm_heads':
      return one({ ...heads, epsilon: spec.rmsEpsilon })
    case 'add_bias':
      return one({ n: qkv })
    case 'silu_mul':
      return one({ intermediate: spec.intermediate })
    case 'embed':
      return one({ vocab: spec.vocab, hidden: spec.hidden })
    case 'attention_decode':
    case 'attention_prefill':
      return one({
        ...heads,
        context: Math.max(context, operation === 'attention_prefill' ? rows : 1),
        ...(kv === 'q8' ? { kvType: 1 } : {}),
      })
    case 'route':
      return spec.experts ? one({ experts: spec.experts.count, topK: spec.experts.chosen }) : []
    case 'combine':
      return spec.experts ? one({ topK: spec.experts.chosen, width: spec.hidden }) : []
    case 'sample':
      return one({ vocab: spec.vocab })
  }
  throw invalidArgument('an operation of a model', 'operation', operation)
}

/** millrace/lab: for experiments with kernels. */
import { type ModelSpec, specOf } from '../checkpoint/spec.ts'
import { SHAPES as DECODERS } from '../model/shapes.ts'

export type { ModelSpec }

/** Shapes of published models. */
export const SHAPES: Readonly<Record<string, ModelSpec>> = Object.fromEntries(
  Object.entries(DECODERS).map(([name, shape]) => [name, specOf(shape)]),
)
export {
  type BufferPart,
  Lab,
  LabBuffer,
  LabEvent,
  LabKernel,
  type LabOptions,
  LabStream,
  openLab,
  type TimeOptions,
  type Work,
} from './lab.ts'
export { KERNEL_ARGUMENTS, SLAB_LAYOUT } from './layout.ts'
export {
  type Dimension,
  describe,
  type ElementType,
  type Operation,
  operations,
  type Problem,
  type ProblemArgument,
} from './operations.ts'
export { type ShapedOperation, type ShapeOptions, shapedOperations } from './shapes.ts'
export { toNumbers, type Verification, verify } from './verify.ts'

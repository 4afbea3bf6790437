/** millrace/lab: for experiments with kernels. */
export type { ModelSpec } from '../binding.ts'
export { SHAPES } from '../model/shapes.ts'
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

/** A small model and a machine for plans. */
import type { ModelSpec, NativeSlabPlan, NativeUnit } from '../../../lib/binding.ts'
import { defaultCalibration } from '../../../lib/plan/calibration.ts'
import type { Machine, MachineGpu } from '../../../lib/plan/plan.ts'

export const spec: ModelSpec = {
  vocab: 1000,
  hidden: 64,
  layers: 4,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  intermediate: 128,
  maxPosition: 8192,
  rmsEpsilon: 1e-5,
  rope: {
    theta: 1e4,
    scaling: 'none',
    factor: 1,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalMaxPosition: 0,
    attentionFactor: 1,
    betaFast: 32,
    betaSlow: 1,
    truncate: true,
  },
  slidingWindow: 0,
  qkNorm: false,
}

export function unitsOf(layers: number, attention: number, feedForward: number, head: number): NativeUnit[] {
  return [
    ...Array.from({ length: layers }, (_, layer): NativeUnit[] => [
      { kind: 'attention', layer, bytes: attention, types: ['q4', 'q4'] },
      { kind: 'feedForward', layer, bytes: feedForward, types: ['q4', 'q4'] },
    ]).flat(),
    { kind: 'head', layer: -1, bytes: head, types: ['f16'] },
  ]
}

export const slabs: NativeSlabPlan = {
  layoutVersion: 1,
  units: unitsOf(spec.layers, 1024, 3072, 9728),
  embeddingBytes: 128_000,
  embeddingType: 'f16',
  kvBytesPerToken: 512,
}

export const calibration = defaultCalibration({ link: 'PCIe 5.0 x16', cores: 16 })

export const gpu: MachineGpu = { name: 'a GPU', memoryBytes: 80e9, memoryFreeBytes: 79e9, calibration }

export const machine: Machine = {
  cores: 3,
  memoryLimitBytes: 1e12,
  memoryAvailableBytes: 1e12,
  gpus: [],
  gpuReason: 'no NVIDIA driver was found',
  calibration,
}

/** A small model and a machine for plans. */
import type { NativeSlabPlan, NativeUnit } from '../../../lib/binding.ts'
import { buildDecoder, type DecoderShape } from '../../../lib/checkpoint/decoder.ts'
import { plainRope } from '../../../lib/model/shapes.ts'
import { defaultCalibration } from '../../../lib/plan/calibration.ts'
import type { Machine, MachineGpu } from '../../../lib/plan/plan.ts'

const rope = plainRope(16, 1e4)

export const shape: DecoderShape = {
  vocab: 1000,
  hidden: 64,
  layers: 4,
  maxPosition: 8192,
  epsilon: 1e-5,
  norms: { beforeAttention: 'input_layernorm', beforeFeedForward: 'post_attention_layernorm' },
  layer: () => ({
    heads: 4,
    kvHeads: 2,
    headDim: 16,
    intermediate: 128,
    activation: 'silu',
    window: 0,
    rope,
    biases: [],
    headNorms: 'none',
  }),
}

export const { program } = buildDecoder(shape)

export function unitsOf(layers: number, attention: number, feedForward: number, head: number): NativeUnit[] {
  return [
    ...Array.from({ length: layers }, (_, layer): NativeUnit[] => [
      { name: `attention ${layer}`, kind: 'attention', layer, kvClass: 0, bytes: attention, types: ['q4', 'q4'] },
      {
        name: `feed-forward ${layer}`,
        kind: 'feedForward',
        layer,
        kvClass: -1,
        bytes: feedForward,
        types: ['q4', 'q4'],
      },
    ]).flat(),
    { name: 'head', kind: 'head', layer: -1, kvClass: -1, bytes: head, types: ['f16'] },
  ]
}

export const slabs: NativeSlabPlan = {
  layoutVersion: 1,
  units: unitsOf(shape.layers, 1024, 3072, 9728),
  embeddingBytes: 128_000,
  embeddingType: 'f16',
  kv: [{ layers: shape.layers, window: 0, bytesPerToken: 512, bytesPerSequence: 0 }],
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

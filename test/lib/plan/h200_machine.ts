/** An H200 beside 16 cores, that nobody has calibrated. */
import { defaultCalibration } from '../../../lib/plan/calibration.ts'
import type { Machine } from '../../../lib/plan/plan.ts'

const calibration = defaultCalibration({ link: 'PCIe 5.0 x16', cores: 16, gpu: 'NVIDIA H200' })

export const h200: Machine = {
  cores: 16,
  memoryLimitBytes: 128e9,
  memoryAvailableBytes: 128e9,
  gpus: [{ name: 'NVIDIA H200', memoryBytes: 150e9, memoryFreeBytes: 149e9, calibration }],
  gpuReason: '',
  calibration,
}

import type { NativeAddon } from '../binding.ts'
import type { SystemMemory } from '../plan/memory.ts'
import type { Machine } from '../plan/plan.ts'

/** What plans need to know of this machine. */
export function readMachine(native: NativeAddon): Machine {
  const cpu = native.probeCpu()
  const { gpus, reason } = native.probeGpus()
  return {
    cores: cpu.cores,
    memoryLimitBytes: cpu.memoryLimitBytes,
    gpus: gpus.length,
    gpuReason: reason,
  }
}

/** System RAM as it is now. */
export function readMemory(native: NativeAddon): SystemMemory {
  const { memoryLimitBytes, memoryAvailableBytes } = native.probeCpu()
  return { limitBytes: memoryLimitBytes, availableBytes: memoryAvailableBytes }
}

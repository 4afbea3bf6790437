import type { NativeAddon, NativeCpu } from '../binding.ts'
import { type CalibrationKey, defaultCalibration, readCalibration, readDiskRate } from '../plan/calibration.ts'
import type { SystemMemory } from '../plan/memory.ts'
import type { Machine, PlannedDevice } from '../plan/plan.ts'
import { cacheFolder } from './cache.ts'

/** What plans need to know of this machine: what it has, and what was measured on it before. */
export function readMachine(native: NativeAddon, { gpus, reason, lost = false } = native.probeGpus()): Machine {
  const cpu = native.probeCpu()
  const calibrationOf = (gpu: string, link: string) =>
    readCalibration(calibrationKey(native.version, gpu, cpu)) ?? defaultCalibration({ link, cores: cpu.cores, gpu })
  const folder = cacheFolder(true)
  const disk = folder === undefined ? undefined : readDiskRate(folder)
  return {
    cores: cpu.cores,
    ...(disk === undefined ? {} : { diskBytesPerSecond: disk }),
    memoryLimitBytes: cpu.memoryLimitBytes,
    memoryAvailableBytes: cpu.memoryAvailableBytes,
    gpus: gpus.map(({ name, link, memoryBytes, memoryFreeBytes }) => {
      return { name, memoryBytes, memoryFreeBytes, calibration: calibrationOf(name, link) }
    }),
    gpuReason: reason,
    calibration: calibrationOf(gpus[0]?.name ?? '', gpus[0]?.link ?? ''),
    gpuLost: lost,
  }
}

/** Bytes of a GPU that budgets are shares of: those that are free, and the plan's own. */
export function gpuMemoryFor(
  native: NativeAddon,
  { device, vramBytes }: Pick<PlannedDevice, 'device' | 'vramBytes'>,
): number {
  if (device === 'cpu') return native.probeCpu().memoryAvailableBytes
  const gpu = native.probeGpus().gpus[Number(device.slice('cuda:'.length))]
  return (gpu?.memoryFreeBytes ?? 0) + vramBytes
}

/** What a calibration is kept under. */
export function calibrationKey(version: string, gpu: string, cpu: NativeCpu): CalibrationKey {
  return { gpu, cpu: cpu.model, cores: cpu.cores, version }
}

/** System RAM as it is now. */
export function readMemory(native: NativeAddon): SystemMemory {
  const { memoryLimitBytes, memoryAvailableBytes } = native.probeCpu()
  return { limitBytes: memoryLimitBytes, availableBytes: memoryAvailableBytes }
}

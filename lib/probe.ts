import { existsSync } from 'node:fs'
import { z } from 'zod'
import { addon, type NativeCpu, type NativeGpu } from './binding.ts'
import { MillraceError } from './errors.ts'
import { validate } from './options/validate.ts'

export interface ProbeOptions {
  /** Also measure how fast all cores together read system memory: takes about a second and up to 1 GiB. */
  dramBandwidth?: boolean | undefined
}

export interface CpuReport extends NativeCpu {
  /** Bytes a second, if asked for: the best of three passes over far more than the caches hold. */
  dramReadBytesPerSecond?: number
}

export type GpuReport = NativeGpu

export interface ProbeReport {
  /** Of the native addon. */
  version: string
  /** 'linux-x64', 'linux-arm64'. */
  platform: string
  cpu: CpuReport
  /** Bytes of weights that this process holds in system RAM: of all models and threads, shared ones counted once. */
  weightBytes: number
  gpus: GpuReport[]
  /** Why there are no GPUs; absent if there are. */
  gpuReason?: string
}

const probeOptions = z.strictObject({ dramBandwidth: z.boolean().optional() })

/**
 * What this process may use of the machine. Loads no model and takes no GPU memory.
 *
 * @throws MillraceError PLATFORM_UNSUPPORTED, ADDON_NOT_BUILT, INVALID_ARGUMENT; OUT_OF_MEMORY of the measurement.
 */
export async function probe(options: ProbeOptions = {}): Promise<ProbeReport> {
  const { dramBandwidth = false } = validate(probeOptions, options, 'probe options')
  const native = addon()
  const cpu: CpuReport = native.probeCpu()
  if (dramBandwidth) {
    try {
      cpu.dramReadBytesPerSecond = await native.measureDramBandwidth(cpu.cores)
    } catch (error) {
      throw MillraceError.fromNative(error)
    }
  }
  const { gpus, reason } = native.probeGpus()
  return {
    version: native.version,
    platform: `${process.platform}-${process.arch}`,
    cpu,
    weightBytes: native.weightBytes(),
    gpus,
    ...(gpus.length === 0 ? { gpuReason: explainNoGpu(reason, hasNvidiaGpu()) } : {}),
  }
}

/** A build without CUDA beside a GPU is a mistake that nothing else would tell. */
export function explainNoGpu(reason: string, hasGpu: boolean): string {
  if (!hasGpu || !reason.startsWith('this build has no CUDA backend')) return reason
  return 'this build has no CUDA backend, and this machine has a GPU: `MILLRACE_CUDA=ON npx millrace build` compiles it (with the CUDA toolkit 12 or newer), and the package from npm has it'
}

/** By the driver's own files: of a machine, of a container with its devices, of WSL2. */
export function hasNvidiaGpu(): boolean {
  return ['/proc/driver/nvidia/version', '/dev/nvidiactl', '/usr/lib/wsl/lib/libcuda.so.1'].some(existsSync)
}

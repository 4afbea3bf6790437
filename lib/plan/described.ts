/** GPUs and machines that are not here, by what their data sheets say: for plans alone. */
import { z } from 'zod'
import { integer, parseBytes } from '../options/validate.ts'
import { defaultCalibration, MEASURED_GPU } from './calibration.ts'
import type { Machine, MachineGpu } from './plan.ts'

export interface DescribedGpu {
  /** All of its memory: bytes, or a size such as '24GiB'. */
  memory: number | string
  /** 'PCIe 5.0 x16', or what copies over it reach: bytes a second, or as '25GB'. Default 'PCIe 4.0 x16'. */
  link?: number | string | undefined
  /** Of its memory, a second: bytes, or as '1008GB'. Default: that of an H100. */
  bandwidth?: number | string | undefined
}

const LINK_ERROR = "a link such as 'PCIe 4.0 x16', or what it reaches, such as '25GB'"
const LINK = /^PCIe ([1-6])\.0 x(1|2|4|8|16)$/
const positive = (error: string) =>
  z.union(
    [integer(1, Number.MAX_SAFE_INTEGER), z.string().refine((text) => parseBytes(text) !== undefined, { error })],
    {
      error,
    },
  )

export const describedGpu = z.strictObject({
  memory: positive("a size such as '24GiB'"),
  link: z.union([z.string().regex(LINK), positive(LINK_ERROR)], { error: LINK_ERROR }).optional(),
  bandwidth: positive("bytes a second, or a size such as '1008GB'").optional(),
})

/** What is not named is as it is here. */
export interface DescribedMachine {
  /** Its GPU; false: none. */
  gpu?: DescribedGpu | false | undefined
  cores?: number | undefined
  /** RAM that a process may use: bytes, or a size. */
  ram?: number | string | undefined
  /** Of RAM, read by all cores: bytes a second, or as '60GB'. Default: by the cores. */
  dram?: number | string | undefined
  /** Of the disk with the models: bytes a second, or as '5GB'. Without it plans say nothing of the time to load, and guess what reading weights that stay there takes. */
  disk?: number | string | undefined
}

const rate = positive("bytes a second, or a size such as '60GB'")
export const describedMachine = z.strictObject({
  gpu: z.union([z.literal(false), describedGpu], { error: 'a described GPU, or false' }).optional(),
  cores: integer(1, 1024).optional(),
  ram: positive("a size such as '64GiB'").optional(),
  dram: rate.optional(),
  disk: rate.optional(),
})

/** The machine as described, and for the rest as `here` is. */
export function machineOf(described: DescribedMachine, here: Machine): Machine {
  const cores = described.cores ?? here.cores
  const ram = described.ram === undefined ? undefined : bytesOf(described.ram)
  const dram = described.dram === undefined ? Number.POSITIVE_INFINITY : bytesOf(described.dram)
  const limited = <T extends Machine['calibration']>(calibration: T): T => {
    if (described.cores === undefined && described.dram === undefined) return calibration
    const guess = defaultCalibration({ link: '', cores }).cpu
    // Cores that read alone do so no faster than their memory allows.
    const bytesPerSecond = guess.bytesPerSecond.map((each) => Math.min(each, dram))
    return { ...calibration, calibrated: false, cpu: { ...guess, bytesPerSecond } }
  }
  const gpus = described.gpu === undefined ? here.gpus : described.gpu === false ? [] : [gpuOf(described.gpu, cores)]
  return {
    ...here,
    cores,
    ...(ram === undefined ? {} : { memoryLimitBytes: ram, memoryAvailableBytes: ram }),
    gpus: gpus.map((gpu) => ({ ...gpu, calibration: limited(gpu.calibration) })),
    ...(described.gpu === undefined
      ? {}
      : { gpuReason: gpus.length > 0 ? '' : 'the described machine has none', gpuLost: false }),
    calibration: limited(here.calibration),
    ...(described.disk === undefined ? {} : { diskBytesPerSecond: bytesOf(described.disk) }),
  }
}

/** What CUDA takes for itself. */
const CONTEXT_BYTES = 512 * 2 ** 20

export function gpuOf({ memory, link = 'PCIe 4.0 x16', bandwidth }: DescribedGpu, cores: number): MachineGpu {
  const memoryBytes = bytesOf(memory)
  const named = typeof link === 'string' && LINK.test(link)
  const byName = defaultCalibration({ link: named ? link : '', cores })
  const guess = named ? byName : { ...byName, link: { ...byName.link, bytesPerSecond: bytesOf(link) } }
  // Weights, keys and values are read as fast as the memory allows; arithmetic is taken to grow with it.
  const share = bandwidth === undefined ? 1 : bytesOf(bandwidth) / MEASURED_GPU.memoryBytesPerSecond
  const slower = (curve: readonly number[]) => curve.map((seconds) => seconds / share)
  const units = ({ unitSeconds, secondsPerByte }: (typeof guess)['launched']) => {
    return { unitSeconds, secondsPerByte: slower(secondsPerByte) }
  }
  return {
    name: `a GPU with ${memory}${bandwidth === undefined ? '' : `, ${bandwidth}/s`}, ${named ? link : `a link of ${link}/s`}`,
    memoryBytes,
    memoryFreeBytes: Math.max(0, memoryBytes - CONTEXT_BYTES),
    calibration: {
      ...guess,
      launched: units(guess.launched),
      replayed: units(guess.replayed),
      head: { float: slower(guess.head.float), q4: slower(guess.head.q4) },
      kvBytesPerSecond: guess.kvBytesPerSecond * share,
      prefill: {
        flopsPerSecond: guess.prefill.flopsPerSecond * share,
        attentionFlopsPerSecond: guess.prefill.attentionFlopsPerSecond * share,
      },
    },
  }
}

const bytesOf = (size: number | string) => (typeof size === 'number' ? size : parseBytes(size)!)

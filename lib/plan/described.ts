/** A GPU that is not here, by what its data sheet says: for plans alone. */
import { z } from 'zod'
import { integer, parseBytes } from '../options/validate.ts'
import { defaultCalibration, MEASURED_GPU } from './calibration.ts'
import type { MachineGpu } from './plan.ts'

export interface DescribedGpu {
  /** All of its memory: bytes, or a size such as '24GiB'. */
  memory: number | string
  /** 'PCIe 5.0 x16'. Default 'PCIe 4.0 x16'. */
  link?: string | undefined
  /** Of its memory, a second: bytes, or as '1008GB'. Default: that of an H100. */
  bandwidth?: number | string | undefined
}

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
  link: z.string().regex(LINK, { error: "a link such as 'PCIe 4.0 x16'" }).optional(),
  bandwidth: positive("bytes a second, or a size such as '1008GB'").optional(),
})

/** What CUDA takes for itself. */
const CONTEXT_BYTES = 512 * 2 ** 20

export function gpuOf({ memory, link = 'PCIe 4.0 x16', bandwidth }: DescribedGpu, cores: number): MachineGpu {
  const memoryBytes = bytesOf(memory)
  const guess = defaultCalibration({ link, cores })
  // Weights, keys and values are read as fast as the memory allows; arithmetic is taken to grow with it.
  const share = bandwidth === undefined ? 1 : bytesOf(bandwidth) / MEASURED_GPU.memoryBytesPerSecond
  const slower = (curve: readonly number[]) => curve.map((seconds) => seconds / share)
  const units = ({ unitSeconds, secondsPerByte }: (typeof guess)['launched']) => {
    return { unitSeconds, secondsPerByte: slower(secondsPerByte) }
  }
  return {
    name: `a GPU with ${memory}${bandwidth === undefined ? '' : `, ${bandwidth}/s`}, ${link}`,
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

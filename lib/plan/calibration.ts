/**
 * What a machine does with weights, in figures that predictions are made of: measured by calibrate(), kept in a file of
 * the user's cache folder, guessed where nobody has measured.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { z } from 'zod'

/** Rows of a pass at which curves are known; between them they are straight, beyond them constant or proportional. */
export const ROWS = [1, 2, 4, 8, 16, 32, 64] as const

/** One value for each of ROWS. */
export type Curve = readonly number[]

/** Time of a unit on the GPU: `unitSeconds` + bytes x `secondsPerByte`. */
export interface UnitCurves {
  unitSeconds: Curve
  secondsPerByte: Curve
}

export interface Calibration {
  /** False: guessed from what is known of the link and the cores. */
  calibrated: boolean
  /** Copies into the ring, bytes a second; `besideCpu`: the share that is left while the CPU reads weights too. */
  link: { bytesPerSecond: number; besideCpu: number }
  /** Rows of a pass go to the CPU and back. */
  hopSeconds: number
  /** Of a step, beside its units. */
  stepSeconds: Curve
  /** Feed-forwards on the CPU, bytes of weights a second; `besideLink`: the share that is left while the link copies. */
  cpu: { threads: number; bytesPerSecond: Curve; besideLink: number }
  /** Units of a pass that is launched kernel by kernel, and of one that is replayed as a graph. */
  launched: UnitCurves
  replayed: UnitCurves
  /** The head, by its weights: seconds a byte. */
  head: { float: Curve; q4: Curve }
  /** Keys and values that attention reads, bytes a second. */
  kvBytesPerSecond: number
  /** Long prompts: multiply-adds count two. */
  prefill: { flopsPerSecond: number; attentionFlopsPerSecond: number }
}

const positive = z.number().positive().finite()
const curve = z.array(z.number().nonnegative().finite()).length(ROWS.length)
const rates = z.array(positive).length(ROWS.length)
const units = z.object({ unitSeconds: curve, secondsPerByte: rates })
const share = positive.max(1)
const schema: z.ZodType<Calibration> = z.object({
  calibrated: z.literal(true),
  link: z.object({ bytesPerSecond: positive, besideCpu: share }),
  hopSeconds: z.number().nonnegative().finite(),
  stepSeconds: curve,
  cpu: z.object({ threads: positive, bytesPerSecond: rates, besideLink: share }),
  launched: units,
  replayed: units,
  head: z.object({ float: rates, q4: rates }),
  kvBytesPerSecond: positive,
  prefill: z.object({ flopsPerSecond: positive, attentionFlopsPerSecond: positive }),
})

/** Which machine a calibration is of. Another version of the package has other kernels. */
export interface CalibrationKey {
  gpu: string
  cpu: string
  cores: number
  version: string
}

const nameOf = ({ gpu, cpu, cores, version }: CalibrationKey) => [gpu, cpu, `${cores} cores`, version].join(' | ')

export function calibrationPath(environment: NodeJS.ProcessEnv = process.env): string {
  const cache = environment.XDG_CACHE_HOME
  // Relative paths are to be ignored, says the XDG specification.
  return join(cache?.startsWith('/') ? cache : join(homedir(), '.cache'), 'millrace', 'calibration.json')
}

/** undefined where the file is missing, damaged, or knows nothing of this machine: planning never fails for want of it. */
export function readCalibration(key: CalibrationKey, path = calibrationPath()): Calibration | undefined {
  const found = schema.safeParse(readEntries(path)[nameOf(key)])
  return found.success ? found.data : undefined
}

/** Keeps what the file says of other machines. Throws what the file system does, and for figures that are none. */
export function writeCalibration(key: CalibrationKey, calibration: Calibration, path = calibrationPath()): void {
  const { success } = schema.safeParse(calibration)
  if (!success) throw new Error('the measured passes give no figures that plans could use')
  const entries = { ...readEntries(path), [nameOf(key)]: calibration }
  mkdirSync(dirname(path), { recursive: true })
  // Whoever reads meanwhile finds the old file or the new one.
  const next = `${path}.${process.pid}`
  writeFileSync(next, `${JSON.stringify(entries, null, 2)}\n`)
  renameSync(next, path)
}

function readEntries(path: string): Record<string, unknown> {
  try {
    const entries: unknown = JSON.parse(readFileSync(path, 'utf8'))
    return typeof entries === 'object' && entries !== null && !Array.isArray(entries) ? { ...entries } : {}
  } catch {
    return {}
  }
}

/**
 * Guessed: the link by its generation and lanes ('PCIe 5.0 x16'), the CPU by its cores; the GPU is taken for one of the
 * class of an H100, since only links and CPUs differ enough to change what is placed where.
 */
export function defaultCalibration({ link, cores }: { link: string; cores: number }): Calibration {
  return {
    ...MEASURED,
    calibrated: false,
    link: { ...MEASURED.link, bytesPerSecond: linkBytesPerSecond(link) },
    cpu: {
      ...MEASURED.cpu,
      threads: cores,
      bytesPerSecond: MEASURED.cpu.bytesPerSecond.map((rate) => rate * (cores / MEASURED.cpu.threads) ** 0.65),
    },
  }
}

function linkBytesPerSecond(link: string): number {
  const [, generation, lanes] = /^PCIe (\d)\.\d x(\d+)$/.exec(link) ?? []
  if (generation === undefined) return PCIE_LANE * 2 ** 3 * 16 * 0.5
  return PCIE_LANE * 2 ** (Number(generation) - 1) * Number(lanes)
}

/** Copied over one lane of the first generation; each generation doubles it. An H100's sixteen of the fifth: 52 GB/s. */
const PCIE_LANE = 0.203e9

/** One H100 80GB HBM3 beside 16 cores of a Xeon. */
const MEASURED: Calibration = {
  calibrated: true,
  link: { bytesPerSecond: 52e9, besideCpu: 0.94 },
  hopSeconds: 30e-6,
  stepSeconds: [35e-6, 37e-6, 41e-6, 46e-6, 52e-6, 63e-6, 96e-6],
  cpu: { threads: 16, bytesPerSecond: [95e9, 95e9, 79e9, 50e9, 30e9, 18e9, 8.9e9], besideLink: 0.65 },
  launched: {
    unitSeconds: [11.6e-6, 11.6e-6, 11.6e-6, 11.6e-6, 14e-6, 17.7e-6, 17.7e-6],
    secondsPerByte: [3.5e-13, 3.7e-13, 3.7e-13, 4e-13, 4.9e-13, 6.4e-13, 1.4e-12],
  },
  replayed: {
    unitSeconds: [9e-6, 9e-6, 9e-6, 9e-6, 11.9e-6, 15e-6, 15e-6],
    secondsPerByte: [3.5e-13, 3.6e-13, 3.6e-13, 4e-13, 4.9e-13, 6.4e-13, 1.4e-12],
  },
  head: {
    float: [3.3e-13, 3.3e-13, 3.4e-13, 3.4e-13, 3.4e-13, 3.6e-13, 6.4e-13],
    q4: [3.4e-13, 3.4e-13, 3.4e-13, 3.7e-13, 4.8e-13, 6.7e-13, 1.4e-12],
  },
  kvBytesPerSecond: 2.2e12,
  prefill: { flopsPerSecond: 610e12, attentionFlopsPerSecond: 250e12 },
}

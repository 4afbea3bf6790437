/**
 * What a machine does with weights, in figures that predictions are made of: measured by calibrate(), kept in a file of
 * the user's cache folder, guessed where nobody has measured.
 */
import { readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { makeFolder, replaceFile, userCacheFolder } from '../files.ts'

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
  /** Rows of a pass go to the CPU and back; `besideLink`: the share of its speed that is left while the link copies. */
  hop: { seconds: number; besideLink: number }
  /** Of a step, beside its units. */
  stepSeconds: Curve
  /**
   * Feed-forwards on the CPU, bytes of weights a second; `besideLink`: the share that is left while the link copies, and
   * that of passes of more than 4 rows, which the CPU's arithmetic bounds.
   */
  cpu: { threads: number; bytesPerSecond: Curve; besideLink: number; besideLinkOfMany: number }
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
  hop: z.object({ seconds: z.number().nonnegative().finite(), besideLink: share }),
  stepSeconds: curve,
  cpu: z.object({ threads: positive, bytesPerSecond: rates, besideLink: share, besideLinkOfMany: share }),
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

/** undefined where the user has no home. */
export function calibrationPath(environment: NodeJS.ProcessEnv = process.env): string | undefined {
  const { path } = userCacheFolder(environment)
  return path && join(path, 'millrace', 'calibration.json')
}

/** undefined where the file is missing, damaged, or knows nothing of this machine: planning never fails for want of it. */
export function readCalibration(key: CalibrationKey, path = calibrationPath()): Calibration | undefined {
  if (path === undefined) return undefined
  const found = schema.safeParse(readEntries(path)[nameOf(key)])
  return found.success ? found.data : undefined
}

/** Keeps what the file says of other machines. Rejects with what the file system throws. */
export async function writeCalibration(key: CalibrationKey, calibration: Calibration, path: string): Promise<void> {
  const { success } = schema.safeParse(calibration)
  if (!success) throw new Error('the measured passes give no figures that plans could use')
  await writeEntry(nameOf(key), calibration, path)
}

const diskName = (folder: string) => `disk | ${folder}`
const diskSchema = z.object({ bytesPerSecond: positive })

/** Bytes a second of reads of files in the folder, past the page cache; undefined where nobody has measured. */
export function readDiskRate(folder: string, path = calibrationPath()): number | undefined {
  if (path === undefined) return undefined
  const found = diskSchema.safeParse(readEntries(path)[diskName(folder)])
  return found.success ? found.data.bytesPerSecond : undefined
}

/** Rejects with what the file system throws. */
export function writeDiskRate(folder: string, bytesPerSecond: number, path: string): Promise<void> {
  return writeEntry(diskName(folder), { bytesPerSecond }, path)
}

async function writeEntry(name: string, entry: unknown, path: string): Promise<void> {
  const entries = { ...readEntries(path), [name]: entry }
  await makeFolder(dirname(path))
  await replaceFile(path, `${JSON.stringify(entries, null, 2)}\n`)
}

function readEntries(path: string): Record<string, unknown> {
  try {
    if (!statSync(path).isFile()) return {} // a pipe would be waited for
    const entries: unknown = JSON.parse(readFileSync(path, 'utf8'))
    return typeof entries === 'object' && entries !== null && !Array.isArray(entries) ? { ...entries } : {}
  } catch {
    return {}
  }
}

/**
 * Guessed: the link by its generation and lanes ('PCIe 5.0 x16'), the CPU by its cores; the GPU by its name, or taken for
 * one of the class of an H100, since only links and CPUs differ enough to change what is placed where.
 */
export function defaultCalibration(of: { link: string; cores: number; gpu?: string }): Calibration {
  const { link, cores, gpu = '' } = of
  return {
    ...MEASURED,
    ...(/\bH200\b/.test(gpu) ? MEASURED_H200 : {}),
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

/** Copied over one lane of the first generation; each generation doubles it. An H100's sixteen of the fifth: 53.5 GB/s. */
const PCIE_LANE = 0.209e9

/** That of the figures below. */
export const MEASURED_GPU = { memoryBytesPerSecond: 3.35e12 }

/**
 * One H200: resident passes of Llama-3-8B's, TinyLlama's and Llama-2-70B's shapes in 4 bits g128 with a 4-bit head,
 * figures of docs/PERFORMANCE.md, 2026-11-30. At 2 and 4 rows, of float heads beyond one and of steps: an H100's, scaled.
 */
const MEASURED_H200: Partial<Calibration> = {
  stepSeconds: [30e-6, 34e-6, 36e-6, 40e-6, 48e-6, 60e-6, 86e-6],
  replayed: {
    unitSeconds: [8e-6, 8.6e-6, 9e-6, 9.2e-6, 10.5e-6, 13e-6, 13.5e-6],
    secondsPerByte: [2.4e-13, 2.6e-13, 2.65e-13, 2.79e-13, 3e-13, 4.75e-13, 6.3e-13],
  },
  head: {
    float: [2.29e-13, 2.3e-13, 2.35e-13, 2.4e-13, 2.5e-13, 2.7e-13, 4e-13],
    q4: [2.36e-13, 2.4e-13, 2.5e-13, 2.7e-13, 4e-13, 4.7e-13, 5.9e-13],
  },
  kvBytesPerSecond: 4.1e12,
}

/** One H100 80GB HBM3 beside 16 cores of a Xeon. */
const MEASURED: Calibration = {
  calibrated: true,
  link: { bytesPerSecond: 53.5e9, besideCpu: 0.86 },
  hop: { seconds: 35e-6, besideLink: 0.5 },
  stepSeconds: [32e-6, 37e-6, 39e-6, 43e-6, 52e-6, 65e-6, 93e-6],
  cpu: {
    threads: 16,
    bytesPerSecond: [100e9, 100e9, 84e9, 51e9, 31e9, 17e9, 9.2e9],
    besideLink: 0.85,
    besideLinkOfMany: 0.68,
  },
  launched: {
    unitSeconds: [10e-6, 10.3e-6, 11.4e-6, 11.4e-6, 13.3e-6, 16.3e-6, 16.6e-6],
    secondsPerByte: [3.1e-13, 3.5e-13, 3.5e-13, 4e-13, 5.4e-13, 7.4e-13, 1.06e-12],
  },
  replayed: {
    unitSeconds: [8.7e-6, 9.6e-6, 10e-6, 10e-6, 11.5e-6, 14.5e-6, 14.5e-6],
    secondsPerByte: [2.95e-13, 3.2e-13, 3.2e-13, 3.4e-13, 5.2e-13, 7.2e-13, 1.06e-12],
  },
  head: {
    float: [3.14e-13, 3.15e-13, 3.2e-13, 3.23e-13, 3.33e-13, 3.56e-13, 4.9e-13],
    q4: [2.8e-13, 2.8e-13, 3e-13, 3.2e-13, 4.8e-13, 6.4e-13, 7.5e-13],
  },
  kvBytesPerSecond: 2.2e12,
  prefill: { flopsPerSecond: 610e12, attentionFlopsPerSecond: 250e12 },
}

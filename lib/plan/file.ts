/** Which units stay in the packed file where RAM has no room for all of them, and what reading them takes. */
import type { Home, NativeUnit } from '../binding.ts'

/** Units are read into whole pages. */
const PAGE = 4096
/** Largest units that a window holds: one in use, one whole, one being read; fewer where RAM is short. */
const WINDOW_UNITS = [3, 2, 1]

interface Filed extends NativeUnit {
  home: Home
  device: string
}

export interface FileUnits {
  inFile: boolean[]
  /** Of RAM, for each of `devices`; pinned for a GPU. */
  windowBytes: number[]
}

/**
 * Units whose slabs stay in the file, so that at least `excess` bytes of RAM are left free; undefined where that cannot
 * be. Units that a GPU has for good go first, as passes read nothing of them; then others, evenly over the pass, so that
 * the disk reads while what is in RAM is computed. Not the head, whose norm embeddings read in RAM; nor units that a CPU
 * computes beside a GPU, and experts on demand, which are read where they lie.
 */
export function unitsInFile(
  units: readonly Filed[],
  devices: readonly string[],
  excess: number,
): FileUnits | undefined {
  const may = units.map(({ kind, home }) => kind !== 'head' && home !== 'cpu' && home !== 'demand')
  const restsOnGpu = units.map(({ home, device }, index) => may[index] && home === 'resident' && device !== 'cpu')
  for (const count of WINDOW_UNITS) {
    const windowBytes = devices.map((device) => {
      const own = units.filter((unit, index) => may[index] && unit.device === device)
      const largest = Math.max(0, ...own.map(({ bytes }) => Math.ceil(bytes / PAGE) * PAGE))
      const windows = windowsOf(units, device)
      return { bytes: count * largest, all: windows * count * largest }
    })
    let needed = excess + windowBytes.reduce((sum, { all }) => sum + all, 0)
    const inFile = units.map(() => false)
    for (const [index, unit] of units.entries()) {
      if (!restsOnGpu[index] || needed <= 0) continue
      inFile[index] = true
      needed -= unit.bytes
    }
    const rest = units.filter((_, index) => may[index] && !inFile[index])
    const total = rest.reduce((sum, { bytes }) => sum + bytes, 0)
    if (needed > total) continue
    let [due, chosen] = [0, 0]
    for (const [index, unit] of units.entries()) {
      if (needed <= 0 || !may[index] || inFile[index]) continue
      due += (unit.bytes * needed) / total
      if (chosen >= due) continue
      inFile[index] = true
      chosen += unit.bytes
    }
    return { inFile, windowBytes: windowBytes.map(({ bytes }) => bytes) }
  }
  return undefined
}

/** What a pass reads: all that stays in the file but what a GPU has for good. */
export function fileBytesPerPass(units: readonly (Filed & { inFile?: boolean })[]): number {
  return units.reduce(
    (sum, { inFile, home, device, bytes }) => sum + (inFile && !(home === 'resident' && device !== 'cpu') ? bytes : 0),
    0,
  )
}

/** How many windows a device has where it reads: on the CPU units that are computed where they were read have their own. */
export function windowsOf(units: readonly Pick<Filed, 'home' | 'device' | 'kind'>[], device: string): number {
  if (device !== 'cpu') return 1
  const own = units.filter((unit) => unit.device === device && unit.kind !== 'head')
  return Math.min(2, new Set(own.map(({ home }) => home)).size)
}

/** Mixtures of experts that are on demand: what of them rests on the device, and how often a pass finds an expert there. */
import type { Home, NativeUnit } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { PlanOptions } from '../options/model.ts'
import { parseBytes } from '../options/validate.ts'

/** Of a plan whose experts are on demand. */
export interface PlannedExperts {
  /** Experts that fit the cache at once, and of all mixtures. */
  frames: number
  count: number
  frameBytes: number
  /** Of the experts of a pass, those that are found in the cache where tokens choose them evenly. */
  hitRate: number
  /** Where the CPU answers some of those that are not found. */
  cpu?: PlannedAnswers
}

/** The threads that answer, and by what experts are shared out: what the GPU reads over the link meanwhile, what the CPU reads, and how long a task is on its way. */
export interface PlannedAnswers {
  threads: number
  linkBytesPerSecond: number
  bytesPerSecond: number
  hopSeconds: number
}

export const isMixture = ({ experts }: Pick<NativeUnit, 'experts'>): boolean => experts !== undefined

/** Of a unit at that home: bytes in device memory for good. */
export function ownBytes({ bytes, experts }: Pick<NativeUnit, 'bytes' | 'experts'>, home: Home): number {
  return home === 'demand' && experts ? bytes - experts.bytes : bytes
}

export const demandHomes = (units: readonly NativeUnit[]): Home[] =>
  units.map((unit) => (isMixture(unit) ? 'demand' : 'resident'))

/** Throws INVALID_ARGUMENT where options ask for experts on demand that there are not, or otherwise than they can be. */
export function checkExperts(units: readonly NativeUnit[], devices: number, options: PlanOptions): void {
  const { experts = 'auto', expertCache, expertCpu = 'auto', placement = 'auto' } = options
  const refuse = (message: string, remedy: string) => new MillraceError('INVALID_ARGUMENT', { message, remedy })
  if (expertCache !== undefined && experts === 'resident') {
    throw refuse('expertCache is for experts on demand, and these are to be resident', 'leave out one of the two')
  }
  if (expertCpu === true && experts !== 'demand') {
    throw refuse('the CPU answers experts that are on demand, and these are not said to be', "pass experts: 'demand'")
  }
  if (experts !== 'demand') return
  if (!units.some(isMixture)) {
    throw refuse('the model has no experts that could be on demand', "leave out experts, or pass 'auto'")
  }
  if (placement !== 'auto') {
    throw refuse('experts on demand have homes of their own, and placement gives them others', 'leave out placement')
  }
  if (devices > 1) throw refuse('experts on demand are on one device', 'name one device')
}

/** Bytes of all experts of the units on demand. */
function expertBytes(units: readonly NativeUnit[], homes: readonly Home[]): number {
  return units.reduce((sum, { experts }, index) => sum + (experts && homes[index] === 'demand' ? experts.bytes : 0), 0)
}

/** Of device memory, of which `room` is left: what is asked for, or as much as is of use. */
export function cacheBytes(
  units: readonly NativeUnit[],
  homes: readonly Home[],
  { expertCache }: PlanOptions,
  room: number,
): number {
  const all = expertBytes(units, homes)
  const asked = typeof expertCache === 'string' ? parseBytes(expertCache)! : expertCache
  return Math.min(asked ?? Math.max(0, room), all)
}

export function plannedExperts(
  units: readonly NativeUnit[],
  homes: readonly Home[],
  cache: number,
  cpu?: PlannedAnswers,
): PlannedExperts | undefined {
  const own = units.flatMap(({ experts }, index) => (experts && homes[index] === 'demand' ? [experts] : []))
  if (own.length === 0) return undefined
  const count = own.reduce((sum, { count }) => sum + count, 0)
  const frameBytes = Math.max(...own.map(({ bytes, count }) => Math.ceil(bytes / count)))
  const frames = Math.min(count, Math.floor(cache / frameBytes))
  return { frames, count, frameBytes, hitRate: frames / count, ...(cpu ? { cpu } : {}) }
}

/** Placement policy: which unit rests where. */
import type { Home, NativeUnit } from '../binding.ts'
import type { PlanOptions } from '../options/model.ts'
import { invalidArgument, parseBytes } from '../options/validate.ts'
import type { Calibration } from './calibration.ts'
import { isMixture, ownBytes } from './experts.ts'
import { addUnit, boundSeconds, type DecodeRows, type PassParts, passParts, simulatePass } from './predict.ts'
import { layersOf } from './program.ts'

export interface Placed {
  homes: Home[]
  /** 0 if nothing passes through the ring. */
  ringBytes: number
  /** On the GPU, with what allocations round up. */
  residentBytes: number
}

/** Ring of the default, in the largest units of the layers: beside the CPU's units the link runs ahead further. */
const RING_UNITS = { alone: 2, besideCpu: 4 }
/** Those that 'auto' tries beside the CPU: what a smaller ring leaves serves residency. */
const RINGS_BESIDE_CPU = [2, 3, 4]
/** The best by their bound, of each ring, are played through. */
const PLAYED = 6
/** The CPU's cores are not taken for less than this. */
const LEAST_GAIN_OF_CPU = 1.05
/** Device memory comes in pieces of so many bytes. */
const ALLOCATION = 2 ** 21

/** So many of each, in an order that has them all as evenly as they go. */
export function spread<Name extends string>(counts: Readonly<Record<Name, number>>): Name[] {
  const names = (Object.keys(counts) as Name[]).filter((name) => counts[name] > 0)
  const total = names.reduce((sum, name) => sum + counts[name], 0)
  const given = new Map(names.map((name) => [name, 0]))
  return Array.from({ length: total }, (_, place) => {
    // Of those that are due within the next place, the one whose turn ends first: no prefix is off by one or more.
    let best: Name | undefined
    let bestEnd = Number.POSITIVE_INFINITY
    for (const name of names) {
      const next = given.get(name)! + 1
      if (next > counts[name]) continue
      const begins = ((next - 1) * total) / counts[name]
      const ends = (next * total) / counts[name]
      if (begins < place + 1 && ends < bestEnd) [best, bestEnd] = [name, ends]
    }
    given.set(best!, given.get(best!)! + 1)
    return best!
  })
}

/** What passes through the ring. */
interface InRing {
  /** Of the layers: how many units, and the largest of them. */
  layerUnits: number
  largestOfLayers: number
  /** 0: the head does not. */
  headBytes: number
  besideCpu: boolean
}

/** Prompts need the weights of the CPU's units in the ring, too; shared units pass through it while they have no room. */
function inRing(units: readonly NativeUnit[], homes: readonly Home[], gpu: boolean): InRing {
  const found: InRing = { layerUnits: 0, largestOfLayers: 0, headBytes: 0, besideCpu: gpu && homes.includes('cpu') }
  for (const [index, { kind, bytes }] of units.entries()) {
    // Prompts bring units on demand whole.
    if (homes[index] === 'resident' || (homes[index] === 'cpu' && !gpu)) continue
    if (kind === 'head') found.headBytes = bytes
    else found.layerUnits++
    if (kind !== 'head') found.largestOfLayers = Math.max(found.largestOfLayers, bytes)
  }
  return found
}

/** Bytes of the ring; 0 if nothing passes through it. Throws INVALID_ARGUMENT. */
function sizeRing(
  { layerUnits, largestOfLayers, headBytes, besideCpu }: InRing,
  ring: PlanOptions['ring'],
  units = besideCpu ? RING_UNITS.besideCpu : RING_UNITS.alone,
): number {
  const largest = Math.max(largestOfLayers, headBytes)
  if (largest === 0) return 0
  if (ring === undefined) {
    const count = Math.min(layerUnits, units)
    // A streamed head is as large as several units of the layers: room for it and for one of them is enough.
    return Math.max(count * largestOfLayers, headBytes > 0 ? largest + largestOfLayers : 0)
  }
  if (typeof ring === 'number') return Math.min(ring, layerUnits + (headBytes > 0 ? 1 : 0)) * largest
  const bytes = parseBytes(ring)
  if (bytes === undefined) throw invalidArgument(`a number of units or a size such as '256MiB'`, 'ring', ring)
  if (bytes < largest) {
    throw invalidArgument(
      `at least the largest streamed unit (${largest} bytes)`,
      'ring',
      ring,
      'enlarge the ring; two units or more let copies overlap with computing',
    )
  }
  return bytes
}

export const allocated = (bytes: number) => Math.ceil(bytes / ALLOCATION) * ALLOCATION

/** `ringUnits`: where `ring` leaves the choice. */
export function place(
  units: readonly NativeUnit[],
  homes: Home[],
  ring: PlanOptions['ring'],
  gpu: boolean,
  ringUnits?: number,
): Placed {
  const own = units.flatMap((unit, index) => {
    const home = homes[index]!
    return home === 'resident' || home === 'demand' ? [allocated(ownBytes(unit, home))] : []
  })
  return {
    homes,
    ringBytes: sizeRing(inRing(units, homes, gpu), ring, ringUnits),
    residentBytes: gpu ? own.reduce((sum, bytes) => sum + bytes, 0) : 0,
  }
}

/** One home a unit, as the caller wants it: a word, an array of layers, or one of units, which is taken as it is. */
export function homesOf(
  units: readonly NativeUnit[],
  device: string,
  placement: Exclude<NonNullable<PlanOptions['placement']>, 'auto'>,
): Home[] {
  const layers = layersOf(units)
  if (typeof placement !== 'string' && placement.length === units.length) {
    const misplaced = units.findIndex((unit, index) => placement[index] === 'cpu' && unit.kind !== 'feedForward')
    if (device !== 'cpu' && misplaced >= 0) {
      throw invalidArgument(
        `'resident' or 'streamed' for ${units[misplaced]!.kind === 'head' ? 'the head' : units[misplaced]!.name} on ${device}`,
        `placement[${misplaced}]`,
        'cpu',
        'beside a GPU the CPU computes feed-forwards only: keys and values stay on the GPU',
      )
    }
    const dense = units.findIndex((unit, index) => placement[index] === 'demand' && !isMixture(unit))
    if (dense < 0) return [...placement]
    const { name } = units[dense]!
    throw invalidArgument(
      `'resident', 'streamed' or 'cpu' for ${name}`,
      `placement[${dense}]`,
      'demand',
      'it has no experts',
    )
  }
  if (typeof placement !== 'string' && placement.length !== layers) {
    throw invalidArgument(`one home a layer (${layers}) or a unit (${units.length})`, 'placement', placement)
  }
  return units.map(({ kind, layer, experts }) => {
    if (kind === 'head') return placement === 'shared' ? 'shared' : 'resident'
    const home = typeof placement === 'string' ? placement : placement[layer]!
    if (home === 'demand' && !experts) return 'resident'
    return home === 'cpu' && kind === 'attention' && device !== 'cpu' ? 'streamed' : home
  })
}

/** Where the head may be: a ring whose bytes were asked for has to hold it, or it stays. */
export function headHomes(
  units: readonly NativeUnit[],
  ring: PlanOptions['ring'],
): readonly ('resident' | 'streamed')[] {
  const holds = typeof ring !== 'string' || parseBytes(ring)! >= (units.at(-1)?.bytes ?? 0)
  return holds ? ['resident', 'streamed'] : ['resident']
}

/**
 * The fastest homes on a GPU whose ring and resident units take at most `room` bytes; undefined if none do. The head
 * rarely gains by being streamed, since the ring must be able to hold it. At most `mostOnCpu` units go to the CPU.
 */
export function fastestHomes(
  units: readonly NativeUnit[],
  ring: PlanOptions['ring'],
  room: number,
  decode: DecodeRows,
  calibration: Calibration,
  mostOnCpu = Number.POSITIVE_INFINITY,
): Placed | undefined {
  const all = place(
    units,
    units.map(() => 'resident' as const),
    ring,
    true,
  )
  if (all.residentBytes <= room) return all
  const rated: Rated[] = []
  for (const head of headHomes(units, ring)) {
    rated.push(...candidates(units, head, ring, room, decode, calibration, mostOnCpu))
  }
  rated.sort((a, b) => a.seconds - b.seconds)
  const best = (some: readonly Rated[]) => {
    const played = some.map((counts) => {
      const placed = place(units, homesFor(units, counts), ring, true, counts.ringUnits)
      const costed = units.map((unit, index) => ({ ...unit, home: placed.homes[index]! }))
      return { placed, seconds: simulatePass(costed, placed.ringBytes, decode, calibration) }
    })
    return played.reduce<(typeof played)[number] | undefined>(
      (best, next) => (best && best.seconds <= next.seconds ? best : next),
      undefined,
    )
  }
  const alone = best(rated.filter(({ cpu }) => cpu === 0).slice(0, 1))
  const besideCpu = best(
    RINGS_BESIDE_CPU.flatMap((count) =>
      rated.filter(({ cpu, ringUnits }) => cpu > 0 && ringUnits === count).slice(0, PLAYED),
    ),
  )
  const cpuPays = besideCpu && (!alone || besideCpu.seconds * LEAST_GAIN_OF_CPU < alone.seconds)
  return (cpuPays ? besideCpu : alone)?.placed
}

/** Numbers of layers: of resident attention, and of resident and CPU feed-forwards. The others are streamed. */
interface Counts {
  head: Home
  attention: number
  resident: number
  cpu: number
}

interface Rated extends Counts {
  ringUnits: number
  /** At least. */
  seconds: number
}

const counted = (units: readonly NativeUnit[], kind: NativeUnit['kind']) =>
  units.filter((unit) => unit.kind === kind).length

function homesFor(units: readonly NativeUnit[], { head, attention, resident, cpu }: Counts): Home[] {
  const [attentions, feedForwards] = [counted(units, 'attention'), counted(units, 'feedForward')]
  const ofAttention = spread({ resident: attention, cpu: 0, streamed: attentions - attention })
  const ofFeedForward = spread({ resident, cpu, streamed: feedForwards - cpu - resident })
  const taken = { attention: 0, feedForward: 0 }
  return units.map(({ kind }) =>
    kind === 'head' ? head : (kind === 'attention' ? ofAttention : ofFeedForward)[taken[kind]++]!,
  )
}

/** Every number of resident and of CPU feed-forwards, each with as much resident attention as then fits. */
function* candidates(
  units: readonly NativeUnit[],
  head: Home,
  ring: PlanOptions['ring'],
  room: number,
  decode: DecodeRows,
  calibration: Calibration,
  mostOnCpu: number,
): Generator<Rated> {
  const attentionUnits = units.filter((unit) => unit.kind === 'attention')
  const feedForwards = units.filter((unit) => unit.kind === 'feedForward')
  // There are thousands: what depends on one count alone is summed up once.
  const none = passParts([], decode, calibration)
  const headUnit = units.at(-1)!
  const headParts = summary([headUnit], [head], decode, calibration)
  const attention = Array.from({ length: attentionUnits.length + 1 }, (_, count) =>
    summary(
      attentionUnits,
      spread({ resident: count, cpu: 0, streamed: attentionUnits.length - count }),
      decode,
      calibration,
    ),
  )
  for (let cpu = 0; cpu <= Math.min(feedForwards.length, mostOnCpu); cpu++) {
    for (let resident = 0; resident <= feedForwards.length - cpu; resident++) {
      const homes = spread({ resident, cpu, streamed: feedForwards.length - cpu - resident })
      const feedForward = summary(feedForwards, homes, decode, calibration)
      for (const ringUnits of cpu === 0
        ? [RING_UNITS.alone]
        : ring === undefined
          ? RINGS_BESIDE_CPU
          : [RING_UNITS.besideCpu]) {
        const taken = (count: number) => {
          const inRing: InRing = {
            layerUnits: attention[count]!.ringed + feedForward.ringed,
            largestOfLayers: Math.max(attention[count]!.largest, feedForward.largest),
            headBytes: headParts.largest,
            besideCpu: cpu > 0,
          }
          const ringBytes = sizeRing(inRing, ring, ringUnits)
          return attention[count]!.resident + feedForward.resident + headParts.resident + ringBytes
        }
        if (taken(0) > room) break // so would be larger rings
        let [count, beyond] = [0, attentionUnits.length + 1]
        while (beyond - count > 1) {
          const middle = (count + beyond) >> 1
          if (taken(middle) <= room) count = middle
          else beyond = middle
        }
        const parts = [none, headParts.parts, attention[count]!.parts, feedForward.parts].reduce((a, b) => ({
          streamedBytes: a.streamedBytes + b.streamedBytes,
          gpuSeconds: a.gpuSeconds + b.gpuSeconds,
          cpuSeconds: a.cpuSeconds + b.cpuSeconds,
          hops: a.hops + b.hops,
        }))
        yield {
          head,
          attention: count,
          resident,
          cpu,
          ringUnits,
          seconds: boundSeconds(parts, decode.rows, calibration),
        }
      }
    }
  }
}

interface Summary {
  parts: PassParts
  /** Bytes that resident ones take; how many pass through the ring, and the largest of them. */
  resident: number
  ringed: number
  largest: number
}

function summary(
  units: readonly NativeUnit[],
  homes: readonly Home[],
  decode: DecodeRows,
  calibration: Calibration,
): Summary {
  const found: Summary = {
    parts: { streamedBytes: 0, gpuSeconds: 0, cpuSeconds: 0, hops: 0 },
    resident: 0,
    ringed: 0,
    largest: 0,
  }
  for (const [index, unit] of units.entries()) {
    const home = homes[index]!
    addUnit(found.parts, unit, home, decode, calibration, false)
    if (home === 'resident') {
      found.resident += allocated(unit.bytes)
    } else {
      found.ringed++
      found.largest = Math.max(found.largest, unit.bytes)
    }
  }
  return found
}

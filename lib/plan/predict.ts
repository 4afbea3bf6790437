/**
 * What a placement will cost. Copies into the ring and computing go side by side: a pass takes as long as the slower of
 * the two, as far as the ring lets the copies run ahead. simulatePass() plays that through for any homes; boundSeconds()
 * is its limit for units that are evenly spread, for the search of the best placement.
 */
import type { Home, NativeExperts, Program, WeightType } from '../binding.ts'
import { type Calibration, type Curve, ROWS } from './calibration.ts'
import type { DraftPrediction } from './drafts.ts'
import type { PlannedAnswers } from './experts.ts'
import { attentionFlops, hiddenOf, layerWeights } from './program.ts'

export interface CostedUnit {
  kind: 'attention' | 'feedForward' | 'head'
  /** That has it. Units that name none are on one. */
  device?: string
  home: Home
  bytes: number
  types: readonly WeightType[]
  experts?: NativeExperts
  /** Of a unit on demand: the share of its experts that a pass finds on the device. */
  hitRate?: number
  /** Of such a unit, where the CPU answers some of the others. */
  answers?: PlannedAnswers
}

/** A pass of decode rows: all sequences, one row each. */
export interface DecodeRows {
  rows: number
  /** Positions that each row sees. */
  context: number
  kvBytesPerToken: number
  threads: number
}

export interface DecodePrediction {
  /** Sequences that decode together. */
  batch: number
  /** Of all of them. */
  tokensPerSecond: number
  passSeconds: number
  /** Parts of a pass, each by itself: the link's copies, the GPU's computing, the CPU's, and the way there and back. */
  linkSeconds: number
  gpuSeconds: number
  cpuSeconds: number
  hopSeconds: number
  /** Reading what stays in the packed file, beside all of these. */
  diskSeconds: number
  /** 'link' and 'disk' wait for weights; 'gpu' and 'cpu' compute longer than the copies take. */
  boundBy: Bound
}

export type Bound = 'link' | 'gpu' | 'cpu' | 'disk'

export interface PrefillPrediction {
  /** Of one prompt. */
  tokens: number
  tokensPerSecond: number
  boundBy: Bound
}

export interface Prediction {
  /** False: made of guesses. `millrace probe --calibrate` measures. */
  calibrated: boolean
  /** One sequence alone, and as many as the plan expects. */
  single: DecodePrediction
  batch: DecodePrediction
  prefill: PrefillPrediction
  /** Of plan(), where it was told how often drafts are right: of `batch` sequences with as many of them as are worth it. */
  drafted?: DraftPrediction
}

/** A part of a pass. */
interface Task {
  /** With the links idle. */
  seconds: number
  on: 'gpu' | 'cpu' | 'hop'
  /** Copied into the ring before. */
  streamedBytes: number
  device: string
}

/** From one GPU to another, where a hop is to the CPU and back. */
const CROSSING = 0.5

const deviceOf = (unit: Pick<CostedUnit, 'device'>) => unit.device ?? ''

/** How often rows go from one device to another in a pass. */
function crossings(units: readonly CostedUnit[]): number {
  return units.filter((unit, index) => index > 0 && deviceOf(unit) !== deviceOf(units[index - 1]!)).length
}

/** Bytes over the link that has most of them. */
function linkBytes(units: readonly CostedUnit[], copied: (home: Home) => boolean): number {
  const links = new Map<string, number>()
  for (const unit of units) {
    if (copied(unit.home)) links.set(deviceOf(unit), (links.get(deviceOf(unit)) ?? 0) + unit.bytes)
  }
  return Math.max(0, ...links.values())
}

/** A row's least cost beyond the last of ROWS, of what one of these costs: 128 rows of an 8B on an H200 and an H100. */
const BEYOND = 0.6

/** The value at any number of rows; beyond the last known ones it grows half as fast as between them, or by BEYOND. */
export function at(curve: Curve, rows: number): number {
  const last = ROWS.length - 1
  const found = ROWS.findIndex((known) => known >= rows)
  const above = found < 0 ? last : Math.max(1, found)
  const [low, high] = [ROWS[above - 1]!, ROWS[above]!]
  const growth = (curve[above]! - curve[above - 1]!) / (high - low)
  if (found < 0) return curve[last]! + Math.max(growth / 2, (BEYOND * curve[last]!) / high) * (rows - high)
  return curve[above - 1]! + growth * (rows - low)
}

/** Shared units are taken to have their room. */
const FLOATS: ReadonlySet<WeightType> = new Set(['f16', 'bf16', 'f32'])

const restsOnDevice = (home: Home) => home === 'resident' || home === 'shared' || home === 'demand'

/** Bytes of feed-forwards that `threads` threads read a second while the link is idle. */
function cpuRate({ cpu }: Calibration, rows: number, threads: number): number {
  // DRAM is shared: half the threads get more than half of it (MEASURED: 37 % with a quarter, 65 % with half of 16).
  const share = Math.min(1, (threads / cpu.threads) ** 0.65)
  const known = Math.min(rows, ROWS[ROWS.length - 1]!) // beyond, arithmetic bounds it
  return ((at(cpu.bytesPerSecond, known) * known) / rows) * share
}

/** Share of that while the link copies. */
function cpuBesideLink({ cpu }: Calibration, rows: number): number {
  return rows > 4 ? cpu.besideLinkOfMany : cpu.besideLink
}

/** Bytes that a pass of so many rows reads where the unit lies: of a mixture, experts that none chose are not. */
export function readBytes({ bytes, experts }: Pick<CostedUnit, 'bytes' | 'experts'>, rows: number): number {
  if (!experts) return bytes
  // As if each row chose without regard to the others.
  const left = (1 - experts.chosen / experts.count) ** rows
  return bytes - experts.bytes * left
}

/** Of a mixture, what choosing experts and adding them up takes beyond a feed-forward's launches. */
const MIXTURE_SECONDS = 11e-6
/**
 * Experts are small: times what a large matrix takes, a byte of theirs takes so long to read (52 of 128 a layer: 91 us; 111: 167),
 * and a multiply-add of theirs in prompts.
 */
const EXPERT_READS = 1.75
const EXPERT_PROMPTS = 2.6

/** Of the link's copies, what kernels read over it. */
const MAPPED = 0.92

/** Between a choice of experts and the CPU's answer, beside what it computes. */
const ANSWER_SECONDS = 25e-6

/**
 * What experts are shared out by between the link and the CPU, both of which read the same memory. Without a GPU the threads of the passes
 * and those that answer are alike.
 */
export function plannedAnswers(calibration: Calibration, threads: number, gpu: boolean): PlannedAnswers {
  const { link, cpu } = calibration
  const bytesPerSecond = cpuRate(calibration, 1, threads)
  if (!gpu) return { threads, linkBytesPerSecond: bytesPerSecond, bytesPerSecond, hopSeconds: 0 }
  return {
    threads: Math.max(1, threads - 1), // one waits for the GPU
    linkBytesPerSecond: MAPPED * link.bytesPerSecond * link.besideCpu,
    bytesPerSecond: bytesPerSecond * cpu.besideLink,
    hopSeconds: ANSWER_SECONDS,
  }
}

/** Seconds until all that a unit's pass misses is there: over the link, or in part answered by the CPU. */
function missedSeconds(bytes: number, { link }: Calibration, answers: PlannedAnswers | undefined): number {
  const alone = bytes / (MAPPED * link.bytesPerSecond)
  if (!answers) return alone
  const { linkBytesPerSecond, bytesPerSecond, hopSeconds } = answers
  const overLink = (bytes + hopSeconds * bytesPerSecond) / (linkBytesPerSecond + bytesPerSecond)
  return Math.min(alone, overLink)
}

/** Of one unit at a home. `replayed`: the whole pass is a graph. */
function unitSeconds(
  unit: Omit<CostedUnit, 'home'>,
  home: Home,
  { rows, threads }: DecodeRows,
  calibration: Calibration,
  replayed: boolean,
): number {
  if (home === 'cpu') return readBytes(unit, rows) / cpuRate(calibration, rows, threads)
  const { unitSeconds, secondsPerByte } = replayed ? calibration.replayed : calibration.launched
  if (unit.kind === 'head') {
    return unit.bytes * at(FLOATS.has(unit.types[0]!) ? calibration.head.float : calibration.head.q4, rows)
  }
  const perByte = at(secondsPerByte, rows)
  const { experts } = unit
  if (!experts) return at(unitSeconds, rows) + unit.bytes * perByte
  const own = unit.bytes - experts.bytes
  const read = readBytes(unit, rows) - own
  // An expert computes the rows that chose it.
  const rowsOfExpert = (rows * experts.chosen * (experts.bytes / experts.count)) / read
  const ofExpert = EXPERT_READS * at(secondsPerByte, rowsOfExpert)
  const launches = at(unitSeconds, rows) + MIXTURE_SECONDS + own * perByte
  if (home !== 'demand') return launches + read * ofExpert
  // What is found on the device is read beside what comes over the link.
  const { hitRate = 0 } = unit
  const missed = missedSeconds(read * (1 - hitRate), calibration, unit.answers)
  return launches + Math.max(read * hitRate * ofExpert, missed)
}

/** Sums over the units of a pass. */
export interface PassParts {
  streamedBytes: number
  /** The step's own time and attention over earlier positions are in it. */
  gpuSeconds: number
  /** With the link idle. */
  cpuSeconds: number
  hops: number
}

export function addUnit(
  parts: PassParts,
  unit: Omit<CostedUnit, 'home'>,
  home: Home,
  decode: DecodeRows,
  calibration: Calibration,
  replayed: boolean,
): void {
  const seconds = unitSeconds(unit, home, decode, calibration, replayed)
  if (home === 'cpu') {
    parts.cpuSeconds += seconds
    parts.hops++
  } else {
    parts.gpuSeconds += seconds
  }
  if (home === 'streamed') parts.streamedBytes += unit.bytes
}

export function passParts(units: readonly CostedUnit[], decode: DecodeRows, calibration: Calibration): PassParts {
  const replayed = units.every(({ home }) => restsOnDevice(home))
  const parts: PassParts = { streamedBytes: 0, gpuSeconds: outsideUnits(decode, calibration), cpuSeconds: 0, hops: 0 }
  for (const unit of units) addUnit(parts, unit, unit.home, decode, calibration, replayed)
  return parts
}

function outsideUnits({ rows, context, kvBytesPerToken }: DecodeRows, calibration: Calibration): number {
  return at(calibration.stepSeconds, rows) + (rows * context * kvBytesPerToken) / calibration.kvBytesPerSecond
}

/** Seconds of a pass whose units are so evenly spread that the ring never runs full or empty for it. */
export function boundSeconds(parts: PassParts, rows: number, calibration: Calibration): number {
  const { link, hop } = calibration
  const copies = parts.streamedBytes / link.bytesPerSecond
  const hops = parts.hops * hop.seconds
  const cpuBeside = cpuBesideLink(calibration, rows)
  // `busy` is the share of the pass in which the link copies: then it slows hops, and CPU and link take DRAM from each other.
  const cpuAt = (busy: number) => parts.cpuSeconds * (1 + busy * (1 / cpuBeside - 1))
  const serialAt = (busy: number) => parts.gpuSeconds + cpuAt(busy) + hops * (1 + busy * (1 / hop.besideLink - 1))
  const linkAt = (busy: number) => copies + busy * cpuAt(busy) * (1 - link.besideCpu)
  if (linkAt(1) >= serialAt(1)) return linkAt(1)
  // Both sides of linkAt(busy) = busy x serialAt(busy) are smooth, and the left one is the larger at 0: bisect.
  let [low, high] = [0, 1]
  for (let step = 0; step < 20; step++) {
    const busy = (low + high) / 2
    if (linkAt(busy) > busy * serialAt(busy)) low = busy
    else high = busy
  }
  return serialAt(low)
}

/**
 * Seconds of a pass in the steady state of one pass after the other, with the rings' size and the units' order. Several
 * devices have equal parts of `ringBytes`.
 */
export function simulatePass(
  units: readonly CostedUnit[],
  ringBytes: number,
  decode: DecodeRows,
  calibration: Calibration,
): number {
  const replayed = units.every(({ home }) => restsOnDevice(home))
  const tasks = units.flatMap((unit, index): Task[] => {
    const device = deviceOf(unit)
    const seconds = unitSeconds(unit, unit.home, decode, calibration, replayed)
    const hop = { on: 'hop', seconds: calibration.hop.seconds, streamedBytes: 0, device } as const
    const crosses = index > 0 && device !== deviceOf(units[index - 1]!)
    const crossing = crosses ? [{ ...hop, seconds: CROSSING * hop.seconds }] : []
    const streamedBytes = unit.home === 'streamed' ? unit.bytes : 0
    if (unit.home !== 'cpu') return [...crossing, { on: 'gpu', seconds, streamedBytes, device }]
    return [...crossing, hop, { on: 'cpu', seconds, streamedBytes, device }]
  })
  const device = deviceOf(units.at(-1)!)
  tasks.push({ on: 'gpu', seconds: outsideUnits(decode, calibration), streamedBytes: 0, device })
  return play(tasks, ringBytes, decode.rows, calibration)
}

const SIMULATED_PASSES = 6
const WARM_PASSES = 3

/** The ring's room, as csrc/stream/ring.cc hands it out: slots are contiguous and end in the order of their beginning. */
class Ring {
  readonly #bytes: number
  #head = 0
  readonly #live: { begin: number; end: number }[] = []

  constructor(bytes: number) {
    this.#bytes = bytes
  }

  #free(begin: number, end: number): boolean {
    return this.#live.every((slot) => end <= slot.begin || begin >= slot.end)
  }

  reserve(bytes: number): boolean {
    let begin = this.#head
    if (begin + bytes > this.#bytes) {
      if (!this.#free(begin, this.#bytes)) return false
      begin = 0
    }
    if (!this.#free(begin, begin + bytes)) return false
    this.#head = begin + bytes
    this.#live.push({ begin, end: begin + bytes })
    return true
  }

  release(): void {
    this.#live.shift()
  }
}

/** A device's copies in the order of use, and how far they have come. */
class Link {
  readonly #copies: readonly number[]
  readonly #ring: Ring
  /** Counted over all passes. */
  #started = 0
  ready = 0
  used = 0
  /** Bytes left of the copy under way. */
  left = Number.POSITIVE_INFINITY

  constructor(copies: readonly number[], ringBytes: number) {
    this.#copies = copies
    this.#ring = new Ring(Math.max(ringBytes, ...copies))
  }

  get busy(): boolean {
    return this.#started > this.ready
  }

  /** Begins the next copy if the link is idle and the ring has room. */
  start(): void {
    if (this.busy || this.#copies.length === 0) return
    const next = this.#copies[this.#started % this.#copies.length]!
    if (!this.#ring.reserve(next)) return
    this.#started++
    this.left = next
  }

  copy(bytes: number): void {
    if (!this.busy) return
    this.left -= bytes
    if (this.left >= 1) return
    this.ready++
    this.left = Number.POSITIVE_INFINITY
  }

  release(): void {
    this.#ring.release()
    this.used++
  }
}

/** One worker that computes, and for each device one that copies; copies slow the CPU and hops, and the CPU slows copies. */
function play(tasks: readonly Task[], ringBytes: number, rows: number, calibration: Calibration): number {
  const { link, hop } = calibration
  const devices = [...new Set(tasks.map(({ device }) => device))]
  const links = new Map(
    devices.map((device) => {
      const own = tasks.filter((task) => task.device === device && task.streamedBytes > 0)
      const copies = own.map(({ streamedBytes }) => streamedBytes)
      return [device, new Link(copies, ringBytes / devices.length)]
    }),
  )
  const all = [...links.values()]
  const besideLink = { gpu: 1, cpu: cpuBesideLink(calibration, rows), hop: hop.besideLink }
  let time = 0
  let warmUntil = 0
  for (let pass = 0; pass < SIMULATED_PASSES; pass++) {
    if (pass === WARM_PASSES) warmUntil = time
    for (const { on, seconds, streamedBytes, device } of tasks) {
      const own = links.get(device)!
      const needed = streamedBytes > 0 ? own.used + 1 : 0
      let left = seconds
      while (left > 0 || own.ready < needed) {
        let busy = false
        let next = Number.POSITIVE_INFINITY
        for (const one of all) {
          one.start()
          busy ||= one.busy
          next = Math.min(next, one.left)
        }
        const isComputing = own.ready >= needed
        const copySpeed = link.bytesPerSecond * (isComputing && on === 'cpu' ? link.besideCpu : 1)
        const speed = busy ? besideLink[on] : 1
        const step = Math.min(next / copySpeed, isComputing ? left / speed : Number.POSITIVE_INFINITY)
        time += step
        if (isComputing) left = Math.max(0, left - step * speed)
        if (left < 1e-12) left = 0
        for (const one of all) one.copy(step * copySpeed)
      }
      if (needed > 0) own.release()
    }
  }
  return (time - warmUntil) / (SIMULATED_PASSES - WARM_PASSES)
}

export function predictDecode(
  units: readonly CostedUnit[],
  ringBytes: number,
  decode: DecodeRows,
  calibration: Calibration,
): DecodePrediction {
  const parts = passParts(units, decode, calibration)
  const passSeconds = simulatePass(units, ringBytes, decode, calibration)
  const linkSeconds = linkBytes(units, (home) => home === 'streamed') / calibration.link.bytesPerSecond
  const hopSeconds = (parts.hops + CROSSING * crossings(units)) * calibration.hop.seconds
  const waits = passSeconds - parts.gpuSeconds - hopSeconds - parts.cpuSeconds / cpuBesideLink(calibration, decode.rows)
  return {
    batch: decode.rows,
    tokensPerSecond: decode.rows / passSeconds,
    passSeconds,
    linkSeconds,
    gpuSeconds: parts.gpuSeconds,
    cpuSeconds: parts.cpuSeconds,
    hopSeconds,
    diskSeconds: 0,
    boundBy: waits > 0.02 * passSeconds ? 'link' : parts.cpuSeconds > parts.gpuSeconds ? 'cpu' : 'gpu',
  }
}

/** Seconds of `rows` rows of a prompt at `position`, without what is streamed. */
function promptSeconds(program: Program, rows: number, position: number, { prefill }: Calibration): number {
  const linears = (2 * rows * layerWeights(program, EXPERT_PROMPTS)) / prefill.flopsPerSecond
  const attention = (rows * attentionFlops(program, position + rows / 2)) / prefill.attentionFlopsPerSecond
  return linears + attention
}

/** Bytes that pass through a ring where prompts are computed: those of the CPU too. */
function promptBytes(units: readonly CostedUnit[]): number {
  return linkBytes(units, (home) => !restsOnDevice(home) || home === 'demand')
}

/** Rows of a prompt that take as long to compute as the link takes to bring the weights; 0 where all are resident. */
export function breakEvenRows(program: Program, units: readonly CostedUnit[], calibration: Calibration): number {
  const link = promptBytes(units) / calibration.link.bytesPerSecond
  return Math.ceil((link / promptSeconds(program, 1024, 0, calibration)) * 1024)
}

export function predictPrefill(
  program: Program,
  units: readonly CostedUnit[],
  tokens: number,
  rowsOfStep: number,
  calibration: Calibration,
): PrefillPrediction {
  const link = promptBytes(units) / calibration.link.bytesPerSecond
  let total = 0
  let computing = 0
  for (let position = 0; position < tokens; position += rowsOfStep) {
    const rows = Math.min(rowsOfStep, tokens - position)
    // Few rows read the weights as decoding does.
    const few = rows < 64 ? rows : 64
    const least =
      at(calibration.stepSeconds, few) +
      units.reduce((sum, { bytes }) => sum + bytes, 0) * calibration.launched.secondsPerByte[0]!
    // Rows cross as through RAM; GPUs that reach each other do better.
    const crossing = (crossings(units) * rows * hiddenOf(program) * 4) / calibration.link.bytesPerSecond
    const seconds =
      crossing + Math.max(least, promptSeconds(program, rows, position, calibration) + calibration.stepSeconds[0]!)
    computing += seconds
    total += Math.max(seconds, link)
  }
  return { tokens, tokensPerSecond: tokens / total, boundBy: total > computing * 1.02 ? 'link' : 'gpu' }
}

/** On the CPU twin everything is computed from where it lies. */
export function predictCpu(
  units: readonly CostedUnit[],
  decode: DecodeRows,
  calibration: Calibration,
): DecodePrediction {
  const bytes = units.reduce((sum, unit) => sum + readBytes(unit, decode.rows), 0)
  const kv = decode.rows * decode.context * decode.kvBytesPerToken
  const rate = cpuRate(calibration, decode.rows, decode.threads)
  const cpuSeconds = bytes / rate + kv / cpuRate(calibration, 1, decode.threads)
  return {
    batch: decode.rows,
    tokensPerSecond: decode.rows / cpuSeconds,
    passSeconds: cpuSeconds,
    linkSeconds: 0,
    gpuSeconds: 0,
    cpuSeconds,
    hopSeconds: 0,
    diskSeconds: 0,
    boundBy: 'cpu',
  }
}

/** The same pass where so many seconds of reading go on beside it, ahead across its end. */
export function withDisk(decode: DecodePrediction, diskSeconds: number): DecodePrediction {
  if (diskSeconds <= decode.passSeconds) return { ...decode, diskSeconds }
  return {
    ...decode,
    passSeconds: diskSeconds,
    tokensPerSecond: decode.batch / diskSeconds,
    diskSeconds,
    boundBy: 'disk',
  }
}

export function prefillWithDisk(prefill: PrefillPrediction, diskSeconds: number): PrefillPrediction {
  if (diskSeconds * prefill.tokensPerSecond <= prefill.tokens) return prefill
  return { ...prefill, tokensPerSecond: prefill.tokens / diskSeconds, boundBy: 'disk' }
}

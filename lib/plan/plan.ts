/**
 * What a model takes and where, decided before any weight is read: homes, ring, KV cache, rows of a step, and how fast
 * that will be. Pure: the native side executes any plan it is handed.
 */
import type { Home, KvType, NativeExperts, NativeSlabPlan, NativeUnit, Program, WeightType } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { PlanOptions } from '../options/model.ts'
import { invalidArgument, parseBytes } from '../options/validate.ts'
import { type Calibration, ROWS } from './calibration.ts'
import {
  chooseDevice,
  chooseDevices,
  homesOfShare,
  joinHomes,
  kvBytesOf,
  type Share,
  type Spread,
  sharesOf,
  spreadUnits,
  workspaceBytesOf,
} from './devices.ts'
import {
  cacheBytes,
  checkExperts,
  demandHomes,
  isMixture,
  ownBytes,
  type PlannedAnswers,
  type PlannedExperts,
  plannedExperts,
} from './experts.ts'
import { fileBytesPerPass, unitsInFile, windowsOf } from './file.ts'
import { allocated, fastestHomes, headHomes, homesOf, type Placed, place } from './homes.ts'
import { keptAs, type PlannedKv, planKv } from './kv.ts'
import { megabytes, megabytesOf } from './megabytes.ts'
import { reserveBytes } from './memory.ts'
import {
  breakEvenRows,
  type CostedUnit,
  type DecodePrediction,
  type Prediction,
  plannedAnswers,
  predictCpu,
  predictDecode,
  predictPrefill,
  prefillWithDisk,
  withDisk,
} from './predict.ts'
import { attendsOf, latentsOf } from './program.ts'
import { budgetBytes, KV_BLOCK_TOKENS } from './vram.ts'

export { chooseDevice, KV_BLOCK_TOKENS }

export interface PlannedUnit {
  /** 'attention 3', 'feed-forward 3', 'head' */
  name: string
  /** `feedForward`: it can be computed by the CPU beside a GPU; `attention`: all else of a layer. */
  kind: 'attention' | 'feedForward' | 'head'
  /** -1 of the head. */
  layer: number
  /** That has it, or computes it where its home is the CPU: layers alternate between several. */
  device: string
  home: Home
  /** Whose keys and values it appends; -1: none. */
  kvClass: number
  bytes: number
  /** Of its matrices. */
  types: readonly WeightType[]
  /** Of a mixture. */
  experts?: NativeExperts
  /** Of experts on demand: the share that a pass finds on the device, where tokens choose evenly. */
  hitRate?: number
  /** Of experts on demand, where the CPU answers some. */
  answers?: PlannedAnswers
  /** It stays in the packed file, since ramBudget has no room for it, and is read for every pass; left out of others. */
  inFile?: true
}

/** A device's part of a plan. Bytes throughout. */
export interface PlannedDevice {
  /** 'cpu', 'cuda:0', ... */
  device: string
  ringBytes: number
  residentBytes: number
  /** For experts on demand. */
  expertCacheBytes: number
  kvBytes: number
  /** On a GPU: of its executor, and of rows that come from other GPUs. */
  workspaceBytes: number
  /** All of that, and the most it may be; 0 on the CPU. */
  vramBytes: number
  vramBudgetBytes: number
  /** Over its own link. */
  streamedBytesPerPass: number
  /** RAM that units which stay in the packed file are read into. */
  windowBytes: number
}

/** What a model takes and where: decided before any weight is read. Bytes throughout; sums over its devices. */
export interface ModelPlan {
  /** 'cpu', 'cuda:0', ...; of several the first. */
  device: string
  /** One after the other, as a pass goes through them; one as a rule. */
  devices: PlannedDevice[]
  /** How layers are spread over them: 'halves' where the plan has all of them resident, else 'alternate', so that each fills its ring while others compute. It stays when budgets move. */
  spread: Spread
  units: PlannedUnit[]
  /** Memory that streamed units pass through; 0 if none is streamed. */
  ringBytes: number
  /**
   * Device memory for the shared units of all models of the GPU; 0 where none was named: then it is as it was, or as
   * large as the first model's shared units.
   */
  arenaBytes: number
  /** Device memory for experts on demand, and what is expected of it; left out where there are none. */
  expertCacheBytes: number
  experts?: PlannedExperts
  /** Milliseconds that the model keeps the arena while others wait for it. */
  turnMs: number
  /** With more sequences that decode at once, units at home on the CPU are streamed for them all; more than can be: never. */
  cpuRows: number
  /** Tokens of one request, prompt and answer. */
  contextLength: number
  kvBytesPerToken: number
  /** How keys and values are kept, of layers that can have it. */
  kvType: KvType
  /** Tokens that the KV cache holds, of the layers that keep most. */
  kvTokens: number
  /** Layers by what is kept of their keys and values. */
  kv: PlannedKv[]
  kvBytes: number
  /** Of system RAM, for keys and values of preempted requests and of earlier texts: pinned for a GPU. */
  kvSwapBytes: number
  /** Weights in system RAM: slabs, of those that do not stay in the packed file, and the embedding table. */
  hostBytes: number
  /** Weights that stay in the packed file; of them, what every pass reads there; and RAM that they are read into. */
  fileBytes: number
  fileBytesPerPass: number
  windowBytes: number
  /** Of those, what will be pinned for the GPU; 0 on the CPU. */
  pinnedBytes: number
  embeddingBytes: number
  /** Copied into the ring at every pass over the model: over the link a token, at batch 1. */
  streamedBytesPerPass: number
  /** Copies of resident weights on the GPU; 0 on the CPU. */
  residentBytes: number
  /** Of the GPU's executor, at most; 0 on the CPU. */
  workspaceBytes: number
  /** All of the model's own on the GPU, the arena apart, and the most it may be; 0 on the CPU. */
  vramBytes: number
  vramBudgetBytes: number
  /** Sequences that the homes were chosen for. */
  batch: number
  /** Rows of a step: one a decoding sequence, the rest for prompts. */
  maxRows: number
  /** Of them, rows whose logits may be asked for: sequences that run at once, or positions scored. */
  maxLogitRows: number
  threads: number
  prediction: Prediction
  /** Of the model that drafts for it; none of the other figures has it. */
  draft?: ModelPlan
}

/** What the plan needs to know about the machine. */
export interface Machine {
  cores: number
  /** RAM that this process may use at most. */
  memoryLimitBytes: number
  /** Of that, what it could take now. */
  memoryAvailableBytes: number
  /** GPUs that can be used, and why if there are none. */
  gpus: readonly MachineGpu[]
  gpuReason: string
  /** For the CPU alone. */
  calibration: Calibration
  /** A fault has ended their use in this process. */
  gpuLost?: boolean
  /** At which packed files are read, where it was measured or described. */
  diskBytesPerSecond?: number | undefined
}

export interface MachineGpu {
  name: string
  memoryBytes: number
  memoryFreeBytes: number
  calibration: Calibration
}

// Sequences that run at once where nobody expects more, and the most: a GPU decodes no more rows a launch.
const LEAST_LOGIT_ROWS = 64
const MOST_LOGIT_ROWS = 256

// Drafts beside more rows than these are not told apart.
const MOST_COSTED_ROWS = 128

// Prompts are worth about this many rows a step on the twin: its linears are then bound by arithmetic, not by memory.
const CPU_PREFILL_ROWS = 128
// On a GPU prefill is bound by arithmetic from a few hundred rows on; a step of so many bounds the wait of those that decode.
const GPU_PREFILL_ROWS = 1984
// Streamed weights are worth more rows, up to the break-even; where memory is short, fewer.
const MOST_PREFILL_ROWS = 4032
// Of experts on demand all that a prompt wants, which is nearly all there are, come for each step: fewer steps, less waiting.
const MOST_ROWS_ON_DEMAND = 8128
const SHORT_OF_MEMORY_ROWS = [960, 448, 192]
const DEFAULT_CONTEXT = 4096
const MOST_GPU_HEAD_DIM = 256 // cuda/attention_decode.cu
const DEFAULT_SEQUENCES = 4
const DEFAULT_TURN_MS = 250
const ANY_ROWS = 2 ** 31 - 1
const DEFAULT_VRAM_BUDGET = '90%'
/** Of RAM for preempted requests where nobody names it: pinning takes the system 0.4 s a GiB, and it is nobody else's then. */
const KV_SWAP = { most: 4 * 2 ** 30, shareOfFree: 1 / 4 }
/** Of an NVMe disk, where nobody has measured or described it. */
const GUESSED_DISK = 3e9
/** Predictions are of sequences that have so many tokens, and of prompts of so many; less in shorter contexts. */
const PREDICTED_CONTEXT = 512
const PREDICTED_PROMPT = 2048

/** As LatentShape::valid() in cuda/plan/latent.h. */
function checkLatents(program: Program): void {
  const inUnits = (size: number, most: number) => size % 8 === 0 && size <= most
  for (const { rank, rotary, nope } of latentsOf(program)) {
    if (inUnits(rank, 512) && inUnits(rotary, 64) && nope <= 256) continue
    throw new MillraceError('CHECKPOINT_UNSUPPORTED', {
      message:
        'latent attention on a GPU has latents of at most 512 elements and 64 that turn, multiples of 8, and heads of at ' +
        `most 256 that do not; this model's have ${rank}, ${rotary} and ${nope}`,
      remedy: "load it on the CPU: device: 'cpu'",
    })
  }
}

/** Throws INVALID_ARGUMENT, DEVICE_UNAVAILABLE, or OUT_OF_MEMORY where the machine can never hold the model. */
export function makePlan(program: Program, stored: NativeSlabPlan, options: PlanOptions, machine: Machine): ModelPlan {
  const { kv: kvType = 'f16' } = options
  const slabs = keptAs(stored, kvType)
  const names = chooseDevices(options.device, machine)
  const gpus = names.flatMap((name) => gpuOf(name, machine) ?? [])
  const gpu = gpus.length > 0
  const headDim = Math.max(0, ...attendsOf(program).map((attend) => attend.headDim))
  if (gpu && headDim > MOST_GPU_HEAD_DIM) {
    throw new MillraceError('CHECKPOINT_UNSUPPORTED', {
      message: `attention on a GPU has heads of at most ${MOST_GPU_HEAD_DIM} elements, this model's have ${headDim}`,
      remedy: "load it on the CPU: device: 'cpu'",
    })
  }
  if (gpu) checkLatents(program)
  const calibration = gpus[0]?.calibration ?? machine.calibration
  const contextLength = chooseContext(program, options.contextLength)
  const maxLogitRows = logitRows(options)
  const batch = Math.min(options.batch ?? 1, maxLogitRows)
  const threads = options.threads ?? machine.cores
  checkExperts(slabs.units, names.length, options)
  const spreadBy = (spread: Spread) => {
    const deviceOf = spreadUnits(slabs.units, names, spread)
    const shares = sharesOf(slabs.units, names, deviceOf)
    const fixed = {
      program,
      slabs,
      shares,
      deviceOf,
      options,
      calibration,
      contextLength,
      batch,
      maxLogitRows,
      threads,
    }
    return { spread, deviceOf, ...(gpu ? planExperts(fixed, gpus) : planCpu(fixed)) }
  }
  const { spread, deviceOf, homes, devices, kvTokens, kv, maxRows } = chooseSpread(names.length, spreadBy)
  const answers = options.expertCpu === true ? plannedAnswers(calibration, threads, gpu) : undefined
  const experts = plannedExperts(slabs.units, homes, devices[0]!.expertCacheBytes, answers)
  const streams = gpu && homes.some((home) => home !== 'resident')
  const withoutSwap: Omit<ModelPlan, 'prediction'> = {
    device: names[0]!,
    units: slabs.units.map((unit, index): PlannedUnit => {
      const home = homes[index]!
      const hits = home === 'demand' ? { hitRate: experts!.hitRate, ...(answers ? { answers } : {}) } : {}
      return { ...unit, device: names[deviceOf[index]!]!, home, ...hits }
    }),
    ...sums(devices),
    spread,
    ...(experts ? { experts } : {}),
    arenaBytes: sizeArena(homes, options),
    turnMs: options.turnMs ?? DEFAULT_TURN_MS,
    cpuRows: ANY_ROWS,
    contextLength,
    kvBytesPerToken: slabs.kvBytesPerToken,
    kvType,
    kvTokens,
    kv,
    kvSwapBytes: 0,
    hostBytes: total(slabs.units) + slabs.embeddingBytes,
    fileBytes: 0,
    fileBytesPerPass: 0,
    pinnedBytes: gpu ? slabs.embeddingBytes + (streams ? total(slabs.units) : 0) : 0,
    embeddingBytes: slabs.embeddingBytes,
    batch,
    maxRows,
    maxLogitRows,
    threads,
  }
  const fixedRoute = leaveInFile(
    { ...withoutSwap, kvSwapBytes: kvSwapBytes(withoutSwap, options, machine) },
    options,
    machine,
  )
  const plan = options.adaptive ? { ...fixedRoute, cpuRows: mostCpuRows(fixedRoute, machine) } : fixedRoute
  checkRam(plan, options, machine)
  return { ...plan, prediction: predictionOf(program, plan, machine) }
}

/** Halves where every unit is resident: then rows alone go over a link, and each crossing holds the pass up. */
function chooseSpread<Made extends { homes: readonly Home[] }>(
  devices: number,
  spreadBy: (spread: Spread) => Made,
): Made {
  if (devices > 1) {
    try {
      const made = spreadBy('halves')
      if (made.homes.every((home) => home === 'resident')) return made
    } catch (error) {
      if ((error as MillraceError).code !== 'OUT_OF_MEMORY') throw error // in turn they may fit
    }
  }
  return spreadBy('alternate')
}

const gpuOf = (device: string, machine: Machine) =>
  device === 'cpu' ? undefined : machine.gpus[Number(device.slice('cuda:'.length))]

/** What a plan says of all devices together. */
function sums(devices: PlannedDevice[]) {
  const sum = (name: Exclude<keyof PlannedDevice, 'device'>) => devices.reduce((all, device) => all + device[name], 0)
  return {
    devices,
    ringBytes: sum('ringBytes'),
    residentBytes: sum('residentBytes'),
    expertCacheBytes: sum('expertCacheBytes'),
    kvBytes: sum('kvBytes'),
    workspaceBytes: sum('workspaceBytes'),
    vramBytes: sum('vramBytes'),
    vramBudgetBytes: sum('vramBudgetBytes'),
    streamedBytesPerPass: sum('streamedBytesPerPass'),
    windowBytes: sum('windowBytes'),
  }
}

/** The same plan with other homes: `placed` and `budgets` by device. */
export function withPlaced<Plan extends Omit<ModelPlan, 'prediction'>>(
  plan: Plan,
  homes: readonly Home[],
  rings: readonly number[],
  budgets: readonly number[],
): Plan {
  const units = plan.units.map((unit, index) => ({ ...unit, home: homes[index]! }))
  const devices = plan.devices.map((device, at): PlannedDevice => {
    const of = (home: Home) => total(units.filter((unit) => unit.home === home && unit.device === device.device))
    const residentBytes = units
      .filter(({ home, device: own }) => (home === 'resident' || home === 'demand') && own === device.device)
      .reduce((sum, unit) => sum + (device.device === 'cpu' ? 0 : allocated(ownBytes(unit, unit.home))), 0)
    return {
      ...device,
      ringBytes: rings[at]!,
      residentBytes,
      streamedBytesPerPass: of('streamed'),
      vramBytes: device.kvBytes + device.workspaceBytes + residentBytes + device.expertCacheBytes + rings[at]!,
      vramBudgetBytes: budgets[at]!,
    }
  })
  return { ...plan, units, fileBytesPerPass: fileBytesPerPass(units), ...sums(devices) }
}

/** The same plan with another cache of experts: `found` bytes, or as much as the budget leaves. Throws OUT_OF_MEMORY. */
export function withExpertCache<Plan extends Omit<ModelPlan, 'prediction'>>(
  plan: Plan,
  budget: number,
  found?: number,
): Plan {
  const [device] = plan.devices as [PlannedDevice]
  const homes = plan.units.map(({ home }) => home)
  const least = device.vramBytes - device.expertCacheBytes
  if (least > budget && device.device !== 'cpu') {
    throw new MillraceError('OUT_OF_MEMORY', {
      message: `the model needs at least ${megabytes(least)} on ${device.device} without a cache of experts, the budget is ${megabytes(budget)}`,
      remedy: 'give a larger budget, or load it with a shorter context',
    })
  }
  const room = device.device === 'cpu' ? budget : budget - least
  const expertCacheBytes = found ?? cacheBytes(plan.units, homes, {}, room)
  const vramBytes = device.device === 'cpu' ? 0 : least + expertCacheBytes
  const devices = [{ ...device, expertCacheBytes, vramBytes, vramBudgetBytes: budget }]
  const experts = plannedExperts(plan.units, homes, expertCacheBytes, plan.experts?.cpu)!
  const units = plan.units.map((unit) => (unit.home === 'demand' ? { ...unit, hitRate: experts.hitRate } : unit))
  return { ...plan, units, experts, ...sums(devices) }
}

interface Fixed {
  program: Program
  slabs: NativeSlabPlan
  shares: Share[]
  /** By unit, which share has it. */
  deviceOf: readonly number[]
  options: PlanOptions
  calibration: Calibration
  contextLength: number
  batch: number
  maxLogitRows: number
  threads: number
}

interface Decided {
  homes: Home[]
  devices: PlannedDevice[]
  kvTokens: number
  kv: PlannedKv[]
  maxRows: number
}

function streamedBytes(units: readonly NativeUnit[], homes: readonly Home[]): number {
  return total(units.filter((_, index) => homes[index] === 'streamed'))
}

/** On the twin host memory is device memory, so all fits where the model fits at all, and resident is fastest. */
function planCpu({ slabs, shares, options, contextLength, batch, maxLogitRows }: Fixed): Decided {
  const { placement = 'auto', ring, stateCopies, stateDrafts } = options
  const homes =
    options.experts === 'demand'
      ? demandHomes(slabs.units)
      : homesOf(slabs.units, 'cpu', placement === 'auto' ? 'resident' : placement)
  const kvTokens = kvChoices(contextLength, options, batch)[0]!
  const maxRows = maxLogitRows + CPU_PREFILL_ROWS
  const kv = planKv(slabs.kv, kvTokens, contextLength, {
    maxRows,
    mostSequences: maxLogitRows,
    stateCopies,
    stateDrafts,
  })
  const devices = shares.map((share): PlannedDevice => {
    const placed = place(share.units, homesOfShare(share, homes), ring, false)
    return {
      device: share.device,
      ringBytes: placed.ringBytes,
      residentBytes: 0,
      // Of the machine's own memory, where an expert is read as well without: none, unless it is asked for.
      expertCacheBytes: cacheBytes(share.units, homesOfShare(share, homes), options, 0),
      kvBytes: kvBytesOf(share, slabs, kv),
      workspaceBytes: 0,
      vramBytes: 0,
      vramBudgetBytes: 0,
      streamedBytesPerPass: streamedBytes(share.units, placed.homes),
      windowBytes: 0,
    }
  })
  return { homes, devices, kvTokens, kv, maxRows }
}

/** Mixtures that do not fit are on demand, where nobody has said otherwise and they fit so. */
function planExperts(fixed: Fixed, gpus: readonly MachineGpu[]): Decided {
  const { options, slabs, shares } = fixed
  const { experts = 'auto', placement = 'auto' } = options
  if (experts === 'demand') return planGpus(fixed, gpus, demandHomes(slabs.units))
  if (experts === 'resident' || placement !== 'auto' || shares.length > 1 || !slabs.units.some(isMixture)) {
    return planGpus(fixed, gpus)
  }
  let decided: Decided | undefined
  try {
    decided = planGpus(fixed, gpus)
    if (decided.homes.every((home) => home === 'resident')) return decided
    return planGpus(fixed, gpus, demandHomes(slabs.units))
  } catch (error) {
    if (!decided) throw error
    return decided
  }
}

/**
 * Within the budget of each device's memory: residency goes first, then rows of a step, then what the KV cache holds
 * beyond one context where nobody has asked for it.
 */
function planGpus(fixed: Fixed, gpus: readonly MachineGpu[], demanded?: Home[]): Decided {
  const { program, slabs, shares, deviceOf, options, calibration, contextLength, batch, maxLogitRows, threads } = fixed
  const { placement = 'auto', ring, stateCopies, stateDrafts } = options
  const decode = decodeRows({ contextLength, kvBytesPerToken: slabs.kvBytesPerToken, threads }, batch)
  // 'auto' leaves the CPU to one GPU: the search knows nothing of several that share it.
  const mostOnCpu = (options.coExecute ?? true) && shares.length === 1 ? undefined : 0
  const wanted = demanded ?? (placement === 'auto' ? undefined : homesOf(slabs.units, 'cuda', placement))
  const parts = shares.map((share, at) => {
    const gpu = gpus[at]!
    const asked = budgetBytes('vramBudget', options.vramBudget ?? DEFAULT_VRAM_BUDGET, gpu.memoryFreeBytes)
    const asWanted = wanted && place(share.units, homesOfShare(share, wanted), ring, true)
    // A ring that is too small is told before memory is.
    if (!asWanted)
      place(
        share.units,
        share.units.map((unit) => (unit.kind === 'head' ? 'resident' : 'streamed')),
        ring,
        true,
      )
    return { share, gpu, asked, budget: Math.min(asked, gpu.memoryFreeBytes), asWanted }
  })
  const rowsFor = (homes: readonly Home[]) => prefillRows(program, withHomes(slabs.units, homes, deviceOf), calibration)
  const mostRows = rowsFor(wanted ?? slabs.units.map(() => 'streamed' as const))
  let lacking: { part: (typeof parts)[number]; device: PlannedDevice } | undefined
  for (const kvTokens of kvChoices(contextLength, options, batch)) {
    const tryRows = (rows: number): Decided | undefined => {
      const maxRows = maxLogitRows + rows
      const kv = planKv(slabs.kv, kvTokens, contextLength, {
        maxRows,
        mostSequences: maxLogitRows,
        stateCopies,
        stateDrafts,
      })
      const found: { homes: Home[]; device: PlannedDevice }[] = []
      for (const part of parts) {
        const { share, budget, asWanted } = part
        const kvBytes = kvBytesOf(share, slabs, kv)
        const shape = { maxRows, maxLogitRows, contextLength }
        const workspace = workspaceBytesOf(share, program, slabs.units, shape)
        const room = budget - kvBytes - workspace
        const fits = asWanted ?? fastestHomes(share.units, ring, room, decode, calibration, mostOnCpu)
        const { homes, ringBytes, residentBytes } = fits ?? leastHomes(share.units, ring)
        const expertCacheBytes = cacheBytes(share.units, homes, options, room - residentBytes - ringBytes)
        const device: PlannedDevice = {
          device: share.device,
          ringBytes,
          residentBytes,
          expertCacheBytes,
          kvBytes,
          workspaceBytes: workspace,
          vramBytes: residentBytes + ringBytes + expertCacheBytes + kvBytes + workspace,
          vramBudgetBytes: budget,
          streamedBytesPerPass: streamedBytes(share.units, homes),
          windowBytes: 0,
        }
        if (!fits || residentBytes + ringBytes + expertCacheBytes > room) {
          lacking = { part, device }
          return undefined
        }
        found.push({ homes, device })
      }
      const homes = joinHomes(
        shares,
        found.map((one) => one.homes),
      )
      // What is resident needs no more rows: their room serves residency.
      const enough = rowsFor(homes)
      if (enough < rows) return tryRows(enough)
      return { homes, devices: found.map((one) => one.device), kvTokens, kv, maxRows }
    }
    // A step has no more rows than the cache has room for.
    const cached = Math.ceil(kvTokens / 64) * 64
    for (const rows of [mostRows, MOST_PREFILL_ROWS, GPU_PREFILL_ROWS, ...SHORT_OF_MEMORY_ROWS]) {
      if (rows > mostRows) continue
      const decided = tryRows(Math.min(rows, cached))
      if (decided) return decided
    }
  }
  const { part, device } = lacking!
  const { gpu, asked, budget } = part
  const needs = megabytesOf({
    'resident weights': device.residentBytes,
    ring: device.ringBytes,
    'cache of experts': device.expertCacheBytes,
    'KV cache': device.kvBytes,
    workspace: device.workspaceBytes,
  })
  const limit =
    asked > gpu.memoryFreeBytes
      ? `${megabytes(gpu.memoryFreeBytes)} are free on it`
      : `the budget is ${megabytes(budget)} of ${megabytes(gpu.memoryFreeBytes)} free`
  const where = shares.length > 1 ? `${device.device}, ${gpu.name}` : gpu.name
  throw new MillraceError('OUT_OF_MEMORY', {
    message: `the model needs at least ${needs.sum} of memory on ${where} (${needs.parts}), ${limit}`,
    remedy: `lower contextLength, maxSequences or kvTokens${wanted ? ", use placement: 'auto'" : ''}, or raise vramBudget`,
  })
}

/** What takes least: of the head's two homes the one that does. */
function leastHomes(units: readonly NativeUnit[], ring: number | string | undefined): Placed {
  const [first, second = first] = headHomes(units, ring).map((head) =>
    place(
      units,
      units.map(({ kind }) => (kind === 'head' ? head : 'streamed')),
      ring,
      true,
    ),
  )
  const size = ({ residentBytes, ringBytes }: Placed) => residentBytes + ringBytes
  return size(first!) <= size(second!) ? first! : second!
}

function withHomes(units: readonly NativeUnit[], homes: readonly Home[], devices: readonly number[]): CostedUnit[] {
  return units.map((unit, index) => ({ ...unit, home: homes[index]!, device: String(devices[index]) }))
}

/** In multiples of 64: as many as are to be served at once. */
function logitRows({ batch = 1, maxSequences = 1 }: PlanOptions): number {
  const asked = Math.ceil(Math.max(batch, maxSequences) / 64) * 64
  return Math.min(MOST_LOGIT_ROWS, Math.max(LEAST_LOGIT_ROWS, asked))
}

/** In multiples of 64, the rows of a tile. */
function prefillRows(program: Program, units: readonly CostedUnit[], calibration: Calibration): number {
  const even = Math.ceil(breakEvenRows(program, units, calibration) / 64) * 64
  const most = units.some(({ home }) => home === 'demand') ? MOST_ROWS_ON_DEMAND : MOST_PREFILL_ROWS
  return Math.min(most, Math.max(GPU_PREFILL_ROWS, even))
}

function decodeRows(of: Pick<ModelPlan, 'contextLength' | 'kvBytesPerToken' | 'threads'>, rows: number) {
  const { contextLength, kvBytesPerToken, threads } = of
  return { rows, context: Math.min(PREDICTED_CONTEXT, contextLength), kvBytesPerToken, threads }
}

/** The most sequences that the CPU serves no slower than the link would: beyond, its units are streamed. */
function mostCpuRows(plan: Omit<ModelPlan, 'prediction'>, machine: Machine): number {
  if (plan.device === 'cpu' || !plan.units.some((unit) => unit.home === 'cpu')) return ANY_ROWS
  const seconds = (rows: number, cpuRows: number) => decodePrediction({ ...plan, cpuRows }, machine)(rows).passSeconds
  for (let rows = 1; rows <= plan.maxLogitRows; rows++) {
    if (seconds(rows, 0) < seconds(rows, ANY_ROWS)) return rows - 1
  }
  return ANY_ROWS
}

/** How fast passes with so many decode rows are. */
function decodePrediction(plan: Omit<ModelPlan, 'prediction'>, machine: Machine): (rows: number) => DecodePrediction {
  const { device, units, ringBytes } = plan
  const gpu = gpuOf(device, machine)
  const { calibration } = gpu ?? machine
  const streamed = units.map((unit) => (unit.home === 'cpu' ? { ...unit, home: 'streamed' as const } : unit))
  const disk = diskSeconds(plan, machine)
  return (rows) =>
    withDisk(
      gpu
        ? predictDecode(rows > plan.cpuRows ? streamed : units, ringBytes, decodeRows(plan, rows), calibration)
        : predictCpu(units, decodeRows(plan, rows), calibration),
      disk,
    )
}

/** Of a pass: what it reads in the packed file. */
function diskSeconds({ fileBytesPerPass }: Omit<ModelPlan, 'prediction'>, { diskBytesPerSecond }: Machine): number {
  return fileBytesPerPass / (diskBytesPerSecond ?? GUESSED_DISK)
}

/** Seconds of passes with 1, 2, ... decode rows, by which drafts are found worth their rows. */
export function passCosts(plan: Omit<ModelPlan, 'prediction'>, machine: Machine): number[] {
  const seconds = decodePrediction(plan, machine)
  const most = Math.min(plan.maxLogitRows, MOST_COSTED_ROWS)
  const costs = new Map<number, number>()
  return Array.from({ length: most }, (_, index) => {
    const rows = Math.min(most, plan.device === 'cpu' ? index + 1 : paddedRows(index + 1))
    if (!costs.has(rows)) costs.set(rows, seconds(rows).passSeconds)
    return costs.get(rows)!
  })
}

/** Rows that a GPU's pass of decode rows is padded to (cuda/executor.cc). */
const paddedRows = (rows: number) => (rows <= 8 ? rows : 2 ** Math.ceil(Math.log2(rows)))

/** How fast a plan is on this machine. */
export function predictionOf(program: Program, plan: Omit<ModelPlan, 'prediction'>, machine: Machine): Prediction {
  const { device, units, batch, maxRows } = plan
  const gpu = gpuOf(device, machine)
  const calibration = gpu?.calibration ?? machine.calibration
  const prompt = Math.min(PREDICTED_PROMPT, plan.contextLength)
  const decode = decodePrediction(plan, machine)
  // The twin's rows are bound by arithmetic, in a prompt as in a large batch.
  const steps = Math.ceil(prompt / maxRows)
  const prefill = gpu
    ? prefillWithDisk(predictPrefill(program, units, prompt, maxRows, calibration), steps * diskSeconds(plan, machine))
    : { tokens: prompt, tokensPerSecond: decode(ROWS[ROWS.length - 1]!).tokensPerSecond, boundBy: 'cpu' as const }
  const calibrated = calibration.calibrated && (plan.fileBytesPerPass === 0 || machine.diskBytesPerSecond !== undefined)
  return { calibrated, single: decode(1), batch: decode(batch), prefill }
}

/** The same plan within ramBudget: what has no room there stays in the packed file. */
function leaveInFile(
  plan: Omit<ModelPlan, 'prediction'>,
  options: PlanOptions,
  machine: Machine,
): Omit<ModelPlan, 'prediction'> {
  const excess = ramBytes(plan) - ramLimit(options, machine)
  if (options.ramBudget === undefined || excess <= 0) return plan
  const names = plan.devices.map(({ device }) => device)
  const chosen = unitsInFile(plan.units, names, excess)
  if (chosen === undefined) return plan
  const units = plan.units.map((unit, index) => (chosen.inFile[index] ? { ...unit, inFile: true as const } : unit))
  const fileBytes = total(units.filter(({ inFile }) => inFile))
  const devices = plan.devices.map((device, at) => {
    const reads = units.some((unit) => unit.inFile && unit.device === device.device)
    return { ...device, windowBytes: reads ? chosen.windowBytes[at]! : 0 }
  })
  const windowBytes = devices.reduce((sum, device) => sum + device.windowBytes, 0)
  return {
    ...plan,
    units,
    devices,
    windowBytes,
    hostBytes: plan.hostBytes - fileBytes,
    fileBytes,
    fileBytesPerPass: fileBytesPerPass(units),
    pinnedBytes: plan.pinnedBytes > plan.embeddingBytes ? plan.pinnedBytes - fileBytes + windowBytes : plan.pinnedBytes,
  }
}

/** System RAM that a plan takes. */
function ramBytes(plan: Omit<ModelPlan, 'prediction'>): number {
  const windows = plan.devices.map(({ windowBytes, device }) => windowBytes * windowsOf(plan.units, device))
  const read = windows.reduce((sum, bytes) => sum + bytes, 0)
  return plan.hostBytes + read + plan.kvSwapBytes + (plan.device === 'cpu' ? plan.ringBytes + plan.kvBytes : 0)
}

const ramLimit = ({ ramBudget }: PlanOptions, { memoryLimitBytes }: Machine) =>
  ramBudget === undefined ? memoryLimitBytes : budgetBytes('ramBudget', ramBudget, memoryLimitBytes)

/** In whole blocks. */
function kvSwapBytes(
  plan: Omit<ModelPlan, 'prediction'>,
  { kvSwap, ...options }: PlanOptions,
  machine: Machine,
): number {
  const block = plan.kvBytesPerToken * KV_BLOCK_TOKENS
  const wholeBlocks = (bytes: number) => Math.floor(bytes / block) * block
  if (kvSwap !== undefined) return wholeBlocks(typeof kvSwap === 'string' ? parseBytes(kvSwap)! : kvSwap)
  // A budget is the user's word, also where the system says less.
  const limit = ramLimit(options, machine)
  const room = options.ramBudget === undefined ? Math.min(limit, machine.memoryAvailableBytes) : limit
  // With the reserve taken off, what is chosen here never makes a model too large for checkMemory().
  const free = Math.max(0, room - ramBytes(plan) - reserveBytes(ramBytes(plan)))
  return wholeBlocks(Math.min(plan.kvBytes, KV_SWAP.most, free * KV_SWAP.shareOfFree))
}

function checkRam(plan: Omit<ModelPlan, 'prediction'>, options: PlanOptions, machine: Machine): void {
  const limit = ramLimit(options, machine)
  const needed = ramBytes(plan)
  if (needed <= limit) return
  const { sum, parts } = megabytesOf({
    weights: plan.hostBytes,
    ...(plan.device === 'cpu' ? { 'KV cache': plan.kvBytes, ring: plan.ringBytes } : {}),
    kvSwap: plan.kvSwapBytes,
  })
  const file = 'name a ramBudget, beyond which weights stay on the disk and are read for every pass, or '
  throw new MillraceError('OUT_OF_MEMORY', {
    message: `the model needs ${sum} of RAM (${parts}), ${options.ramBudget === undefined ? 'this process may use' : 'ramBudget is'} ${megabytes(limit)}`,
    remedy: `lower contextLength, batch, maxSequences, kvTokens or kvSwap, ${options.ramBudget === undefined ? file : 'raise ramBudget if the machine has more, or '}choose a smaller model`,
  })
}

function sizeArena(homes: readonly Home[], { arena, device, placement }: PlanOptions): number {
  if (!homes.includes('shared')) return 0
  if (Array.isArray(device) && device.length > 1) {
    throw invalidArgument("'auto', 'resident', 'streamed' or 'cpu' on several devices", 'placement', placement)
  }
  return typeof arena === 'string' ? parseBytes(arena)! : (arena ?? 0)
}

function chooseContext(program: Program, wanted: number | undefined): number {
  if (wanted === undefined) return Math.min(program.maxPosition, DEFAULT_CONTEXT)
  if (wanted > program.maxPosition) {
    throw invalidArgument(
      `at most the ${program.maxPosition} positions that the model was made for`,
      'contextLength',
      wanted,
    )
  }
  return wanted
}

/**
 * Sizes of the KV cache in tokens, the wanted one first; smaller ones only where nobody has asked for a size. In whole
 * blocks, and never less than one full context: a request that was accepted can always run.
 */
function kvChoices(contextLength: number, options: PlanOptions, batch: number): number[] {
  if (options.kvTokens !== undefined && options.maxSequences !== undefined) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: 'expected one of kvTokens and maxSequences but received both',
      remedy: 'kvTokens is the size of the KV cache; maxSequences gives it as a number of full contexts',
    })
  }
  const blocks = (tokens: number) => Math.ceil(tokens / KV_BLOCK_TOKENS)
  const context = blocks(contextLength)
  if (options.kvTokens !== undefined) return [Math.max(context, blocks(options.kvTokens)) * KV_BLOCK_TOKENS]
  const sequences = [options.maxSequences ?? Math.max(DEFAULT_SEQUENCES, batch)]
  while (options.maxSequences === undefined && sequences.at(-1)! > 1) sequences.push(sequences.at(-1)! >> 1)
  return sequences.map((count) => context * count * KV_BLOCK_TOKENS)
}

function total(units: readonly Pick<NativeUnit, 'bytes'>[]): number {
  return units.reduce((sum, unit) => sum + unit.bytes, 0)
}

/**
 * What a model takes and where, decided before any weight is read: homes, ring, KV cache, rows of a step, and how fast
 * that will be. Pure: the native side executes any plan it is handed.
 */
import type { Home, ModelSpec, NativeSlabPlan, NativeUnit, WeightType } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument, type PlanOptions, parseBytes } from '../options.ts'
import { type Calibration, ROWS } from './calibration.ts'
import { fastestHomes, homesOf, type Placed, place } from './homes.ts'
import {
  breakEvenRows,
  type CostedUnit,
  type Prediction,
  predictCpu,
  predictDecode,
  predictPrefill,
} from './predict.ts'
import { budgetBytes, KV_BLOCK_TOKENS, workspaceBytes } from './vram.ts'

export { KV_BLOCK_TOKENS }

export interface PlannedUnit {
  kind: 'attention' | 'feedForward' | 'head'
  /** -1 of the head. */
  layer: number
  home: Home
  bytes: number
  /** Of its matrices. */
  types: readonly WeightType[]
}

/** What a model takes and where: decided before any weight is read. Bytes throughout. */
export interface ModelPlan {
  /** 'cpu', 'cuda:0', ... */
  device: string
  units: PlannedUnit[]
  /** Memory that streamed units pass through; 0 if none is streamed. */
  ringBytes: number
  /** Device memory for the shared units of all models of the GPU; 0: as it is. */
  arenaBytes: number
  /** Milliseconds that the model keeps the arena while others wait for it. */
  turnMs: number
  /** Tokens of one request, prompt and answer. */
  contextLength: number
  kvBytesPerToken: number
  /** Tokens that the KV cache holds. */
  kvTokens: number
  kvBytes: number
  /** Weights in system RAM: slabs and the embedding table. */
  hostBytes: number
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
  threads: number
  prediction: Prediction
}

/** What the plan needs to know about the machine. */
export interface Machine {
  cores: number
  /** RAM that this process may use at most. */
  memoryLimitBytes: number
  /** GPUs that can be used, and why if there are none. */
  gpus: readonly MachineGpu[]
  gpuReason: string
  /** For the CPU alone. */
  calibration: Calibration
  /** A fault has ended their use in this process. */
  gpuLost?: boolean
}

export interface MachineGpu {
  name: string
  memoryBytes: number
  memoryFreeBytes: number
  calibration: Calibration
}

/** Rows whose logits may be asked for in a step: sequences that run at once, or positions scored. */
export const MAX_LOGIT_ROWS = 64

// Prompts are worth about this many rows a step on the twin: its linears are then bound by arithmetic, not by memory.
const CPU_PREFILL_ROWS = 128
// On a GPU prefill is bound by arithmetic from a few hundred rows on; a step of so many bounds the wait of those that decode.
const GPU_PREFILL_ROWS = 1984
// Streamed weights are worth more rows, up to the break-even; where memory is short, fewer.
const MOST_PREFILL_ROWS = 4032
const SHORT_OF_MEMORY_ROWS = [960, 448, 192]
const DEFAULT_CONTEXT = 4096
const DEFAULT_SEQUENCES = 4
const DEFAULT_TURN_MS = 250
const DEFAULT_VRAM_BUDGET = '90%'
/** Predictions are of sequences that have so many tokens, and of prompts of so many; less in shorter contexts. */
const PREDICTED_CONTEXT = 512
const PREDICTED_PROMPT = 2048

/** Throws INVALID_ARGUMENT, DEVICE_UNAVAILABLE, or OUT_OF_MEMORY where the machine can never hold the model. */
export function makePlan(spec: ModelSpec, slabs: NativeSlabPlan, options: PlanOptions, machine: Machine): ModelPlan {
  const device = chooseDevice(options.device ?? 'auto', machine)
  const gpu = device === 'cpu' ? undefined : machine.gpus[Number(device.slice('cuda:'.length))]!
  const calibration = gpu?.calibration ?? machine.calibration
  const contextLength = chooseContext(spec, options.contextLength)
  const batch = Math.min(options.batch ?? 1, MAX_LOGIT_ROWS)
  const threads = options.threads ?? machine.cores
  const fixed = { spec, slabs, options, calibration, contextLength, batch, threads }
  const onDevice = gpu ? planGpu(fixed, gpu) : planCpu(fixed)
  const { homes, ringBytes, residentBytes, kvTokens, maxRows } = onDevice
  const units = slabs.units.map((unit, index): PlannedUnit => ({ ...unit, home: homes[index]! }))
  const kvBytes = kvTokens * slabs.kvBytesPerToken
  const workspace = gpu ? workspaceOf(fixed, maxRows) : 0
  const streams = gpu !== undefined && homes.some((home) => home !== 'resident')
  const plan: Omit<ModelPlan, 'prediction'> = {
    device,
    units,
    ringBytes,
    arenaBytes: sizeArena(homes, options.arena),
    turnMs: options.turnMs ?? DEFAULT_TURN_MS,
    contextLength,
    kvBytesPerToken: slabs.kvBytesPerToken,
    kvTokens,
    kvBytes,
    hostBytes: total(slabs.units) + slabs.embeddingBytes,
    pinnedBytes: gpu ? slabs.embeddingBytes + (streams ? total(slabs.units) : 0) : 0,
    embeddingBytes: slabs.embeddingBytes,
    streamedBytesPerPass: total(units.filter((unit) => unit.home === 'streamed')),
    residentBytes,
    workspaceBytes: workspace,
    vramBytes: gpu ? residentBytes + ringBytes + kvBytes + workspace : 0,
    vramBudgetBytes: gpu ? onDevice.budget : 0,
    batch,
    maxRows,
    threads,
  }
  checkRam(plan, options, machine)
  return { ...plan, prediction: predictionOf(spec, plan, machine) }
}

interface Fixed {
  spec: ModelSpec
  slabs: NativeSlabPlan
  options: PlanOptions
  calibration: Calibration
  contextLength: number
  batch: number
  threads: number
}

interface OnDevice extends Placed {
  kvTokens: number
  maxRows: number
  budget: number
}

/** On the twin host memory is device memory, so all fits where the model fits at all, and resident is fastest. */
function planCpu({ slabs, options, contextLength, batch }: Fixed): OnDevice {
  const { placement = 'auto', ring } = options
  const homes = homesOf(slabs.units, 'cpu', placement === 'auto' ? 'resident' : placement)
  return {
    ...place(slabs.units, homes, ring, false),
    kvTokens: kvChoices(contextLength, options, batch)[0]!,
    maxRows: MAX_LOGIT_ROWS + CPU_PREFILL_ROWS,
    budget: 0,
  }
}

/**
 * Within the budget of device memory: residency goes first, then rows of a step, then what the KV cache holds beyond
 * one context where nobody has asked for it.
 */
function planGpu(fixed: Fixed, gpu: MachineGpu): OnDevice {
  const { spec, slabs, options, calibration, contextLength, batch } = fixed
  const { placement = 'auto', ring } = options
  const wanted = budgetBytes('vramBudget', options.vramBudget ?? DEFAULT_VRAM_BUDGET, gpu.memoryFreeBytes)
  const budget = Math.min(wanted, gpu.memoryFreeBytes)
  const decode = decodeRows({ contextLength, kvBytesPerToken: slabs.kvBytesPerToken, threads: fixed.threads }, batch)
  const mostOnCpu = (options.coExecute ?? true) ? undefined : 0
  const asWanted =
    placement === 'auto' ? undefined : place(slabs.units, homesOf(slabs.units, 'cuda', placement), ring, true)
  // A ring that is too small is told before memory is.
  if (!asWanted)
    place(
      slabs.units,
      slabs.units.map((unit) => (unit.kind === 'head' ? 'resident' : 'streamed')),
      ring,
      true,
    )
  const rowsFor = (homes: readonly Home[]) => prefillRows(spec, withHomes(slabs.units, homes), calibration)
  const mostRows = rowsFor(asWanted?.homes ?? slabs.units.map(() => 'streamed' as const))
  let least: OnDevice | undefined
  for (const kvTokens of kvChoices(contextLength, options, batch)) {
    const tryRows = (rows: number): OnDevice | undefined => {
      const maxRows = MAX_LOGIT_ROWS + rows
      const room = budget - kvTokens * slabs.kvBytesPerToken - workspaceOf(fixed, maxRows)
      const placed = asWanted ?? fastestHomes(slabs.units, ring, room, decode, calibration, mostOnCpu)
      least = { ...(placed ?? leastHomes(slabs.units, ring)), kvTokens, maxRows, budget }
      if (!placed || placed.residentBytes + placed.ringBytes > room) return undefined
      // What is resident needs no more rows: their room serves residency.
      const enough = rowsFor(placed.homes)
      return enough < rows ? tryRows(enough) : least
    }
    for (const rows of [mostRows, GPU_PREFILL_ROWS, ...SHORT_OF_MEMORY_ROWS]) {
      const found = tryRows(rows)
      if (found) return found
    }
  }
  const { residentBytes, ringBytes, kvTokens, maxRows } = least!
  const parts = {
    'resident weights': residentBytes,
    ring: ringBytes,
    'KV cache': kvTokens * slabs.kvBytesPerToken,
    workspace: workspaceOf(fixed, maxRows),
  }
  const needed = Object.values(parts).reduce((sum, bytes) => sum + bytes, 0)
  const list = Object.entries(parts).map(([name, bytes]) => `${name} ${megabytes(bytes)}`)
  const limit =
    wanted > gpu.memoryFreeBytes
      ? `${megabytes(gpu.memoryFreeBytes)} are free on it`
      : `the budget is ${megabytes(budget)} of ${megabytes(gpu.memoryFreeBytes)} free`
  throw new MillraceError('OUT_OF_MEMORY', {
    message: `the model needs at least ${megabytes(needed)} of memory on ${gpu.name} (${list.join(', ')}), ${limit}`,
    remedy: `lower contextLength, maxSequences or kvTokens${asWanted ? ", use placement: 'auto'" : ''}, or raise vramBudget`,
  })
}

/** What takes least: of the head's two homes the one that does. */
function leastHomes(units: readonly NativeUnit[], ring: number | string | undefined): Placed {
  const [first, second] = (['resident', 'streamed'] as const).map((head) =>
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

function withHomes(units: readonly NativeUnit[], homes: readonly Home[]): CostedUnit[] {
  return units.map((unit, index) => ({ ...unit, home: homes[index]! }))
}

/** In multiples of 64, the rows of a tile. */
function prefillRows(spec: ModelSpec, units: readonly CostedUnit[], calibration: Calibration): number {
  const even = Math.ceil(breakEvenRows(spec, units, calibration) / 64) * 64
  return Math.min(MOST_PREFILL_ROWS, Math.max(GPU_PREFILL_ROWS, even))
}

function workspaceOf({ spec, slabs, contextLength }: Fixed, maxRows: number): number {
  return workspaceBytes(spec, slabs.units, { maxRows, maxLogitRows: MAX_LOGIT_ROWS, contextLength })
}

function decodeRows(of: Pick<ModelPlan, 'contextLength' | 'kvBytesPerToken' | 'threads'>, rows: number) {
  const { contextLength, kvBytesPerToken, threads } = of
  return { rows, context: Math.min(PREDICTED_CONTEXT, contextLength), kvBytesPerToken, threads }
}

/** How fast a plan is on this machine. */
export function predictionOf(spec: ModelSpec, plan: Omit<ModelPlan, 'prediction'>, machine: Machine): Prediction {
  const { device, units, ringBytes, batch, maxRows } = plan
  const gpu = device === 'cpu' ? undefined : machine.gpus[Number(device.slice('cuda:'.length))]
  const calibration = gpu?.calibration ?? machine.calibration
  const prompt = Math.min(PREDICTED_PROMPT, plan.contextLength)
  const decode = (rows: number) =>
    gpu
      ? predictDecode(units, ringBytes, decodeRows(plan, rows), calibration)
      : predictCpu(units, decodeRows(plan, rows), calibration)
  // The twin's rows are bound by arithmetic, in a prompt as in a large batch.
  const prefill = gpu
    ? predictPrefill(spec, units, prompt, maxRows - MAX_LOGIT_ROWS, calibration)
    : { tokens: prompt, tokensPerSecond: decode(ROWS[ROWS.length - 1]!).tokensPerSecond, boundBy: 'cpu' as const }
  return { calibrated: calibration.calibrated, single: decode(1), batch: decode(batch), prefill }
}

function checkRam(plan: Omit<ModelPlan, 'prediction'>, options: PlanOptions, machine: Machine): void {
  const limit =
    options.ramBudget === undefined
      ? machine.memoryLimitBytes
      : budgetBytes('ramBudget', options.ramBudget, machine.memoryLimitBytes)
  const needed = plan.hostBytes + (plan.device === 'cpu' ? plan.ringBytes + plan.kvBytes : 0)
  if (needed <= limit) return
  throw new MillraceError('OUT_OF_MEMORY', {
    message: `the model needs ${megabytes(needed)} of RAM (weights ${megabytes(plan.hostBytes)}, KV cache ${megabytes(plan.kvBytes)}, ring ${megabytes(plan.ringBytes)}), ${options.ramBudget === undefined ? 'this process may use' : 'ramBudget is'} ${megabytes(limit)}`,
    remedy:
      'lower contextLength, maxSequences or kvTokens, raise ramBudget if the machine has more, or choose a smaller model',
  })
}

/** 'cpu' or 'cuda:<index>'. Throws DEVICE_UNAVAILABLE. */
export function chooseDevice(device: string, machine: Machine): string {
  const count = machine.gpus.length
  if (device === 'cpu' || (device === 'auto' && count === 0)) return 'cpu'
  if (machine.gpuLost) throw new MillraceError('GPU_LOST', { message: machine.gpuReason })
  const index = device === 'auto' || device === 'cuda' ? 0 : Number(device.slice('cuda:'.length))
  if (index < count) return `cuda:${index}`
  throw new MillraceError('DEVICE_UNAVAILABLE', {
    message: `device '${device}' cannot be used: ${count > 0 ? `there are ${count} GPUs, counted from 0` : machine.gpuReason}`,
  })
}

function sizeArena(homes: readonly Home[], arena: PlanOptions['arena']): number {
  if (!homes.includes('shared')) return 0
  return typeof arena === 'string' ? parseBytes(arena)! : (arena ?? 0)
}

function chooseContext(spec: ModelSpec, wanted: number | undefined): number {
  if (wanted === undefined) return Math.min(spec.maxPosition, DEFAULT_CONTEXT)
  if (wanted > spec.maxPosition) {
    throw invalidArgument(
      `at most the ${spec.maxPosition} positions that the model was made for`,
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

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`
}

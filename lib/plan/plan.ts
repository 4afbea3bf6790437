/**
 * Placement policy: which unit rests where, and how much memory ring and KV get. Pure: the native side executes any
 * homes it is handed.
 */
import type { Home, ModelSpec, NativeSlabPlan, NativeUnit } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument, type PlanOptions, parseBytes } from '../options.ts'

export interface PlannedUnit {
  kind: 'attention' | 'feedForward' | 'head'
  /** -1 of the head. */
  layer: number
  home: Home
  bytes: number
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
  embeddingBytes: number
  /** Copied into the ring at every pass over the model. */
  streamedBytesPerPass: number
  /** Rows of a step: one a decoding sequence, the rest for prompts. */
  maxRows: number
  threads: number
}

/** What the plan needs to know about the machine. */
export interface Machine {
  cores: number
  /** RAM that this process may use at most. */
  memoryLimitBytes: number
  /** GPUs that can be used, and why if there are none. */
  gpus: number
  gpuReason: string
}

/** Positions of a KV block: kKvBlockTokens in csrc/backend/backend.h. */
export const KV_BLOCK_TOKENS = 16
/** Rows whose logits may be asked for in a step: sequences that run at once, or positions scored. */
export const MAX_LOGIT_ROWS = 64

// Prompts are worth about this many rows a step on the twin: its linears are then bound by arithmetic, not by memory.
const CPU_PREFILL_ROWS = 128
// On a GPU prefill is bound by arithmetic from a few hundred rows on; a step of so many bounds the wait of those that decode.
const GPU_PREFILL_ROWS = 1984
const DEFAULT_CONTEXT = 4096
const DEFAULT_SEQUENCES = 4
const DEFAULT_RING_UNITS = 2
const DEFAULT_TURN_MS = 250

/** Throws INVALID_ARGUMENT, DEVICE_UNAVAILABLE, or OUT_OF_MEMORY where the machine can never hold the model. */
export function makePlan(spec: ModelSpec, slabs: NativeSlabPlan, options: PlanOptions, machine: Machine): ModelPlan {
  const device = chooseDevice(options.device ?? 'auto', machine)
  const homes = chooseHomes(slabs.units, device, options.placement ?? 'auto')
  const units = slabs.units.map(({ kind, layer, bytes }, index): PlannedUnit => {
    return { kind, layer, home: homes[index]!, bytes }
  })
  const streamed = units.filter((unit) => unit.home === 'streamed')
  // On a GPU prompts pass through the units that answers leave to the CPU, so these need the ring too.
  // Shared units do while they have no room in the arena.
  const ringed = units.filter(
    ({ home }) => home === 'streamed' || home === 'shared' || (device !== 'cpu' && home === 'cpu'),
  )
  const ringBytes = sizeRing(ringed, options.ring ?? DEFAULT_RING_UNITS)
  const contextLength = chooseContext(spec, options.contextLength)
  const kvTokens = chooseKv(contextLength, options)
  const plan: ModelPlan = {
    device,
    units,
    ringBytes,
    arenaBytes: sizeArena(units, options.arena),
    turnMs: options.turnMs ?? DEFAULT_TURN_MS,
    contextLength,
    kvBytesPerToken: slabs.kvBytesPerToken,
    kvTokens,
    kvBytes: kvTokens * slabs.kvBytesPerToken,
    hostBytes: total(slabs.units) + slabs.embeddingBytes,
    embeddingBytes: slabs.embeddingBytes,
    streamedBytesPerPass: total(streamed),
    maxRows: MAX_LOGIT_ROWS + (device === 'cpu' ? CPU_PREFILL_ROWS : GPU_PREFILL_ROWS),
    threads: options.threads ?? machine.cores,
  }
  const onDevice = plan.ringBytes + plan.kvBytes
  const needed = plan.hostBytes + (device === 'cpu' ? onDevice : 0)
  if (needed > machine.memoryLimitBytes) {
    throw new MillraceError('OUT_OF_MEMORY', {
      message: `the model needs ${megabytes(needed)} of RAM (weights ${megabytes(plan.hostBytes)}, KV cache ${megabytes(plan.kvBytes)}, ring ${megabytes(plan.ringBytes)}), this process may use ${megabytes(machine.memoryLimitBytes)}`,
      remedy: 'lower contextLength, maxSequences or kvTokens, or choose a smaller model',
    })
  }
  return plan
}

function chooseDevice(device: string, machine: Machine): string {
  if (device === 'cpu' || (device === 'auto' && machine.gpus === 0)) return 'cpu'
  const index = device === 'auto' || device === 'cuda' ? 0 : Number(device.slice('cuda:'.length))
  if (index < machine.gpus) return `cuda:${index}`
  throw new MillraceError('DEVICE_UNAVAILABLE', {
    message: `device '${device}' cannot be used: ${machine.gpus > 0 ? `there are ${machine.gpus} GPUs, counted from 0` : machine.gpuReason}`,
  })
}

/** One home a unit. */
function chooseHomes(
  units: readonly NativeUnit[],
  device: string,
  placement: NonNullable<PlanOptions['placement']>,
): Home[] {
  const layers = (units.length - 1) / 2
  if (typeof placement !== 'string' && placement.length === units.length) {
    const misplaced = units.findIndex((unit, index) => placement[index] === 'cpu' && unit.kind !== 'feedForward')
    if (device !== 'cpu' && misplaced >= 0) {
      throw invalidArgument(
        `'resident' or 'streamed' for ${units[misplaced]!.kind === 'head' ? 'the head' : 'attention'} on ${device}`,
        `placement[${misplaced}]`,
        'cpu',
        'beside a GPU the CPU computes feed-forwards only: keys and values stay on the GPU',
      )
    }
    return [...placement]
  }
  if (typeof placement !== 'string' && placement.length !== layers) {
    throw invalidArgument(`one home a layer (${layers}) or a unit (${units.length})`, 'placement', placement)
  }
  return units.map(({ kind, layer }) => {
    if (kind === 'head') return placement === 'shared' ? 'shared' : 'resident'
    // On the twin host memory is device memory, so all fits where the model fits at all, and resident is fastest.
    const home = typeof placement !== 'string' ? placement[layer]! : placement === 'auto' ? 'resident' : placement
    return home === 'cpu' && kind === 'attention' && device !== 'cpu' ? 'streamed' : home
  })
}

function sizeRing(streamed: readonly PlannedUnit[], ring: number | string): number {
  if (streamed.length === 0) return 0
  const largest = Math.max(...streamed.map((unit) => unit.bytes))
  if (typeof ring === 'number') return Math.min(ring, streamed.length) * largest
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

function sizeArena(units: readonly PlannedUnit[], arena: PlanOptions['arena']): number {
  if (!units.some((unit) => unit.home === 'shared')) return 0
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

/** In whole blocks, and never less than one full context: a request that was accepted can always run. */
function chooseKv(contextLength: number, options: PlanOptions): number {
  if (options.kvTokens !== undefined && options.maxSequences !== undefined) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: 'expected one of kvTokens and maxSequences but received both',
      remedy: 'kvTokens is the size of the KV cache; maxSequences gives it as a number of full contexts',
    })
  }
  const blocks = (tokens: number) => Math.ceil(tokens / KV_BLOCK_TOKENS)
  const context = blocks(contextLength)
  if (options.kvTokens !== undefined) return Math.max(context, blocks(options.kvTokens)) * KV_BLOCK_TOKENS
  return context * (options.maxSequences ?? DEFAULT_SEQUENCES) * KV_BLOCK_TOKENS
}

function total(units: readonly Pick<NativeUnit, 'bytes'>[]): number {
  return units.reduce((sum, unit) => sum + unit.bytes, 0)
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`
}

/** Which device has which unit: whole layers. */
import type { Home, NativeSlabPlan, NativeUnit, Program } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { PlanOptions } from '../options/model.ts'
import { invalidArgument } from '../options/validate.ts'
import { type PlannedKv, statesOf } from './kv.ts'
import type { Machine, ModelPlan } from './plan.ts'
import { hiddenOf, layersOf } from './program.ts'
import { type WorkspaceShape, workspaceBytes } from './vram.ts'

/** The units of one device. */
export interface Share {
  device: string
  /** Among the model's. */
  indices: number[]
  /** As a model of their own: layers counted from 0, and an empty head where that is on another device. */
  units: NativeUnit[]
  hasHead: boolean
  /** The only one. */
  alone: boolean
}

const NO_HEAD: NativeUnit = { name: 'head', kind: 'head', layer: -1, kvClass: -1, bytes: 0, types: [] }

/**
 * How layers are spread over devices. 'alternate': in turn, so that each device fills its ring while others compute.
 * 'halves': each device has layers that follow each other, and rows cross once from one device to the next.
 */
export type Spread = 'alternate' | 'halves'

/**
 * By unit, which device of the list has it. The head is with the last layer: its rows need not cross once more. Throws
 * INVALID_ARGUMENT.
 */
export function spreadUnits(units: readonly NativeUnit[], devices: readonly string[], spread: Spread): number[] {
  const layers = layersOf(units)
  const count = devices.length
  if (count > layers) throw invalidArgument(`no more devices than the model has layers (${layers})`, 'device', devices)
  return units.map(({ kind, layer }) => {
    const of = kind === 'head' ? layers - 1 : layer
    return spread === 'alternate' ? of % count : Math.floor((of * count) / layers)
  })
}

/** `deviceOf`: by unit, its place in the list of devices. */
export function sharesOf(
  units: readonly NativeUnit[],
  devices: readonly string[],
  deviceOf: readonly number[],
): Share[] {
  return devices.map((device, own) => {
    const indices = units.flatMap((_, index) => (deviceOf[index] === own ? [index] : []))
    const hasHead = indices.at(-1) === units.length - 1
    const layers = [...new Set(indices.map((index) => units[index]!.layer))]
    const renumbered = indices.map((index) => {
      const unit = units[index]!
      return unit.kind === 'head' ? unit : { ...unit, layer: layers.indexOf(unit.layer) }
    })
    return {
      device,
      indices,
      units: hasHead ? renumbered : [...renumbered, NO_HEAD],
      hasHead,
      alone: devices.length === 1,
    }
  })
}

/** The part of a model's homes, or of whatever else it has one a unit. */
export function homesOfShare({ indices, hasHead }: Share, homes: readonly Home[]): Home[] {
  return [...indices.map((index) => homes[index]!), ...(hasHead ? [] : (['resident'] as const))]
}

/** What homesOfShare() took apart. */
export function joinHomes(shares: readonly Share[], homes: readonly (readonly Home[])[]): Home[] {
  const joined: Home[] = []
  for (const [at, { indices }] of shares.entries()) {
    for (const [place, index] of indices.entries()) joined[index] = homes[at]![place]!
  }
  return joined
}

/** By unit, which of the plan's devices has it. */
export function deviceIndices({ units, devices, spread }: Pick<ModelPlan, 'units' | 'devices' | 'spread'>): number[] {
  return spreadUnits(
    units,
    devices.map(({ device }) => device),
    spread,
  )
}

/** KV cache of the device's layers. */
export function kvBytesOf(share: Share, { kv }: Pick<NativeSlabPlan, 'kv'>, planned: readonly PlannedKv[]): number {
  return share.units.reduce((sum, { kvClass }) => {
    if (kvClass < 0) return sum
    const { bytesPerToken, bytesPerSequence, layers } = kv[kvClass]!
    const own = planned[kvClass]!
    return sum + (own.tokens * bytesPerToken + statesOf(own) * bytesPerSequence) / layers
  }, 0)
}

/** Of the device's executor, and the rows that come to it from other devices. */
export function workspaceBytesOf(
  share: Share,
  program: Program,
  units: readonly NativeUnit[],
  shape: WorkspaceShape,
): number {
  const own = workspaceBytes(program, units, { ...shape, maxLogitRows: share.hasHead ? shape.maxLogitRows : 1 })
  return own + (share.alone ? 0 : shape.maxRows * hiddenOf(program) * 4)
}

/** 'cpu', or GPUs as 'cuda:<index>'. Throws DEVICE_UNAVAILABLE, GPU_LOST or INVALID_ARGUMENT. */
export function chooseDevices(device: PlanOptions['device'], machine: Machine): string[] {
  if (device === undefined || typeof device === 'string') return [chooseDevice(device ?? 'auto', machine)]
  const chosen = device.map((one) => chooseDevice(one, machine))
  const twins = chosen.every((one) => one === 'cpu')
  if (!twins && (chosen.includes('cpu') || new Set(chosen).size < chosen.length)) {
    throw invalidArgument('GPUs, each of them once,', 'device', device, "such as device: ['cuda:0', 'cuda:1']")
  }
  return chosen
}

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

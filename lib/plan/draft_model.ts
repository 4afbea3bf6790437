/** A model that drafts for another one: where it goes, and what that leaves to the other. */
import type { NativeSlabPlan, Program } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { DraftOptions, PlanOptions } from '../options/model.ts'
import { invalidArgument, parsePercent } from '../options/validate.ts'
import { chooseDevice } from './devices.ts'
import { megabytes } from './megabytes.ts'
import { type Machine, type ModelPlan, makePlan } from './plan.ts'
import { budgetBytes } from './vram.ts'

/** What is asked for by a name alone has every other field by default. */
export const draftOptionsOf = (draft: string | DraftOptions): DraftOptions =>
  typeof draft === 'string' ? { model: draft } : draft

/**
 * On the first device of the other one unless the options name another, resident unless they say otherwise; with keys
 * and values for as many tokens. `arena`: as the options of the other one have it. Throws as makePlan() does, and
 * INVALID_ARGUMENT where it would share another device's arena.
 */
function planDraft(
  program: Program,
  slabs: NativeSlabPlan,
  { device: asked, placement = 'resident' }: DraftOptions,
  target: ModelPlan,
  machine: Machine,
  arena?: PlanOptions['arena'],
): ModelPlan {
  const { batch, threads, maxLogitRows } = target
  const device = asked === undefined ? target.device : chooseDevice(asked, machine)
  if (placement === 'shared' && (target.devices.length > 1 || device !== target.device)) {
    throw invalidArgument("'resident' or 'streamed' on another device than the model's own", 'placement', placement)
  }
  return makePlan(
    program,
    // A draft model keeps all that its windows have passed: csrc/engine/draft_model.h.
    { ...slabs, kv: slabs.kv.map((one) => ({ ...one, window: 0 })) },
    {
      device,
      placement,
      arena: placement === 'shared' ? arena : undefined,
      contextLength: Math.min(target.contextLength, program.maxPosition),
      // What a sequence has drafted lies behind what the other one keeps of it.
      kvTokens: target.kvTokens + DRAFT_TOKENS * Math.min(maxLogitRows, MOST_DRAFTING),
      kv: target.kvType,
      kvSwap: 0,
      coExecute: false,
      batch,
      threads,
    },
    machine,
  )
}

/**
 * The plan of a large model with `draft` beside it: the draft model's first, what is left is the other one's. Throws as
 * makePlan() and planDraft() do.
 */
export function planBeside(
  program: Program,
  slabs: NativeSlabPlan,
  options: PlanOptions,
  machine: Machine,
  draft: { program: Program; slabs: NativeSlabPlan; options: DraftOptions } | undefined,
): ModelPlan {
  const alone = makePlan(program, slabs, options, machine)
  if (draft === undefined) return alone
  if (draft.program.kv.some(({ state = 0 }) => state > 0)) {
    throw invalidArgument(
      'a model without layers that keep a state',
      'draft',
      draft.options.model,
      'take a draft model of attention alone',
    )
  }
  const own = planDraft(draft.program, draft.slabs, draft.options, alone, machine, options.arena)
  checkBudget(own, options, machine)
  const left = besideDraft(options, machine, own, alone)
  return { ...makePlan(program, slabs, left.options, left.machine), draft: own }
}

/** Throws OUT_OF_MEMORY where nothing of the budget would be left for the large model. */
function checkBudget({ device, vramBytes }: ModelPlan, { vramBudget = '90%' }: PlanOptions, machine: Machine): void {
  if (device === 'cpu') return
  const free = machine.gpus[Number(device.slice('cuda:'.length))]!.memoryFreeBytes
  const budget = budgetBytes('vramBudget', vramBudget, free)
  if (vramBytes < budget) return
  throw new MillraceError('OUT_OF_MEMORY', {
    message: `the draft model takes ${megabytes(vramBytes)} on ${device}, the budget of both models is ${megabytes(budget)}`,
    remedy: "give it another device or placement: 'streamed', or 'cpu' as its device; or raise vramBudget",
  })
}

const DRAFT_TOKENS = 32
const MOST_DRAFTING = 64

/** What is left for the other one: of a budget that is named in bytes, and of the memory that is free. */
function besideDraft(
  options: PlanOptions,
  machine: Machine,
  draft: ModelPlan,
  alone: ModelPlan,
): { options: PlanOptions; machine: Machine } {
  const ram = draft.hostBytes + (draft.device === 'cpu' ? draft.kvBytes + draft.ringBytes : 0)
  const { ramBudget } = options
  const budget = ramBudget !== undefined && budgetBytes('ramBudget', ramBudget, machine.memoryLimitBytes)
  const rest = {
    ...machine,
    memoryLimitBytes: Math.max(0, machine.memoryLimitBytes - ram),
    memoryAvailableBytes: Math.max(0, machine.memoryAvailableBytes - ram),
  }
  const left = budget === false ? options : { ...options, ramBudget: Math.max(1, budget - ram) }
  return besideDraftOnGpu(left, rest, draft, alone)
}

function besideDraftOnGpu(
  options: PlanOptions,
  machine: Machine,
  draft: ModelPlan,
  alone: ModelPlan,
): { options: PlanOptions; machine: Machine } {
  const beside = alone.devices.some(({ device }) => device === draft.device)
  if (!beside || draft.device === 'cpu') return { options, machine }
  const index = Number(draft.device.slice('cuda:'.length))
  const gpus = machine.gpus.map((gpu, at) =>
    at === index ? { ...gpu, memoryFreeBytes: Math.max(0, gpu.memoryFreeBytes - draft.vramBytes) } : gpu,
  )
  const { memoryFreeBytes } = machine.gpus[index]!
  // On several GPUs a share of each is left as it is: the budget is one for all.
  const bytes =
    alone.devices.length === 1 || parsePercent(String(options.vramBudget ?? '90%')) === undefined
      ? budgetBytes('vramBudget', options.vramBudget ?? '90%', memoryFreeBytes)
      : undefined
  return {
    options:
      bytes === undefined ? options : { ...options, vramBudget: Math.max(1, Math.floor(bytes - draft.vramBytes)) },
    machine: { ...machine, gpus },
  }
}

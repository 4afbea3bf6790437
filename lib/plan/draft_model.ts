/** A model that drafts for another one: where it goes, and what that leaves to the other. */
import type { NativeSlabPlan, Program } from '../binding.ts'
import type { DraftOptions, PlanOptions } from '../options/model.ts'
import { invalidArgument, parseBytes, parsePercent } from '../options/validate.ts'
import { type Machine, type ModelPlan, makePlan } from './plan.ts'

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
  { device, placement = 'resident' }: DraftOptions,
  target: ModelPlan,
  machine: Machine,
  arena?: PlanOptions['arena'],
): ModelPlan {
  const { batch, threads, maxLogitRows } = target
  if (placement === 'shared' && (target.devices.length > 1 || (device ?? target.device) !== target.device)) {
    throw invalidArgument("'resident' or 'streamed' on another device than the model's own", 'placement', placement)
  }
  return makePlan(
    program,
    slabs,
    {
      device: device ?? target.device,
      placement,
      arena: placement === 'shared' ? arena : undefined,
      contextLength: Math.min(target.contextLength, program.maxPosition),
      // What a sequence has drafted lies behind what the other one keeps of it.
      kvTokens: target.kvTokens + DRAFT_TOKENS * Math.min(maxLogitRows, MOST_DRAFTING),
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
  const own = planDraft(draft.program, draft.slabs, draft.options, alone, machine, options.arena)
  const left = besideDraft(options, machine, own)
  return { ...makePlan(program, slabs, left.options, left.machine), draft: own }
}

const DRAFT_TOKENS = 32
const MOST_DRAFTING = 64

/** What is left for the other one: of a budget that is named in bytes, and of the memory that is free. */
function besideDraft(
  options: PlanOptions,
  machine: Machine,
  draft: ModelPlan,
): { options: PlanOptions; machine: Machine } {
  if (draft.device === 'cpu') return { options, machine }
  const index = Number(draft.device.slice('cuda:'.length))
  const gpus = machine.gpus.map((gpu, at) =>
    at === index ? { ...gpu, memoryFreeBytes: Math.max(0, gpu.memoryFreeBytes - draft.vramBytes) } : gpu,
  )
  const { vramBudget } = options
  const bytes = typeof vramBudget === 'number' ? vramBudget : vramBudget && parseBytes(vramBudget)
  const named = bytes && !(typeof vramBudget === 'string' && parsePercent(vramBudget) !== undefined)
  return {
    options: named ? { ...options, vramBudget: Math.max(1, bytes - draft.vramBytes) } : options,
    machine: { ...machine, gpus },
  }
}

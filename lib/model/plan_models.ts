/** planModels(): several models on one machine, which may be a described one. */
import { z } from 'zod'
import type { ErrorCode } from '../errors.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument, parseBytes, validate } from '../options/validate.ts'
import { type DescribedMachine, describedMachine, machineOf } from '../plan/described.ts'
import type { Machine, ModelPlan } from '../plan/plan.ts'
import { readMachine } from './machine.ts'
import { type PlanModelOptions, planOn } from './plan.ts'
import { runtime } from './runtime.ts'

export interface PlanModelsOptions extends Omit<PlanModelOptions, 'gpu' | 'arena' | 'signal'> {
  /** A machine that is not here, in the place of this one. */
  machine?: DescribedMachine | undefined
}

export interface PlannedModel {
  model: string
  /** Absent where it does not fit. */
  plan?: ModelPlan
  /** Why it does not fit, and what would help. */
  problem?: { code: ErrorCode; message: string; remedy?: string | undefined }
  /** Bytes over the link, and the time they take, until its first pass after another model had the GPU. */
  switchBytes: number
  switchSeconds: number
  /** At batch 1, with what of its weights has no room in the arena copied at every pass. */
  tokensPerSecond: number
  /** From the packed file, where the disk's rate is known. */
  loadSeconds?: number
}

export interface ModelsPlan {
  /**
   * `alone`: one model, or none that shares a GPU; `resident`: all side by side on the GPU; `shared`: one after the
   * other in an arena of `arenaBytes`, from RAM.
   */
  together: 'alone' | 'resident' | 'shared'
  arenaBytes: number
  models: PlannedModel[]
  /** Of all models: RAM of weights and of preempted requests, and what there is. */
  hostBytes: number
  hostLimitBytes: number
  /** On the GPU, the arena included, and what there is. */
  vramBytes: number
  vramLimitBytes: number
  /** What does not fit together, in sentences. */
  problems: string[]
  /** What fits and is slow for it. */
  warnings: string[]
}

const schema = z.looseObject({ machine: describedMachine.optional() })

/**
 * Plans for models that one process serves from one GPU. Models are named as plan() has them, options are those of each.
 * A model that does not fit is told in its `problem`. Rejects with INVALID_ARGUMENT for wrong options or no model.
 */
export async function planModels(models: readonly string[], options: PlanModelsOptions = {}): Promise<ModelsPlan> {
  const { machine: described } = validate(schema, options, 'options')
  if (!Array.isArray(models) || models.length === 0) {
    throw invalidArgument('a list of models, one at least', 'models', models)
  }
  const { machine: _, ...each } = options
  const here = readMachine(runtime().native)
  const machine = described === undefined ? here : machineOf(described, here)
  const alone = await planEach(models, each, machine)
  const fitting = alone.filter(({ plan }) => plan !== undefined)
  const onGpu = fitting.length > 0 && fitting.every(({ plan }) => plan!.device !== 'cpu')
  const result = onGpu && models.length > 1 ? await onOneGpu(alone, models, each, machine) : { planned: alone }
  return summary(result, machine, described)
}

interface Together {
  planned: PlannedModel[]
  together?: ModelsPlan['together']
  arenaBytes?: number
}

/** Where the disk's rate is known, what RAM has no room for stays there. */
async function planWithDisk(machine: Machine, model: string, options: PlanModelOptions): Promise<ModelPlan> {
  try {
    return await planOn(machine, model, options)
  } catch (error) {
    const short = MillraceError.isInstance(error) && error.code === 'OUT_OF_MEMORY' && options.ramBudget === undefined
    if (!short || machine.diskBytesPerSecond === undefined) throw error
    const within = { ...options, ramBudget: machine.memoryLimitBytes }
    const found = await planOn(machine, model, within).catch(() => undefined)
    if (found === undefined || found.fileBytes === 0) throw error
    return found
  }
}

async function planEach(models: readonly string[], options: PlanModelOptions, machine: Machine) {
  const planned: PlannedModel[] = []
  for (const model of models) {
    try {
      const plan = await planWithDisk(machine, model, options)
      const { tokensPerSecond } = plan.prediction.single
      planned.push({ model, plan, switchBytes: 0, switchSeconds: 0, tokensPerSecond })
    } catch (error) {
      if (!(error instanceof MillraceError) || error.code === 'INVALID_ARGUMENT') throw error
      const { code, message, remedy } = error
      planned.push({ model, problem: { code, message, remedy }, switchBytes: 0, switchSeconds: 0, tokensPerSecond: 0 })
    }
  }
  return planned
}

/** Side by side where all are resident so; else one after the other in what is left beside their own memory. */
async function onOneGpu(
  alone: PlannedModel[],
  models: readonly string[],
  options: PlanModelOptions,
  machine: Machine,
): Promise<Together> {
  const plans = alone.flatMap(({ plan }) => plan ?? [])
  const budget = Math.min(...plans.map((plan) => plan.vramBudgetBytes))
  const resident = plans.every((plan) => plan.streamedBytesPerPass === 0)
  if (resident && total(plans, 'vramBytes') <= budget) return { planned: alone, together: 'resident' }
  const shared = await planEach(models, { ...options, placement: 'shared' }, machine)
  const own = total(
    shared.flatMap(({ plan }) => plan ?? []),
    'vramBytes',
  )
  const arenaBytes = Math.max(0, budget - own)
  const link = machine.gpus[0]!.calibration.link.bytesPerSecond
  const planned = shared.map((one) => {
    if (one.plan === undefined) return one
    const { hostBytes, fileBytes, embeddingBytes } = one.plan
    const switchBytes = hostBytes + fileBytes - embeddingBytes
    const read = fileBytes === 0 ? 0 : fileBytes / machine.diskBytesPerSecond!
    const copied = Math.max(0, switchBytes - arenaBytes) / link
    const tokensPerSecond = 1 / Math.max(one.plan.prediction.single.passSeconds, copied)
    return { ...one, switchBytes, switchSeconds: Math.max(switchBytes / link, read), tokensPerSecond }
  })
  return { planned, together: 'shared', arenaBytes }
}

function summary(
  { planned, together = 'alone', arenaBytes = 0 }: Together,
  machine: Machine,
  described: DescribedMachine | undefined,
): ModelsPlan {
  const plans = planned.flatMap(({ plan }) => plan ?? [])
  const hostBytes = total(plans, 'hostBytes') + total(plans, 'windowBytes') + total(plans, 'kvSwapBytes')
  const vramBytes = total(plans, 'vramBytes') + arenaBytes
  const vramLimitBytes = Math.max(0, ...plans.map((plan) => plan.vramBudgetBytes))
  const disk = typeof described?.disk === 'string' ? parseBytes(described.disk)! : described?.disk
  const problems: string[] = []
  const warnings: string[] = []
  for (const { model, plan } of planned) {
    if (plan === undefined || plan.fileBytes === 0) continue
    warnings.push(
      `${model}: ${gb(plan.fileBytes)} of its weights have no room in RAM and stay on the disk, ${gb(plan.fileBytesPerPass)} are read a pass: load it with ramBudget`,
    )
  }
  for (const { model, problem } of planned) if (problem) problems.push(`${model}: ${problem.message}`)
  if (hostBytes > machine.memoryLimitBytes) {
    problems.push(`all of them take ${gb(hostBytes)} of RAM, and there are ${gb(machine.memoryLimitBytes)}`)
  }
  if (vramBytes > vramLimitBytes) {
    problems.push(
      `keys, values and working memory of all take ${gb(vramBytes)} of VRAM, and there are ${gb(vramLimitBytes)}: give them fewer tokens (kvTokens)`,
    )
  }
  if (together === 'shared') {
    for (const { model, switchBytes } of planned) {
      if (switchBytes <= arenaBytes) continue
      warnings.push(
        `${model} has ${gb(switchBytes)} of weights for an arena of ${gb(arenaBytes)}: the rest is copied at every pass; fewer tokens of keys and values (kvTokens) leave more room`,
      )
    }
  }
  return {
    together,
    arenaBytes,
    models: planned.map((one) =>
      disk === undefined || one.plan === undefined ? one : { ...one, loadSeconds: one.plan.hostBytes / disk },
    ),
    hostBytes,
    hostLimitBytes: machine.memoryLimitBytes,
    vramBytes,
    vramLimitBytes,
    problems,
    warnings,
  }
}

const gb = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`
const total = (plans: readonly ModelPlan[], of: 'vramBytes' | 'hostBytes' | 'windowBytes' | 'kvSwapBytes') =>
  plans.reduce((sum, plan) => sum + plan[of], 0)

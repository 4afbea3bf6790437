/** plan(): what a model would take and how fast it would be, without loading it. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { openCheckpoint } from '../checkpoint/checkpoint.ts'
import { buildDecoder } from '../checkpoint/decoder.ts'
import type { MillraceError } from '../errors.ts'
import { locate } from '../hub/locate.ts'
import {
  type DraftOptions,
  type HeadType,
  hubOptions,
  loadOptions,
  type PlanOptions,
  planOptions,
  type WeightsType,
} from '../options/model.ts'
import { invalidArgument, nearest, number, validate } from '../options/validate.ts'
import { type DescribedGpu, describedGpu, machineOf } from '../plan/described.ts'
import { draftOptionsOf, planBeside } from '../plan/draft_model.ts'
import { predictDrafts } from '../plan/drafts.ts'
import { mostDrafts } from '../plan/kv.ts'
import { type Machine, type ModelPlan, makePlan, passCosts } from '../plan/plan.ts'
import { readMachine } from './machine.ts'
import { callNative, runtime } from './runtime.ts'
import { findShape, SHAPES } from './shapes.ts'
import { requireNotAborted } from './signals.ts'
import { SYNTHETIC_DEFAULTS } from './synthetic.ts'

export interface PlanModelOptions extends PlanOptions {
  /** Of a checkpoint: as load() takes it. Of a shape: 'q4' or 'q8', or float16 by default. */
  head?: HeadType | undefined
  /** Of a checkpoint: as load() takes it. */
  weights?: WeightsType | undefined
  /** Of a model by name, as load() takes them. */
  revision?: string | undefined
  offline?: boolean | undefined
  /** Ends the reading of headers: of the hub they may be long in coming. */
  signal?: AbortSignal | undefined
  /** A GPU that is not here, in the place of those that are. */
  gpu?: DescribedGpu | undefined
  /** How often drafts would be right, from 0 to 1: then `prediction.drafted` says what they would bring. */
  acceptance?: number | undefined
  /** A draft model, as load() takes it, or the name of a shape: `draft` of the plan. */
  draft?: string | DraftOptions | undefined
}

const schema = z.strictObject({
  ...planOptions.shape,
  head: loadOptions.shape.head,
  weights: loadOptions.shape.weights,
  ...hubOptions,
  gpu: describedGpu.optional(),
  acceptance: number(0, 1).optional(),
  draft: loadOptions.shape.draft,
  signal: loadOptions.shape.signal,
})

/**
 * `model` is a Hugging Face folder, a GGUF file or a name of the hub, of which headers are read, or the name of a published shape ('llama3-8b'), as
 * with weights of 4 bits in groups of 128. Rejects as load() does.
 */
export async function plan(model: string, options: PlanModelOptions = {}): Promise<ModelPlan> {
  const { gpu } = validate(schema, options, 'options')
  const here = readMachine(runtime().native)
  return planOn(gpu === undefined ? here : machineOf({ gpu }, here), model, options)
}

/** plan() for a machine. */
export async function planOn(machine: Machine, model: string, options: PlanModelOptions): Promise<ModelPlan> {
  const {
    head,
    weights: made,
    revision,
    offline,
    gpu: _,
    acceptance,
    draft,
    signal,
    ...checked
  } = validate(schema, options, 'options')
  if (typeof model !== 'string' || model === '') throw noModel(model)
  requireNotAborted(signal, 'the plan')
  const { native } = runtime()
  const withDrafts = (plan: ModelPlan): ModelPlan => {
    if (acceptance === undefined) return plan
    const drafting = plan.draft && passCosts(plan.draft, machine)
    const { batch, kv } = plan
    const drafted = predictDrafts(passCosts(plan, machine), batch, acceptance, drafting?.[batch - 1], mostDrafts(kv))
    return { ...plan, prediction: { ...plan.prediction, drafted } }
  }
  const asked = draft === undefined ? undefined : draftOptionsOf(draft)
  const shape = shapeOf(model)
  if (shape) {
    const weights = { ...SYNTHETIC_DEFAULTS, ...(head === 'q4' || head === 'q8' ? { head } : {}) }
    const planned = (made: typeof shape) => {
      const { program } = buildDecoder(made)
      return { program, slabs: callNative(() => native.planSynthetic(program, weights)) }
    }
    const { program, slabs } = planned(shape)
    const draftShape = asked && shapeOf(asked.model)
    if (asked && !draftShape) throw invalidArgument('the name of a shape, as the model is', 'draft', asked.model)
    const beside = draftShape && { ...planned({ ...draftShape, vocab: shape.vocab }), options: asked! }
    return withDrafts(planBeside(program, slabs, checked, machine, beside))
  }
  if (!existsSync(model) && !/[./\\]/.test(model)) {
    throw noModel(model)
  }
  await using place = await locate(model, { revision, offline, signal }, 'headers')
  const checkpoint = await openCheckpoint(place.path, native, { head, weights: made })
  const { program } = checkpoint.config.named
  if (!asked) return withDrafts(makePlan(program, checkpoint.slabs, checked, machine))
  await using draftPlace = await locate(asked.model, { offline, signal }, 'headers')
  const small = await openCheckpoint(draftPlace.path, native, {})
  const beside = { program: small.config.named.program, slabs: small.slabs, options: asked }
  return withDrafts(planBeside(program, checkpoint.slabs, checked, machine, beside))
}

function noModel(received: unknown): MillraceError {
  const likely = typeof received === 'string' ? nearest(received, Object.keys(SHAPES)) : undefined
  const remedy = likely === undefined ? undefined : `did you mean '${likely}'?`
  return invalidArgument(`a folder or one of ${Object.keys(SHAPES).join(', ')}`, 'model', received, remedy)
}

/** The shape of that name, unless a model's folder has it. */
export function shapeOf(name: string) {
  return existsSync(join(name, 'config.json')) ? undefined : findShape(name)
}

/** The RAM that models take, before and after they are loaded. */
import { type Model, type ModelPlan, type PlanModelOptions, plan } from '../../index.ts'
import type { ModelSource } from './types.ts'

/** Options of load() that plans do not depend on. */
const BESIDE_PLANS = [
  'onProgress',
  'signal',
  'prefixReuse',
  'generationConfig',
  'deterministic',
  'maxQueue',
  'cache',
  'logger',
  'kernels',
  'poison',
] as const

/** By its plan: headers are read, no weights. */
export async function estimateBytes({ path, options }: ModelSource): Promise<number> {
  const kept = Object.entries(options).filter(([name]) => !BESIDE_PLANS.some((one) => one === name))
  return bytesOf(await plan(path, Object.fromEntries(kept) as PlanModelOptions))
}

export const takenBytes = (model: Model): number => bytesOf(model.plan)

function bytesOf({ device, hostBytes, kvSwapBytes, kvBytes, ringBytes }: ModelPlan): number {
  return hostBytes + kvSwapBytes + (device === 'cpu' ? kvBytes + ringBytes : 0)
}

/** The RAM that models take, before and after they are loaded. */
import {
  inspect,
  type LoadOptions,
  MillraceError,
  type Model,
  type ModelPlan,
  type PlanModelOptions,
  plan,
} from '../../index.ts'
import type { ModelSource } from './types.ts'

/** Options of load() that plans do not depend on: a new one that is missing here does not compile. */
const BESIDE_PLANS: Record<Exclude<keyof LoadOptions, keyof PlanModelOptions>, true> = {
  onProgress: true,
  prefixReuse: true,
  generationConfig: true,
  deterministic: true,
  maxQueue: true,
  speculation: true,
  cache: true,
  logger: true,
  kernels: true,
  poison: true,
}

/** By its plan: headers are read, no weights. Rejects as load() does. */
export async function estimateBytes({ path, options }: ModelSource, signal?: AbortSignal): Promise<number> {
  const kept = Object.fromEntries(Object.entries(options).filter(([name]) => !(name in BESIDE_PLANS)))
  try {
    return bytesOf(await plan(path, { ...(kept as PlanModelOptions), signal }))
  } catch (error) {
    // Plans know shapes by name, too, of which there is nothing to serve.
    const isPath = MillraceError.isInstance(error) && / for model but received /.test(error.message)
    if (isPath) await inspect(path, { revision: options.revision, offline: options.offline, signal })
    throw error
  }
}

export const takenBytes = (model: Model): number => bytesOf(model.plan)

function bytesOf({ device, hostBytes, kvSwapBytes, kvBytes, ringBytes, draft }: ModelPlan): number {
  return (draft ? bytesOf(draft) : 0) + hostBytes + kvSwapBytes + (device === 'cpu' ? kvBytes + ringBytes : 0)
}

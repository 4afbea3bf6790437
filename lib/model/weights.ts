import type { NativeDraftModel, NativeKernelImage, NativeModel, NativeWeightsSource } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { deviceIndices } from '../plan/devices.ts'
import { kvBlocks } from '../plan/kv.ts'
import type { ModelPlan } from '../plan/plan.ts'
import { awaitNative, runtime } from './runtime.ts'
import { abortedError, onAbort, requireNotAborted } from './signals.ts'

export interface WeightsOptions {
  prefixReuse: boolean
  deterministic: boolean
  /** 0: no limit. */
  maxQueue: number
  /** As NativeLoadRequest has it. */
  passCosts: number[]
  draft?: NativeDraftModel | undefined
  poison: boolean
  kernels?: NativeKernelImage[]
  signal: AbortSignal | undefined
  /** Bytes repacked, of all. What it throws ends the load. */
  onProgress: (done: number, total: number) => void
}

/** Executes a plan. Rejects with ABORTED, or with what onProgress has thrown; nothing is left behind then. */
export async function loadWeights(
  source: NativeWeightsSource,
  plan: ModelPlan,
  { signal, onProgress, ...settings }: WeightsOptions,
): Promise<NativeModel> {
  requireNotAborted(signal, 'the load')
  const { native } = runtime()
  let callbackFailure: { error: unknown } | undefined
  const loadId = runtime().addLoad((done, total) => {
    if (callbackFailure) return
    try {
      onProgress(done, total)
    } catch (error) {
      callbackFailure = { error }
      native.cancelLoad(loadId)
    }
  })
  const offAbort = signal && onAbort(signal, () => native.cancelLoad(loadId))
  try {
    const model = await awaitNative(() =>
      native.load({
        ...source,
        devices: plan.devices.map(({ device }) => device),
        homes: plan.units.map((unit) => unit.home),
        unitDevices: plan.devices.length === 1 ? [] : deviceIndices(plan),
        ringBytes: plan.devices.map(({ ringBytes }) => ringBytes),
        windowBytes: plan.devices.map(({ windowBytes }) => windowBytes),
        inFile: plan.fileBytes === 0 ? [] : plan.units.map(({ inFile = false }) => inFile),
        directHops: true,
        arenaBytes: Math.max(plan.arenaBytes, plan.draft?.arenaBytes ?? 0),
        expertCacheBytes: plan.expertCacheBytes,
        answers: plan.experts?.cpu,
        turnMs: plan.turnMs,
        cpuRows: plan.cpuRows,
        contextLength: plan.contextLength,
        kvBlocks: kvBlocks(plan.kv),
        draftStates: Math.max(0, ...plan.kv.map(({ drafts = 0 }) => drafts)),
        kvType: plan.kvType,
        kvSwapBytes: plan.kvSwapBytes,
        maxRows: plan.maxRows,
        maxLogitRows: plan.maxLogitRows,
        threads: plan.threads,
        ...settings,
        loadId,
      }),
    )
    // The load may have been done when the cancel came.
    if (signal?.aborted || callbackFailure) {
      await awaitNative(() => model.close(false, 0))
      throw callbackFailure ? callbackFailure.error : abortedError(signal!, 'the load')
    }
    runtime().addModel(model)
    return model
  } catch (error) {
    if (callbackFailure) throw callbackFailure.error
    if (signal?.aborted && MillraceError.isInstance(error)) throw abortedError(signal, 'the load')
    throw error
  } finally {
    offAbort?.()
    runtime().removeLoad(loadId)
  }
}

/** This environment's one connection to the engine: routes its events, and keeps the process alive while work pends. */
import { channel } from 'node:diagnostics_channel'
import { addon, type NativeAddon, type NativeEvent, type NativeModel, type NativeTokensEvent } from '../binding.ts'
import { MillraceError } from '../errors.ts'

export interface RequestHandler {
  /** Must not throw. */
  onEvent(event: NativeTokensEvent): void
}

class Runtime {
  readonly native: NativeAddon
  readonly #requests = new Map<number, RequestHandler>()
  readonly #loads = new Map<number, (done: number, total: number) => void>()
  /** By id. Held weakly: a model that everybody has forgotten may go. */
  readonly #models = new Map<number, WeakRef<NativeModel>>()
  #observing = false
  #pending = 0
  #nextLoad = 1

  constructor(native: NativeAddon) {
    this.native = native
    native.attach((events) => this.#dispatch(events))
  }

  /** Keeps the process alive until the returned function is called, once or more. */
  hold(): () => void {
    if (this.#pending++ === 0) this.native.ref()
    let held = true
    return () => {
      if (!held) return
      held = false
      if (--this.#pending === 0) this.native.unref()
    }
  }

  /** Events come on later turns of the loop, so registering after submit() misses none. */
  addRequest(id: number, handler: RequestHandler): void {
    this.#requests.set(id, handler)
    this.#observe()
  }

  addModel(model: NativeModel): void {
    this.#models.set(model.id, new WeakRef(model))
    if (this.#observing) model.observeSteps(true)
  }

  removeModel(id: number): void {
    this.#models.delete(id)
  }

  addLoad(onProgress: (done: number, total: number) => void): number {
    const id = this.#nextLoad++
    this.#loads.set(id, onProgress)
    return id
  }

  removeLoad(id: number): void {
    this.#loads.delete(id)
  }

  /** Steps are told while somebody listens; diagnostics channels do not say when somebody begins to. */
  #observe(): void {
    if (stepChannel.hasSubscribers === this.#observing) return
    this.#observing = stepChannel.hasSubscribers
    for (const [id, reference] of this.#models) {
      const model = reference.deref()
      if (model) model.observeSteps(this.#observing)
      else this.#models.delete(id)
    }
  }

  #dispatch(events: readonly NativeEvent[]): void {
    this.#observe()
    for (const event of events) {
      if (event.type === 'step') {
        const { type: _, ...step } = event
        stepChannel.publish(step)
        continue
      }
      if (event.type === 'progress') {
        this.#loads.get(event.load)?.(event.done, event.total)
        continue
      }
      const handler = this.#requests.get(event.request)
      if (event.finish !== undefined) this.#requests.delete(event.request)
      handler?.onEvent(event)
    }
  }
}

let instance: Runtime | undefined

/** Throws ADDON_NOT_BUILT. */
export function runtime(): Runtime {
  instance ??= new Runtime(addon())
  return instance
}

/** Calls native code; what it throws becomes a MillraceError. */
export function callNative<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw MillraceError.fromNative(error)
  }
}

/** Awaits native code; what it rejects with becomes a MillraceError. */
export async function awaitNative<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (error) {
    throw MillraceError.fromNative(error)
  }
}

/** Of a pass over a model: NativeStepEvent without its type. Nothing is collected while nobody subscribes. */
const stepChannel = channel('millrace:step')

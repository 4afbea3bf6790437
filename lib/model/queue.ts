/** The requests of one model that have not ended. */
import type { NativeModel } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { Logger } from '../log.ts'

interface Member {
  cancel(): void
}

/**
 * Who is admitted has a place with the engine, which counts those that may wait: one limit holds for texts that are being
 * tokenised and for requests that wait for their first step.
 */
export class RequestQueue {
  readonly native: NativeModel
  readonly log: Logger
  readonly #open = new Set<Member>()
  /** Of those, the ones that the engine has not been handed yet. */
  readonly #pending = new Set<Member>()
  #closed = false
  #onNonePending: (() => void) | undefined

  constructor(native: NativeModel, log: Logger) {
    this.native = native
    this.log = log
  }

  /** The request's id. Throws MODEL_CLOSED, or the engine's QUEUE_FULL. */
  admit(member: Member): number {
    this.requireOpen()
    const id = this.native.admit()
    this.#open.add(member)
    this.#pending.add(member)
    return id
  }

  /** The engine has it. */
  submitted(member: Member): void {
    this.#pending.delete(member)
    this.#tell()
  }

  /** It has ended. */
  leave(member: Member): void {
    this.#open.delete(member)
    if (!this.#pending.delete(member)) return
    this.native.withdraw()
    this.#tell()
  }

  requireOpen(): void {
    if (this.#closed) throw closedError()
  }

  /** From now on nobody is admitted. */
  shut(): void {
    this.#closed = true
  }

  get anyPending(): boolean {
    return this.#pending.size > 0
  }

  /** Waits until the engine has all that were admitted, for so long at most. */
  async handedOver(timeoutMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      this.#onNonePending = resolve
      timer = setTimeout(resolve, timeoutMs)
    })
    clearTimeout(timer)
  }

  /** Ends those that the engine does not have, or all. */
  cancel(which: 'pending' | 'all'): void {
    for (const member of which === 'all' ? this.#open : this.#pending) member.cancel()
  }

  #tell(): void {
    if (!this.anyPending) this.#onNonePending?.()
  }
}

export function closedError(): MillraceError {
  return new MillraceError('MODEL_CLOSED', { message: 'the model was closed' })
}

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
  /** Told whenever a member has gone on. */
  readonly #waiting = new Set<() => void>()

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
    if (this.#pending.delete(member)) this.native.withdraw()
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
  handedOver(timeoutMs: number): Promise<void> {
    return this.#until(() => !this.anyPending, timeoutMs)
  }

  /** Waits until all have ended, for so long at most. */
  ended(timeoutMs: number): Promise<void> {
    return this.#until(() => this.#open.size === 0, timeoutMs)
  }

  async #until(isSo: () => boolean, timeoutMs: number): Promise<void> {
    if (isSo()) return
    let look = () => {}
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      look = () => {
        if (isSo()) resolve()
      }
      this.#waiting.add(look)
      timer = setTimeout(resolve, timeoutMs)
    })
    clearTimeout(timer)
    this.#waiting.delete(look)
  }

  /** Ends those that the engine does not have, or all. */
  cancel(which: 'pending' | 'all'): void {
    for (const member of which === 'all' ? this.#open : this.#pending) member.cancel()
  }

  #tell(): void {
    for (const look of this.#waiting) look()
  }
}

export function closedError(): MillraceError {
  return new MillraceError('MODEL_CLOSED', { message: 'the model was closed' })
}

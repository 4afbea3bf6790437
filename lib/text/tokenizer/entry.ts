/** A task of the tokenizers' threads, as its caller's side keeps it. */
import { onAbort } from '../../model/signals.ts'
import { sizeOf } from './messages.ts'
import type { Reply, Task } from './protocol.ts'

export type Answer = Exclude<Reply, { error: unknown } | { begun: true }>

/** A task until it is settled; the thread may have it longer. */
export class Entry {
  readonly task: Task
  /** Whose it is; undefined while a tokenizer is being opened. */
  readonly owner: object | undefined
  readonly answer: Promise<Answer>
  /** Of its text, or of all in its conversation; about, where a tokenizer is being opened. */
  readonly characters: number
  live = true
  /** The thread has its tokenizer, and is at the task itself. */
  begun = false
  #resolve!: (answer: Answer) => void
  #reject!: (error: unknown) => void
  #off: (() => void) | undefined

  readonly #onSettled: () => void

  /** `onSettled` is called once. */
  constructor(task: Task, owner: object | undefined, onSettled: () => void) {
    this.task = task
    this.owner = owner
    this.#onSettled = onSettled
    this.characters = 'text' in task ? task.text.length : 'chat' in task ? sizeOf(task.chat) : 1024
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  listen(signal: AbortSignal, onAborted: () => void): void {
    this.#off = onAbort(signal, onAborted)
  }

  resolve(answer: Answer): void {
    this.#settle()
    this.#resolve(answer)
  }

  reject(error: unknown): void {
    this.#settle()
    this.#reject(error)
  }

  #settle(): void {
    if (!this.live) return
    this.live = false
    this.#off?.()
    this.#onSettled()
  }
}

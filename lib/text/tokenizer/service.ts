/**
 * The one thread that all tokenizers of this environment (the main thread, or a worker of the application's) share:
 * parsing and tokenising never hold the event loop, two models of one tokenizer share it, and a chat template, which is
 * a program of the checkpoint's, holds nobody up: it ends within a bound of steps, and the thread's memory is bounded.
 */
import { MillraceError } from '../../errors.ts'
import { abortedError, onAbort } from '../../model/signals.ts'
import type { OpenedTokenizer, Reply, Task } from './protocol.ts'
import { HEAP_LIMIT_MB, startThread, type TokenizerThread } from './thread.ts'

/**
 * Tasks, and characters of texts, that the thread has at once: enough to keep it busy, and few, since what it has can
 * be called back no more.
 */
const WINDOW_TASKS = 16
const WINDOW_CHARACTERS = 64 * 1024
/**
 * How long the others wait for what the thread is at once nobody wants it any more: most texts end within it, and some
 * take minutes, such as one word of millions of letters. Then another thread starts and reads its
 * tokenizers again.
 */
const GRACE_MS = 200

type Answer = Exclude<Reply, { error: unknown } | { begun: true }>

/** A task until it is settled; the thread may have it longer. */
class Entry {
  readonly task: Task
  /** Whose it is; undefined while a tokenizer is being opened. */
  readonly owner: object | undefined
  readonly answer: Promise<Answer>
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
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  get characters(): number {
    return 'text' in this.task ? this.task.text.length : 1024
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

class TokenizerService {
  /** By id, in their order. */
  readonly #waiting = new Map<number, Entry>()
  /** What the thread has, in its order: it works on the first. */
  readonly #sent = new Map<number, Entry>()
  /** How many use each tokenizer, by key; none of those that the thread shall forget. */
  readonly #users = new Map<string, number>()
  #thread: TokenizerThread | undefined
  /** Of the task that the thread is at, while nobody wants it. */
  #grace: NodeJS.Timeout | undefined
  #next = 0
  /** Tasks that are not settled, and those of them that open a tokenizer. */
  #pending = 0
  #opening = 0

  /** The tokenizer of a folder, with the caller as one user more. */
  async open(folder: string, signal?: AbortSignal): Promise<OpenedTokenizer> {
    const answer = await this.ask({ open: folder }, undefined, signal)
    return (answer as Extract<Answer, { opened: unknown }>).opened
  }

  /** The last user's leaving frees the tokenizer; without any, the thread ends. */
  leave(key: string): void {
    this.#users.set(key, this.#users.get(key)! - 1)
    this.#rest()
  }

  /** Rejects with ABORTED, with what the thread says, or with what fail() is given. */
  ask(task: Task, owner: object | undefined, signal?: AbortSignal): Promise<Answer> {
    const opens = 'open' in task
    const what = opens ? 'the load' : 'the request'
    if (signal?.aborted) return Promise.reject(abortedError(signal, what))
    const id = this.#next++
    const entry = new Entry(task, owner, () => {
      this.#pending--
      if (opens) this.#opening--
    })
    this.#pending++
    if (opens) this.#opening++
    if (signal) entry.listen(signal, () => this.#drop(id, entry, abortedError(signal, what)))
    this.#waiting.set(id, entry)
    this.#pump()
    return entry.answer
  }

  /** Ends what an owner has asked. */
  fail(owner: object, error: MillraceError): void {
    for (const [id, entry] of [...this.#sent, ...this.#waiting]) {
      if (entry.owner === owner && entry.live) this.#drop(id, entry, error)
    }
  }

  #drop(id: number, entry: Entry, error: unknown): void {
    this.#waiting.delete(id)
    entry.reject(error)
    this.#watch()
    this.#rest()
  }

  /**
   * Lets the thread end what nobody wants, but not for long. Reading a tokenizer is no part of that: a thread that were
   * ended meanwhile would never have it where callers are in a hurry.
   */
  #watch(): void {
    const [first] = this.#sent.values()
    if (!first || first.live || !first.begun) return
    this.#grace ??= setTimeout(() => this.#replace(), GRACE_MS)
    this.#grace.unref()
  }

  #unwatch(): void {
    clearTimeout(this.#grace)
    this.#grace = undefined
  }

  /** Gives the thread as much as it shall have. */
  #pump(): void {
    let characters = 0
    for (const sent of this.#sent.values()) characters += sent.characters
    for (const [id, entry] of this.#waiting) {
      characters += entry.characters
      if (this.#sent.size > 0 && (this.#sent.size >= WINDOW_TASKS || characters > WINDOW_CHARACTERS)) break
      this.#waiting.delete(id)
      this.#thread ??= startThread({
        onReply: (reply) => this.#onReply(reply),
        onDeath: (cause) => this.#onDeath(cause),
      })
      this.#thread.post({ id, ...entry.task })
      this.#sent.set(id, entry)
    }
    this.#rest()
  }

  #onReply(reply: Reply): void {
    const entry = this.#sent.get(reply.id)
    if ('begun' in reply) {
      if (entry) entry.begun = true
      this.#watch()
      return
    }
    this.#unwatch()
    this.#sent.delete(reply.id)
    if ('opened' in reply) {
      const { key } = reply.opened
      this.#users.set(key, (this.#users.get(key) ?? 0) + (entry?.live ? 1 : 0))
    }
    if ('error' in reply) entry?.reject(new MillraceError(reply.error.code, reply.error))
    else entry?.resolve(reply)
    this.#pump()
  }

  #onDeath(cause: Error): void {
    const limit = `more than ${HEAP_LIMIT_MB} MiB of memory`
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_WORKER_OUT_OF_MEMORY') {
      const message = `the tokenizer's thread failed: ${cause.message}`
      this.#replace(() => new MillraceError('INTERNAL', { message, cause }))
    } else {
      this.#replace((task) => {
        if ('chat' in task) {
          return new MillraceError('CHAT_TEMPLATE_INVALID', { message: `the chat, by its template, took ${limit}` })
        }
        const what = 'text' in task ? `a text of ${task.text.length} characters` : 'the tokenizer'
        const message = `${what} took the tokenizer's thread ${limit}`
        return new MillraceError('OUT_OF_MEMORY', { message, remedy: 'tokenise it in several parts', cause })
      })
    }
  }

  /** Fails what the thread was at, if that is not settled; a new thread does the rest. */
  #replace(error?: (task: Task) => MillraceError): void {
    this.#stop()
    const [first, ...others] = this.#sent
    const rest = [...others.filter(([, entry]) => entry.live), ...this.#waiting]
    this.#sent.clear()
    this.#waiting.clear()
    for (const [id, entry] of rest) {
      entry.begun = false
      this.#waiting.set(id, entry)
    }
    if (first && error) first[1].reject(error(first[1].task))
    this.#pump()
  }

  #stop(): void {
    this.#unwatch()
    this.#thread?.stop()
    this.#thread = undefined
  }

  /** Only pending work keeps the process alive, and only users keep tokenizers and thread. */
  #rest(): void {
    this.#thread?.hold(this.#pending > 0)
    // What is being opened may be a tokenizer that is about to be forgotten.
    if (this.#opening > 0) return
    for (const [key, users] of this.#users) {
      if (users > 0) continue
      this.#users.delete(key)
      this.#thread?.post({ forget: key })
    }
    if (this.#pending > 0 || this.#users.size > 0) return
    this.#sent.clear()
    this.#stop()
  }
}

let instance: TokenizerService | undefined

export function tokenizerService(): TokenizerService {
  instance ??= new TokenizerService()
  return instance
}

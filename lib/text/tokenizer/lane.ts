/** One of the tokenizers' threads: what waits for it, what it has, and what becomes of that when it ends. */
import { MillraceError } from '../../errors.ts'
import type { Entry } from './entry.ts'
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
 * take minutes, such as one of millions of letters. Then another thread starts and reads its tokenizers again.
 */
const GRACE_MS = 200

export interface LaneEvents {
  /** `isWanted`: its caller is there still. */
  onOpened(opened: OpenedTokenizer, isWanted: boolean): void
  /** Something was settled, or begun. */
  onChange(): void
}

export class Lane {
  readonly #events: LaneEvents
  /** How long an idle thread stays; undefined: until end(). */
  readonly #idleMs: number | undefined
  /** By id, in their order. */
  readonly #waiting = new Map<number, Entry>()
  /** What the thread has, in its order: it works on the first. */
  readonly #sent = new Map<number, Entry>()
  #thread: TokenizerThread | undefined
  /** Of the task that the thread is at, while nobody wants it. */
  #grace: NodeJS.Timeout | undefined
  #idle: NodeJS.Timeout | undefined

  constructor(events: LaneEvents, idleMs?: number) {
    this.#events = events
    this.#idleMs = idleMs
  }

  add(id: number, entry: Entry): void {
    this.#waiting.set(id, entry)
    this.#pump()
  }

  drop(id: number, entry: Entry, error: unknown): void {
    this.#waiting.delete(id)
    entry.reject(error)
    this.#watch()
    this.#settle()
  }

  /** Ends what an owner has asked. */
  fail(owner: object, error: MillraceError): void {
    for (const [id, entry] of [...this.#sent, ...this.#waiting]) {
      if (entry.owner === owner && entry.live) this.drop(id, entry, error)
    }
  }

  forget(key: string): void {
    this.#thread?.post({ forget: key })
  }

  /** Ends the thread. Nobody wants what it has. */
  end(): void {
    this.#sent.clear()
    this.#stop()
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
    this.#settle()
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
    if ('opened' in reply) this.#events.onOpened(reply.opened, entry?.live ?? false)
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
    clearTimeout(this.#idle)
    this.#thread?.stop()
    this.#thread = undefined
  }

  /** Only work that somebody waits for keeps the process alive. */
  #settle(): void {
    const isBusy = this.#waiting.size > 0 || [...this.#sent.values()].some(({ live }) => live)
    this.#thread?.hold(isBusy)
    clearTimeout(this.#idle)
    if (!isBusy && this.#thread && this.#idleMs !== undefined) {
      this.#idle = setTimeout(() => this.end(), this.#idleMs)
      this.#idle.unref()
    }
    this.#events.onChange()
  }
}

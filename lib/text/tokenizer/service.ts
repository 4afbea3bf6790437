/**
 * The threads that all tokenizers of this environment (the main thread, or a worker of the application's) share:
 * parsing and tokenising never hold the event loop, two models of one tokenizer share it, and a chat template, which is
 * a program of the checkpoint's, holds nobody up: it ends within a bound of steps, and a thread's memory is bounded.
 *
 * One thread is there as long as a tokenizer is, and a second longer, and does all but long texts. Those have a thread each for their size, so
 * that no text waits for one that is far longer; it is started, and reads its tokenizers again, with the first of them.
 */
import type { MillraceError } from '../../errors.ts'
import { abortedError } from '../../model/signals.ts'
import { type Answer, Entry } from './entry.ts'
import { Lane } from './lane.ts'
import type { OpenedTokenizer, Task } from './protocol.ts'

/**
 * Characters of the longest text of each thread but the last. Most texts take 1 us a character, those of one long word, or
 * of nothing but signs, up to 2.
 */
const LONGEST = [2 ** 16, 2 ** 20]
/** How long a thread of long texts stays when it has none: the next one may come soon, and a second tokenizer takes memory. */
const IDLE_MS = 30_000
/** How long threads stay without a tokenizer: a model that takes another's place need not wait for one to start. */
const EMPTY_MS = 1000

class TokenizerService {
  readonly #lanes: readonly Lane[]
  /** How many use each tokenizer, by key; none of those that the threads shall forget. */
  readonly #users = new Map<string, number>()
  #next = 0
  /** Tasks that are not settled, and those of them that open a tokenizer. */
  #pending = 0
  #opening = 0
  #ends: NodeJS.Timeout | undefined

  constructor() {
    const events = {
      onOpened: ({ key }: OpenedTokenizer, isWanted: boolean) => {
        this.#users.set(key, (this.#users.get(key) ?? 0) + (isWanted ? 1 : 0))
      },
      onChange: () => this.#rest(),
    }
    this.#lanes = [new Lane(events), ...LONGEST.map(() => new Lane(events, IDLE_MS))]
  }

  /** The tokenizer of a folder, with the caller as one user more. */
  async open(folder: string, signal?: AbortSignal): Promise<OpenedTokenizer> {
    const answer = await this.ask({ open: folder }, undefined, signal)
    return (answer as Extract<Answer, { opened: unknown }>).opened
  }

  /** The last user's leaving frees the tokenizer; without any, the threads end soon. */
  leave(key: string): void {
    this.#users.set(key, this.#users.get(key)! - 1)
    this.#rest()
  }

  /** Rejects with ABORTED, with what the thread says, or with what fail() is given. */
  ask(task: Task, owner: object | undefined, signal?: AbortSignal): Promise<Answer> {
    const opens = 'open' in task
    const what = opens ? 'the load' : 'the request'
    clearTimeout(this.#ends)
    if (signal?.aborted) return Promise.reject(abortedError(signal, what))
    const id = this.#next++
    const entry = new Entry(task, owner, () => {
      this.#pending--
      if (opens) this.#opening--
    })
    this.#pending++
    if (opens) this.#opening++
    const lane = this.#lanes[LONGEST.filter((longest) => entry.characters > longest).length]!
    if (signal) entry.listen(signal, () => lane.drop(id, entry, abortedError(signal, what)))
    lane.add(id, entry)
    return entry.answer
  }

  /** Ends what an owner has asked. */
  fail(owner: object, error: MillraceError): void {
    for (const lane of this.#lanes) lane.fail(owner, error)
  }

  /** Only users keep tokenizers and threads. */
  #rest(): void {
    // What is being opened may be a tokenizer that is about to be forgotten.
    if (this.#opening > 0) return
    for (const [key, users] of this.#users) {
      if (users > 0) continue
      this.#users.delete(key)
      for (const lane of this.#lanes) lane.forget(key)
    }
    if (this.#pending > 0 || this.#users.size > 0) return
    clearTimeout(this.#ends)
    this.#ends = setTimeout(() => {
      for (const lane of this.#lanes) lane.end()
    }, EMPTY_MS).unref()
  }
}

let instance: TokenizerService | undefined

export function tokenizerService(): TokenizerService {
  instance ??= new TokenizerService()
  return instance
}

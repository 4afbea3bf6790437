/**
 * Renders chat templates and tokenises long texts in a worker thread: the event loop goes on (100 kB take a fifth of a
 * second), and a template, which is a program of the checkpoint's, can neither run forever nor take all memory.
 */
import { Worker } from 'node:worker_threads'
import { type ErrorCode, MillraceError } from '../errors.ts'
import type { ChatMessage } from '../options/request.ts'
import type { Tokenizer } from './tokenizer.ts'

/** Characters. Shorter texts take a millisecond or two. */
export const LONG_TEXT = 1024

/** Milliseconds that a template may take: those of checkpoints take a few. */
const RENDER_LIMIT_MS = 5000
/** Of the thread's heap; a vocabulary of a quarter of a million tokens takes less than half of it. */
const HEAP_LIMIT_MB = 1024

export type EncodeMessage = { id: number } & EncodeTask
type EncodeTask =
  | { text: string; specialTokens: boolean }
  | { messages: readonly ChatMessage[]; special: { bosToken: string; eosToken: string } }
export type EncodedMessage =
  /** The template of the messages is about to be rendered, or has been. */
  | { id: number; rendering: boolean }
  /** A prompt that is short enough to be tokenised where it is used. */
  | { id: number; text: string }
  | { id: number; tokens: Int32Array }
  | { id: number; error: { code: ErrorCode; message: string; remedy: string } }

interface Pending {
  task: EncodeTask
  resolve: (answer: Int32Array | string) => void
  reject: (error: unknown) => void
}

export class TokenizerThread {
  readonly #tokenizer: Tokenizer
  readonly #folder: string
  readonly #script: URL | undefined
  readonly #pending = new Map<number, Pending>()
  #worker: Worker | undefined
  #rendering: { id: number; timer: NodeJS.Timeout } | undefined
  #next = 0

  /** `folder` has the tokenizer's files: the worker reads them itself, since copying them over takes longer. */
  constructor(tokenizer: Tokenizer, folder: string) {
    this.#tokenizer = tokenizer
    this.#folder = folder
    this.#script = workerScript()
  }

  /** Short texts at once; long ones as a promise. */
  encode(text: string, specialTokens: boolean): number[] | Promise<Int32Array> {
    if (text.length < LONG_TEXT || this.#script === undefined) return this.#tokenizer.encode(text, specialTokens)
    return this.#ask(this.#script, { text, specialTokens }) as Promise<Int32Array>
  }

  /**
   * The prompt that the checkpoint's template makes of the messages, where canEncodeChat() says so. Rejects with
   * CHAT_TEMPLATE_INVALID where the template takes too long or too much memory.
   */
  async encodeChat(messages: readonly ChatMessage[]): Promise<ArrayLike<number>> {
    const { bosToken, eosToken } = this.#tokenizer
    const answer = await this.#ask(this.#script!, { messages, special: { bosToken, eosToken } })
    return typeof answer === 'string' ? this.#tokenizer.encode(answer, false) : answer
  }

  /** Whether encodeChat() can be used: a message may hold more than texts, such as a function, that no thread can be sent. */
  canEncodeChat(messages: readonly ChatMessage[]): boolean {
    if (this.#script === undefined) return false
    try {
      structuredClone(messages)
      return true
    } catch {
      return false
    }
  }

  #ask(script: URL, task: EncodeTask): Promise<Int32Array | string> {
    return new Promise((resolve, reject) => {
      const id = this.#next++
      this.#pending.set(id, { task, resolve, reject })
      this.#post(script, id, task)
    })
  }

  #post(script: URL, id: number, task: EncodeTask): void {
    this.#worker ??= this.#startWorker(script)
    // Only pending work keeps the process alive.
    this.#worker.ref()
    this.#worker.postMessage({ id, ...task } satisfies EncodeMessage)
  }

  close(): void {
    this.#fail(new MillraceError('MODEL_CLOSED', { message: 'the model was closed' }))
    this.#stopWorker()
  }

  #startWorker(script: URL): Worker {
    const worker = new Worker(script, {
      workerData: this.#folder,
      // Flags of the process, such as --eval or --test, are not meant for it.
      execArgv: [],
      name: 'millrace tokenizer',
      resourceLimits: { maxOldGenerationSizeMb: HEAP_LIMIT_MB },
    })
    worker.on('message', (message: EncodedMessage) => {
      // What a worker that was given up still says counts no more.
      if (worker === this.#worker) this.#onMessage(message)
    })
    worker.on('error', (cause) => {
      if (worker !== this.#worker) return
      if (this.#rendering && (cause as NodeJS.ErrnoException).code === 'ERR_WORKER_OUT_OF_MEMORY') {
        this.#giveUpRendering(`more than ${HEAP_LIMIT_MB} MiB of memory`)
        return
      }
      this.#fail(new MillraceError('INTERNAL', { message: `the tokenizer's thread failed: ${cause.message}`, cause }))
      this.#stopWorker()
    })
    return worker
  }

  #onMessage(message: EncodedMessage): void {
    if ('rendering' in message) {
      this.#stopTimer()
      if (!message.rendering) return
      // Where this thread was busy for long, the answer may be there already: the loop reads it before the check.
      const timer = setTimeout(
        () =>
          setImmediate(() => {
            if (this.#rendering?.timer === timer) this.#giveUpRendering(`more than ${RENDER_LIMIT_MS / 1000} s`)
          }),
        RENDER_LIMIT_MS,
      )
      this.#rendering = { id: message.id, timer }
      return
    }
    const pending = this.#pending.get(message.id)
    this.#pending.delete(message.id)
    if (this.#pending.size === 0) this.#worker?.unref()
    if ('tokens' in message) pending?.resolve(message.tokens)
    else if ('text' in message) pending?.resolve(message.text)
    else pending?.reject(new MillraceError(message.error.code, message.error))
  }

  /** Fails what is being rendered; a new worker does the rest. */
  #giveUpRendering(what: string): void {
    const { id } = this.#rendering!
    this.#stopWorker()
    const pending = this.#pending.get(id)
    this.#pending.delete(id)
    pending?.reject(
      new MillraceError('CHAT_TEMPLATE_INVALID', { message: `${this.#folder}: the chat template took ${what}` }),
    )
    for (const [id, { task }] of this.#pending) this.#post(this.#script!, id, task)
  }

  #stopWorker(): void {
    this.#stopTimer()
    const worker = this.#worker
    this.#worker = undefined
    void worker?.terminate()
  }

  #stopTimer(): void {
    clearTimeout(this.#rendering?.timer)
    this.#rendering = undefined
  }

  #fail(error: MillraceError): void {
    for (const { reject } of this.#pending.values()) reject(error)
    this.#pending.clear()
  }
}

/** Node 20 runs no TypeScript: straight from the sources, texts are tokenised where they are. */
function workerScript(): URL | undefined {
  return import.meta.url.endsWith('.ts') ? undefined : new URL('./worker.js', import.meta.url)
}

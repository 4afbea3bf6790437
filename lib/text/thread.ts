/** Templates and tokenises long texts in a worker thread, so that the event loop goes on: 100 kB take a fifth of a second. */
import { Worker } from 'node:worker_threads'
import { type ErrorCode, MillraceError } from '../errors.ts'
import type { ChatMessage } from '../options.ts'
import type { TextCodec } from './tokenizer.ts'

/** Characters. Shorter texts take a millisecond or two. */
const LONG_TEXT = 1024

export type EncodeMessage = { id: number } & EncodeTask
type EncodeTask = { text: string; specialTokens: boolean } | { messages: readonly ChatMessage[] }
export type EncodedMessage =
  | { id: number; tokens: Int32Array }
  | { id: number; error: { code: ErrorCode; message: string; remedy: string } }

interface Pending {
  resolve: (tokens: Int32Array) => void
  reject: (error: unknown) => void
}

export class TokenizerThread {
  readonly #tokenizer: TextCodec
  readonly #folder: string
  readonly #pending = new Map<number, Pending>()
  #worker: Worker | undefined
  #next = 0

  /** `folder` has the tokenizer's files: the worker reads them itself, since copying them over takes longer. */
  constructor(tokenizer: TextCodec, folder: string) {
    this.#tokenizer = tokenizer
    this.#folder = folder
  }

  /** Short texts at once; long ones as a promise. */
  encode(text: string, specialTokens: boolean): number[] | Promise<Int32Array> {
    const script = workerScript()
    if (text.length < LONG_TEXT || script === undefined) return this.#tokenizer.encode(text, specialTokens)
    return this.#ask(script, { text, specialTokens })
  }

  /** The prompt that the checkpoint's template makes of the messages; undefined where it is no work for a worker. */
  encodeChat(messages: readonly ChatMessage[]): Promise<Int32Array> | undefined {
    const script = workerScript()
    const length = messages.reduce((sum, { content }) => sum + content.length, 0)
    if (length < LONG_TEXT || script === undefined) return undefined
    try {
      return this.#ask(script, { messages })
    } catch (error) {
      // A message may hold more than its role and content, such as a function, that no thread can be sent.
      if ((error as Error).name === 'DataCloneError') return undefined
      throw error
    }
  }

  #ask(script: URL, task: EncodeTask): Promise<Int32Array> {
    this.#worker ??= this.#startWorker(script)
    const id = this.#next++
    this.#worker.postMessage({ id, ...task })
    return new Promise((resolve, reject) => this.#pending.set(id, { resolve, reject }))
  }

  close(): void {
    const worker = this.#worker
    this.#worker = undefined
    this.#fail(new MillraceError('MODEL_CLOSED', { message: 'the model was closed' }))
    void worker?.terminate()
  }

  #startWorker(script: URL): Worker {
    // Flags of the process, such as --eval or --test, are not meant for it.
    const worker = new Worker(script, { workerData: this.#folder, execArgv: [], name: 'millrace tokenizer' })
    // A pending request keeps the process alive by itself.
    worker.unref()
    worker.on('message', (message: EncodedMessage) => {
      const pending = this.#pending.get(message.id)
      this.#pending.delete(message.id)
      if ('tokens' in message) pending?.resolve(message.tokens)
      else pending?.reject(new MillraceError(message.error.code, message.error))
    })
    worker.on('error', (cause) => {
      this.#worker = undefined
      this.#fail(new MillraceError('INTERNAL', { message: `the tokenizer's thread failed: ${cause.message}`, cause }))
    })
    return worker
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

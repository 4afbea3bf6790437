/** Tokenises long texts in a worker thread, so that the event loop goes on: 100 kB take a fifth of a second. */
import { Worker } from 'node:worker_threads'
import { MillraceError } from '../errors.ts'
import type { TextCodec } from './tokenizer.ts'

/** Shorter texts take a few milliseconds, less than the way to a worker and back under load. */
const LONG_TEXT = 8192

export interface EncodeMessage {
  id: number
  text: string
  specialTokens: boolean
}
export type EncodedMessage = { id: number; tokens: number[] } | { id: number; error: string }

interface Pending {
  resolve: (tokens: number[]) => void
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
  encode(text: string, specialTokens: boolean): number[] | Promise<number[]> {
    const script = workerScript()
    if (text.length < LONG_TEXT || script === undefined) return this.#tokenizer.encode(text, specialTokens)
    this.#worker ??= this.#startWorker(script)
    const message: EncodeMessage = { id: this.#next++, text, specialTokens }
    return new Promise((resolve, reject) => {
      this.#pending.set(message.id, { resolve, reject })
      this.#worker!.postMessage(message)
    })
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
      else pending?.reject(new MillraceError('INTERNAL', { message: message.error }))
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

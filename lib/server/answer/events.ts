/** Answers as the events of a stream: one promise a token, where generators in a chain make several each. */
import type { Generation, GenerationChunk, GenerationResult } from '../../index.ts'
import type { Lease } from '../pool/pool.ts'
import { type IndexedChunk, mergeChunks } from './merge.ts'

export interface AnswerWriter {
  /** Starts what is to be streamed: one generation or several. What it throws is the stream's failure. */
  start(): Generation[] | Promise<Generation[]>
  /** The events before any chunk; '' if none. */
  begin?(): string
  /** The events of what has come of the answer `index`, which may be none. */
  chunk(index: number, chunk: GenerationChunk): string
  /** The last events, of answers that have ended well. */
  end(results: readonly GenerationResult[]): string
}

/** Cancels what it has started, and lets go of the model, when nobody reads on. */
export class AnswerEvents implements AsyncIterableIterator<string, void, undefined> {
  readonly #writer: AnswerWriter
  readonly #lease: Lease
  #generations: Generation[] | undefined
  #only: AsyncIterator<GenerationChunk, void> | undefined
  #merged: AsyncIterator<IndexedChunk, void> | undefined
  #left = false

  constructor(writer: AnswerWriter, lease: Lease) {
    this.#writer = writer
    this.#lease = lease
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  /** To be called again when it has resolved. */
  async next(): Promise<IteratorResult<string, void>> {
    try {
      const begin = this.#generations ? '' : await this.#start()
      if (begin !== '') return { done: false, value: begin }
      while (!this.#left) {
        const events = this.#only ? this.#ofOne(await this.#only.next()) : this.#ofAll(await this.#merged!.next())
        if (events === undefined) return await this.#end()
        if (events !== '') return { done: false, value: events }
      }
    } catch (error) {
      this.#leave()
      throw error
    }
    return { done: true, value: undefined }
  }

  async return(): Promise<IteratorResult<string, void>> {
    this.#leave()
    return { done: true, value: undefined }
  }

  async #start(): Promise<string> {
    if (this.#left) return ''
    this.#generations = []
    const generations = await this.#writer.start()
    this.#generations = generations
    if (generations.length === 1) this.#only = generations[0]![Symbol.asyncIterator]()
    else this.#merged = mergeChunks(generations)
    if (this.#left) this.#cancel()
    return this.#writer.begin?.() ?? ''
  }

  /** Undefined at the end. */
  #ofOne({ done, value }: IteratorResult<GenerationChunk, void>): string | undefined {
    return done ? undefined : this.#writer.chunk(0, value)
  }

  #ofAll({ done, value }: IteratorResult<IndexedChunk, void>): string | undefined {
    return done ? undefined : this.#writer.chunk(value.index, value.chunk)
  }

  async #end(): Promise<IteratorResult<string, void>> {
    const results = await Promise.all(this.#generations!.map(({ result }) => result))
    const value = this.#writer.end(results)
    this.#leave()
    return { done: false, value }
  }

  #leave(): void {
    if (this.#left) return
    this.#left = true
    this.#cancel()
    this.#lease.release()
  }

  #cancel(): void {
    for (const generation of this.#generations ?? []) generation.cancel()
  }
}

/** Chunks as somebody reads them. */

export interface ChunkSource<Chunk> {
  /** What has come since the last chunk; undefined if nothing has. */
  take(): Chunk | undefined
  /** How it ended, once it has. */
  end(): { error: unknown } | object | undefined
  /** Nobody reads any more. */
  leave(): void
}

/** Behaves as an async generator does: calls are answered in their order, and after the end or a failure comes nothing. */
export class ChunkReader<Chunk> implements AsyncGenerator<Chunk, void, undefined> {
  readonly #source: ChunkSource<Chunk>
  readonly #waiting: { resolve: (result: IteratorResult<Chunk, void>) => void; reject: (error: unknown) => void }[] = []
  #done = false

  constructor(source: ChunkSource<Chunk>) {
    this.#source = source
  }

  next(): Promise<IteratorResult<Chunk, void>> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.answer()
    })
  }

  async return(): Promise<IteratorResult<Chunk, void>> {
    this.#done = true
    this.answer()
    this.#source.leave()
    return { done: true, value: undefined }
  }

  async throw(error: unknown): Promise<IteratorResult<Chunk, void>> {
    await this.return()
    throw error
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  /** To be called whenever the source has changed. */
  answer(): void {
    while (this.#waiting.length > 0) {
      const chunk = this.#done ? undefined : this.#source.take()
      const end = this.#done ? {} : this.#source.end()
      if (chunk === undefined && end === undefined) return
      const { resolve, reject } = this.#waiting.shift()!
      if (chunk !== undefined) {
        resolve({ done: false, value: chunk })
        continue
      }
      this.#done = true
      if ('error' in end!) reject(end.error)
      else resolve({ done: true, value: undefined })
    }
  }
}

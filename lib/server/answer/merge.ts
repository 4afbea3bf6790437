/** Several generations as one stream, each chunk with whose it is. */
import type { Generation, GenerationChunk } from '../../index.ts'

export interface IndexedChunk {
  index: number
  chunk: GenerationChunk
}

/** In the order of arrival. The first that fails ends all of them. */
export async function* mergeChunks(generations: readonly Generation[]): AsyncGenerator<IndexedChunk, void, undefined> {
  if (generations.length === 1) {
    for await (const chunk of generations[0]!) yield { index: 0, chunk }
    return
  }
  const readers = generations.map((generation) => generation[Symbol.asyncIterator]())
  const step = async (index: number) => ({ index, found: await readers[index]!.next() })
  const pending = new Map(readers.map((_, index) => [index, step(index)]))
  for (const promise of pending.values()) promise.catch(() => {})
  while (pending.size > 0) {
    const { index, found } = await Promise.race(pending.values())
    if (found.done) pending.delete(index)
    else {
      const next = step(index)
      next.catch(() => {})
      pending.set(index, next)
      yield { index, chunk: found.value }
    }
  }
}

/** Several generations as one stream, each chunk with whose it is. */
import type { Generation, GenerationChunk } from '../../index.ts'

export interface IndexedChunk {
  index: number
  chunk: GenerationChunk
}

type Arrival = { index: number; found: IteratorResult<GenerationChunk, void> } | { error: unknown }

/** In the order of arrival; a chunk costs the same however many there are. The first that fails ends all of them. */
export async function* mergeChunks(
  generations: readonly Pick<Generation, typeof Symbol.asyncIterator>[],
): AsyncGenerator<IndexedChunk, void, undefined> {
  const readers = generations.map((generation) => generation[Symbol.asyncIterator]())
  let arrived: Arrival[] = []
  let wake: () => void = () => {}
  const arrive = (arrival: Arrival) => {
    arrived.push(arrival)
    wake()
  }
  const ask = (index: number) =>
    readers[index]!.next().then(
      (found) => arrive({ index, found }),
      (error) => arrive({ error }),
    )
  for (const index of readers.keys()) void ask(index)
  let left = readers.length
  while (left > 0) {
    if (arrived.length === 0) {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
    const batch = arrived
    arrived = []
    for (const arrival of batch) {
      if ('error' in arrival) throw arrival.error
      const { index, found } = arrival
      if (found.done) left--
      else {
        yield { index, chunk: found.value }
        void ask(index)
      }
    }
  }
}

import { expect, test } from 'vitest'
import type { GenerationChunk } from '../../../lib/index.ts'
import { mergeChunks } from '../../../lib/server/answer/merge.ts'

const chunkOf = (text: string): GenerationChunk => ({ text, tokens: [] })

/** Chunks that come when they are let go, one at a time. */
function played(texts: readonly string[], failure?: Error) {
  let asked = 0
  return {
    asked: () => asked,
    async *[Symbol.asyncIterator]() {
      for (const text of texts) {
        asked++
        await new Promise((resolve) => setImmediate(resolve))
        yield chunkOf(text)
      }
      if (failure) throw failure
    },
  }
}

test('all chunks of all of them, each in its order, none asked for before the last was read', async () => {
  const generations = Array.from({ length: 200 }, (_, index) =>
    played(Array.from({ length: 1 + (index % 7) }, (_, at) => `${index}.${at}`)),
  )
  const texts = generations.map(() => [] as string[])
  for await (const { index, chunk } of mergeChunks(generations)) {
    texts[index]!.push(chunk.text)
    expect(generations[index]!.asked()).toBe(texts[index]!.length)
  }
  expect(texts).toEqual(
    generations.map((_, index) => Array.from({ length: 1 + (index % 7) }, (_, at) => `${index}.${at}`)),
  )
})

test('the first that fails ends all; what others have yet to say is no unhandled rejection', async () => {
  const failure = new Error('one of them')
  const generations = [played(['a', 'b', 'c']), played(['d'], failure), played(['e', 'f'], new Error('another'))]
  const read = async () => {
    for await (const _ of mergeChunks(generations));
  }
  await expect(read()).rejects.toBe(failure)
})

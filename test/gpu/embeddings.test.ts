/**
 * Vectors of texts on a GPU: near the CPU twin's, and the same bits alone, among answers and other texts, and streamed. Needs
 * a device; elsewhere it says why it does not run.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { load, probe } from '../../lib/index.ts'
import { relativeError } from '../reference/transformer.ts'

const demo = join(fileURLToPath(new URL('../..', import.meta.url)), 'models/demo')
const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

describe.skipIf(gpus.length === 0).each(['mean', 'last'] as const)('pooled as %s', (pooling) => {
  const options = { contextLength: 512, maxSequences: 8 }
  const tokensFrom = (seed: number, length: number) =>
    Array.from({ length }, (_, i) => (seed * 37 + i * 11 + ((i * i) % 7)) % 400)
  const texts = [1, 2, 15, 16, 17, 64, 100, 300, 511].map((length, seed) => tokensFrom(seed, length))

  test('near those of the CPU', async () => {
    await using twin = await load(demo, { ...options, device: 'cpu' })
    await using model = await load(demo, { ...options, device: 'cuda' })
    const [expected, found] = [await twin.embed(texts, { pooling }), await model.embed(texts, { pooling })]
    for (const [index, vector] of found.embeddings.entries()) {
      expect(relativeError(vector, expected.embeddings[index]!), `text ${index}`).toBeLessThan(1e-2)
    }
  })

  test('the same bits alone, in a crowd, and streamed', async () => {
    await using alone = await load(demo, { ...options, device: 'cuda', placement: 'resident' })
    const expected: Float32Array[] = []
    for (const text of texts) expected.push(...(await alone.embed(text, { pooling })).embeddings)
    for (const placement of ['resident', 'streamed'] as const) {
      await using model = await load(demo, { ...options, device: 'cuda', placement, poison: true })
      const answers = [0, 1, 2].map((seed) => model.generate(tokensFrom(seed, 20), { maxTokens: 60, ignoreEos: true }))
      const found = await Promise.all([0, 1].map(() => model.embed(texts, { pooling })))
      await Promise.all(answers.map(({ result }) => result))
      for (const { embeddings } of found) expect(embeddings).toEqual(expected)
    }
  })
})

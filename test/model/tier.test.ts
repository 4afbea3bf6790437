/** Texts that the KV cache has no room for: they come back from system RAM, with the same bits, or are computed again. */
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { load, type Model } from '../../lib/index.ts'
import { MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
const on = { device: 'cpu', cache: false, contextLength: 256 } as const
const text = (topic: string) =>
  `Once upon a time there was ${topic}. ${'The fox went to the sea and saw a boat. '.repeat(14)}`
const texts = ['a fox', 'a bear', 'a boat', 'a tree'].map(text)

const answer = async (model: Model, prompt: string) => {
  const { tokens, logprobs } = await model.generate(prompt, { maxTokens: 8, ignoreEos: true, logprobs: true }).result
  return { tokens, logprobs }
}

describe('texts of several caches, asked twice', () => {
  const alone: Awaited<ReturnType<typeof answer>>[] = []
  beforeAll(async () => {
    await using roomy = await load(demo, { ...on, prefixReuse: false })
    for (const one of texts) alone.push(await answer(roomy, one))
  })

  test.each([
    ['16MiB', 'all', 'f16'],
    ['16MiB', 'all', 'q8'],
    [0, 'none', 'f16'],
  ] as const)('with kvSwap %s %s come back, as %s', async (kvSwap, come, kv) => {
    await using model = await load(demo, { ...on, kvTokens: 256, kvSwap, kv })
    const { blockTokens } = model.stats.kv
    const first = []
    for (const one of texts) first.push(await answer(model, one))
    if (kv === 'f16') expect(first).toEqual(alone)
    let known = 0
    for (const [at, one] of texts.entries()) {
      expect(await answer(model, one)).toEqual(first[at])
      known += Math.floor(((await model.tokenizer.encode(one)).length - 1) / blockTokens) * blockTokens
    }
    const { prefixCache, kv: cache } = model.stats
    expect(known).toBeGreaterThan(2 * 256)
    if (come === 'all') {
      expect(prefixCache.reusedTokens).toBeGreaterThanOrEqual(known)
      expect(prefixCache.returnedTokens).toBeGreaterThan(256)
      expect(prefixCache.returnedTokens).toBeLessThanOrEqual(prefixCache.reusedTokens)
    } else {
      expect(prefixCache.reusedTokens).toBeLessThan(known)
      expect(prefixCache.returnedTokens).toBe(0)
    }
    expect(cache.savedBytes).toBe(0)
    expect(cache.tierBytes > 0).toBe(come === 'all')
    expect(cache.tierBytes).toBeLessThanOrEqual(cache.swapBytes)
    expect(cache.swapBytes).toBe(model.plan.kvSwapBytes)
  })
})

test('a second turn finds its text when another model had the arena meanwhile', async () => {
  await using first = await load(demo, { ...on, placement: 'shared', kvTokens: 256 })
  await using second = await load(demo, { ...on, placement: 'shared', kvTokens: 256 })
  const models = [first, second]
  const turns = [texts[0]!, texts[1]!]
  for (let turn = 0; turn < 3; turn++) {
    for (const [at, model] of models.entries()) {
      const before = model.stats.prefixCache.reusedTokens
      const { length } = await model.tokenizer.encode(turns[at]!)
      const { text } = await model.generate(turns[at]!, { maxTokens: 8, ignoreEos: true }).result
      // All but the answer's last token, and what the next turn adds.
      if (turn > 0) expect(model.stats.prefixCache.reusedTokens - before).toBeGreaterThan(length - 48)
      turns[at] += `${text} Then`
    }
  }
  for (const { stats } of models) expect(stats.arena.switches).toBeGreaterThan(1)
})

/**
 * The table of docs/ARCHITECTURE's bit promises on a GPU, row by row, as far as plans reach it: what is preempted, what
 * a prefix was found of, threads beside the GPU, seeds, neighbours of long prompts. Placements are in streaming.test.ts
 * and devices.test.ts, numbers of rows in wide.test.ts, row budgets in test/cuda/promises_test.cc. Needs a device;
 * elsewhere it says why it does not run.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load, type Model, probe } from '../../lib/index.ts'

const demo = join(fileURLToPath(new URL('../..', import.meta.url)), 'models/demo')
const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

describe.skipIf(gpus.length === 0)('the bits of an answer', () => {
  const options = { device: 'cuda', contextLength: 512, maxSequences: 8 }
  const tokensFrom = (seed: number, length: number) =>
    Array.from({ length }, (_, i) => (seed * 37 + i * 11 + ((i * i) % 7)) % 400)
  const ask = async (model: Model, prompt: readonly number[], maxTokens: number, sampling: object = {}) => {
    const all = { maxTokens, ignoreEos: true, logprobs: true, ...sampling }
    const { tokens, logprobs } = await model.generate(prompt, all).result
    return { tokens, logprobs }
  }
  const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array) => Buffer.from(buffer, byteOffset, byteLength)
  let roomy: Model // of every answer's own bits: nothing is reused, nothing preempted
  beforeAll(async () => {
    roomy = await load(demo, { ...options, placement: 'resident', prefixReuse: false })
  })
  afterAll(() => roomy?.close())

  test('of a sequence that was preempted and brought back', async () => {
    const kv = { maxSequences: undefined, kvTokens: 640 }
    await using tight = await load(demo, { ...options, ...kv, placement: 'resident', prefixReuse: false })
    const sampling = (r: number) => ({ temperature: r % 2, seed: r, topP: 0.9 })
    const asked = [0, 1, 2, 3, 4, 5]
    const found = await Promise.all(asked.map((r) => ask(tight, tokensFrom(r, 60 + r), 200, sampling(r))))
    expect(tight.stats.sequences.preemptions).toBeGreaterThan(0)
    for (const r of asked) {
      expect(await ask(roomy, tokensFrom(r, 60 + r), 200, sampling(r)), `request ${r}`).toEqual(found[r])
    }
    expect(tight.stats.kv).toMatchObject({ blocksUsed: 0, savedBytes: 0 })
  })

  test('of a prompt whose beginning was found in the cache', async () => {
    await using warm = await load(demo, { ...options, placement: 'resident', deterministic: true })
    const prompt = tokensFrom(1, 100)
    const first = await ask(roomy, prompt, 40)
    expect(await ask(warm, prompt, 40)).toEqual(first)
    expect(warm.stats.prefixCache.reusedTokens).toBe(0)
    expect(await ask(warm, prompt, 40)).toEqual(first)
    expect(warm.stats.prefixCache.reusedTokens).toBe(96)
    // A conversation goes on: what decoding computed is computed again, what the prompt did is not.
    const longer = [...prompt, ...first.tokens, ...tokensFrom(2, 20)]
    expect(await ask(warm, longer, 40)).toEqual(await ask(roomy, longer, 40))
    expect(warm.stats.prefixCache.reusedTokens).toBe(192)
  })

  test('of the CPU beside it, whatever its threads', async () => {
    const answers = []
    for (const threads of [1, 2, 5]) {
      await using model = await load(demo, { ...options, placement: 'cpu', threads, poison: true })
      answers.push(await Promise.all([0, 1, 2].map((r) => ask(model, tokensFrom(r, 9 + 40 * r), 30, { seed: r }))))
      expect(model.stats.hops).toBeGreaterThan(0)
    }
    expect(answers[1]).toEqual(answers[0])
    expect(answers[2]).toEqual(answers[0])
  })

  test('of a seed, and of no other', async () => {
    const sampled = (seed: number) => ask(roomy, tokensFrom(3, 12), 60, { temperature: 1.2, seed })
    const first = await sampled(7)
    expect(await sampled(7)).toEqual(first)
    expect((await sampled(8)).tokens).not.toEqual(first.tokens)
    // Rows with rarer wishes are chosen for on the host.
    const rare = await ask(roomy, tokensFrom(3, 12), 60, { temperature: 1.2, seed: 7, topLogprobs: 3 })
    expect(rare.tokens).toEqual(first.tokens)
  })

  test('of a score, among long prompts and answers under way', async () => {
    const text = tokensFrom(4, 400)
    const alone = await roomy.score(text, { logits: true })
    const others = [0, 1, 2, 3].map((r) => ask(roomy, tokensFrom(r + 5, 300 + r), 60))
    const scores = await Promise.all([0, 1, 2].map(() => roomy.score(text, { logits: true })))
    for (const { logits, logprobs } of scores) {
      expect(logprobs).toEqual(alone.logprobs)
      expect(bytesOf(logits!).equals(bytesOf(alone.logits!))).toBe(true)
    }
    await Promise.all(others)
  })

  test('of prompts, however often they are asked, graphs and plain launches alike', async () => {
    // The first pass of a shape captures its graph, later ones replay it; a streamed model never has one.
    await using streamed = await load(demo, { ...options, placement: 'streamed', ring: 3, prefixReuse: false })
    const expected = await ask(streamed, tokensFrom(9, 30), 50)
    for (let round = 0; round < 3; round++) expect(await ask(roomy, tokensFrom(9, 30), 50)).toEqual(expected)
  })
})

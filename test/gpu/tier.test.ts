/**
 * Texts that a GPU's KV cache has no room for: they come back from pinned system RAM, with the bits of those that are
 * computed anew. Needs a device; elsewhere it says why it does not run.
 */
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { type LoadOptions, load, type Model, probe } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'
import { MODELS } from '../models.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

afterAll(removeFolders)

/** Of what decoding computed a prompt would have other bits: with `deterministic` none of that is found. */
const on: LoadOptions = { device: 'cuda', contextLength: 160, cache: false, deterministic: true }
const tokensFrom = (seed: number, length: number) => Array.from({ length }, (_, at) => (seed * 131 + at * at * 7) % 500)

async function ask(model: Model, prompt: number[]) {
  const asked = { maxTokens: 24, temperature: 0, ignoreEos: true, logprobs: true } as const
  const { tokens, logprobs } = await model.generate(prompt, asked).result
  return { tokens, logprobs }
}

describe.skipIf(gpus.length === 0)('texts in RAM beside a GPU', () => {
  test.each<[string, LoadOptions]>([
    ['demo', {}],
    ['demo', { kv: 'q8' }],
    ['demo', { placement: 'streamed' }],
    ['demo', { placement: 'shared' }],
    ['gemma3-bf16', {}],
    ['qwen35-bf16', {}],
    ['deepseek-v3-bf16', {}],
  ])('%s with %j', async (name, options) => {
    const path = name === 'demo' ? join(MODELS, 'demo') : familyFolder(name)
    await using anew = await load(path, { ...on, ...options, prefixReuse: false })
    await using model = await load(path, { ...on, ...options, kvTokens: 160, kvSwap: '16MiB' })
    // It serves once it is pinned, which nobody waits for.
    for (let seed = 50; model.stats.kv.tierBytes === 0; seed++) await ask(model, tokensFrom(seed, 100))
    const prompts = [2, 3, 4, 5].map((seed) => tokensFrom(seed, 100 + seed))
    const expected = []
    for (const prompt of prompts) expected.push(await ask(anew, prompt))
    const before = model.stats.prefixCache
    for (let round = 0; round < 3; round++) {
      for (const [at, prompt] of prompts.entries()) expect(await ask(model, prompt)).toEqual(expected[at])
    }
    const { reusedTokens, returnedTokens } = model.stats.prefixCache
    expect(reusedTokens - before.reusedTokens).toBe(2 * 4 * 96)
    expect(returnedTokens - before.returnedTokens).toBeGreaterThan(4 * 96)
    // With others beside it, pushed out meanwhile.
    const crowd = await Promise.all([...prompts, ...prompts].map((prompt) => ask(model, prompt)))
    for (const [at, one] of crowd.entries()) expect(one).toEqual(expected[at % 4])
    expect(model.stats.kv.savedBytes).toBe(0)
  })
})

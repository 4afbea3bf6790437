/**
 * Layers that keep states, on a GPU: a prompt that goes on with a copy of them has the bits of one that is computed anew.
 * Needs a device; elsewhere it says why it does not run.
 */
import { afterAll, describe, expect, test } from 'vitest'
import { load, type Model, probe } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

afterAll(removeFolders)

/** Of what decoding computed a prompt would have other bits: with `deterministic` none of that is found. */
const options = { device: 'cuda', contextLength: 160, cache: false, deterministic: true } as const
const tokensFrom = (seed: number, length: number) => Array.from({ length }, (_, at) => (seed * 131 + at * at * 7) % 512)

async function ask(model: Model, prompt: number[]) {
  const asked = { maxTokens: 24, temperature: 0, ignoreEos: true, logprobs: true } as const
  const { tokens, logprobs } = await model.generate(prompt, asked).result
  return { tokens, logprobs }
}

describe.skipIf(gpus.length === 0)('copies of states on a GPU', () => {
  test.each(['qwen35-bf16', 'qwen3-next-gptq-g32', 'qwen35-moe-bf16'])('%s', async (name) => {
    const path = familyFolder(name)
    await using anew = await load(path, { ...options, prefixReuse: false })
    await using model = await load(path, options)
    const system = tokensFrom(1, 50)
    const prompts = [2, 3, 4, 5].map((seed) => [...system, ...tokensFrom(seed, 40 + seed)])
    for (const prompt of [...prompts, ...prompts]) expect(await ask(model, prompt)).toEqual(await ask(anew, prompt))
    // The third and the fourth from where the first two part, then each from its last whole block.
    expect(model.stats.prefixCache.reusedTokens).toBe(48 + 48 + 80 * 4)
    const crowd = await Promise.all([...prompts, ...prompts].map((prompt) => ask(model, prompt)))
    for (const [index, prompt] of [...prompts, ...prompts].entries()) {
      expect(crowd[index]).toEqual(await ask(anew, prompt))
    }
  })
})

/**
 * Attention by latents on a GPU: prefixes and crowds leave a request's bits as they are. Needs a device; elsewhere it says why it does not run.
 */
import { afterAll, describe, expect, test } from 'vitest'
import { load, type Model, probe } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

afterAll(removeFolders)

/** Of what decoding computed a prompt would have other bits: with `deterministic` none of that is found. */
const options = { device: 'cuda', contextLength: 320, cache: false, deterministic: true } as const
const tokensFrom = (seed: number, length: number) => Array.from({ length }, (_, at) => (seed * 131 + at * at * 7) % 512)

async function ask(model: Model, prompt: number[]) {
  const asked = { maxTokens: 24, temperature: 0, ignoreEos: true, logprobs: true } as const
  const { tokens, logprobs } = await model.generate(prompt, asked).result
  return { tokens: [...tokens], logprobs: [...logprobs!] }
}

describe.skipIf(gpus.length === 0)('latents on a GPU', () => {
  test.each(['deepseek-v3-gptq-g32', 'deepseek-v2-bf16', 'glm4-moe-lite-bf16'])('%s', async (name) => {
    const path = familyFolder(name)
    await using anew = await load(path, { ...options, prefixReuse: false })
    await using model = await load(path, { ...options, kvTokens: 640, batch: 12 })
    const system = tokensFrom(1, 200)
    const prompts = [2, 3, 4, 5].map((seed) => [...system, ...tokensFrom(seed, 40 + seed)])
    for (const prompt of prompts) expect(await ask(model, prompt)).toEqual(await ask(anew, prompt))
    expect(model.stats.prefixCache.reusedTokens).toBe(192 * 3)
    const crowd = await Promise.all([...prompts, ...prompts, ...prompts].map((prompt) => ask(model, prompt)))
    for (const [index, prompt] of prompts.entries()) {
      const alone = await ask(anew, prompt)
      for (const turn of [0, 4, 8]) expect(crowd[turn + index]).toEqual(alone)
    }
  })
})

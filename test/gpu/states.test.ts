/**
 * Layers that keep states, on a GPU: a prompt that goes on with a copy of them has the bits of one that is computed anew,
 * and an answer with drafts those of one without. MILLRACE_SCHEDULES says how many schedules of drafts; without it 12.
 * Needs a device; elsewhere it says why it does not run.
 */
import { afterAll, describe, expect, test } from 'vitest'
import { type LoadOptions, load, type Model, probe, type Speculation } from '../../lib/index.ts'
import { foresee } from '../../lib/model/foreseen.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'
import { randomOf } from './random.ts'

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

const NAMES = ['qwen35-bf16', 'qwen3-next-gptq-g32', 'qwen35-moe-bf16']
const schedules = Number(process.env.MILLRACE_SCHEDULES ?? 12)
const alike = { device: 'cuda', contextLength: 160, cache: false, stateDrafts: 24 } as const
const drafting = { ...alike, maxSequences: 12 } as const

async function draft(model: Model, seed: number, speculation: Speculation, sampled = seed % 2 === 1) {
  const sampling = sampled ? { temperature: 0.9, topP: 0.95, seed } : { temperature: 0 }
  const asked = { maxTokens: 40 + seed, ignoreEos: true, logprobs: true, speculation, ...sampling } as const
  const { tokens, logprobs, usage } = await model.generate(tokensFrom(seed, 3 + seed * 5), asked).result
  return { bits: { tokens, logprobs }, usage }
}

/** Of every `wrong`th token another; 0: none. */
const spoilt = (tokens: ArrayLike<number>, wrong: number) =>
  Array.from(tokens, (token, at) => (wrong > 0 && at % wrong === wrong - 1 ? (token + 1) % 512 : token))

describe.skipIf(gpus.length === 0)('drafts of hybrids on a GPU: the bits of answers without', () => {
  test.each(NAMES)('%s: any number of rows, right, wrong and mixed', async (name) => {
    await using model = await load(familyFolder(name), drafting)
    const expected = await draft(model, 3, { method: 'off' })
    expect(expected.usage.draftedTokens).toBeUndefined()
    for (const wrong of [0, 1, 3, 5]) {
      foresee(model, Int32Array.from(spoilt(expected.bits.tokens, wrong)))
      for (const tokens of [1, 2, 3, 4, 7, 8, 15, 24]) {
        const { bits, usage } = await draft(model, 3, { method: 'ngram', tokens })
        expect(bits, `${tokens} drafts, of ${wrong} one wrong`).toEqual(expected.bits)
        expect(usage.draftedTokens).toBeGreaterThan(0)
        if (wrong === 1) expect(usage.acceptedTokens).toBe(0)
        else expect(usage.acceptedTokens).toBeGreaterThan(10)
      }
      const auto = await draft(model, 3, { method: 'auto' })
      expect(auto.bits).toEqual(expected.bits)
    }
  })

  const places: [string, LoadOptions][] = [
    ['resident', { placement: 'resident', maxSequences: 12 }],
    ['streamed', { placement: 'streamed', maxSequences: 12, ring: 3, poison: true }],
    ['preempted', { placement: 'resident', kvTokens: 320 }],
    ['with few states for drafts', { placement: 'resident', maxSequences: 12, stateDrafts: 3, stateCopies: 1 }],
  ]
  test.each(places)('crowds, prefixes and whoever leaves: %s', async (_, placement) => {
    const random = randomOf(Number(process.env.MILLRACE_SEED ?? 1))
    await using plain = await load(familyFolder('qwen35-bf16'), { ...drafting, prefixReuse: false })
    await using model = await load(familyFolder('qwen35-bf16'), { ...alike, deterministic: true, ...placement })
    const expected = []
    for (let seed = 0; seed < 12; seed++) expected.push(await draft(plain, seed, { method: 'off' }))
    let drafted = 0
    for (let schedule = 0; schedule < schedules; schedule++) {
      const known = random(12)
      foresee(model, Int32Array.from(spoilt(expected[known]!.bits.tokens, random(5))))
      const controller = new AbortController()
      const left = model
        .generate(tokensFrom(99, 30), { maxTokens: 100, ignoreEos: true, signal: controller.signal })
        .result.catch(() => {})
      const chosen = Array.from({ length: 1 + random(10) }, (_, at) => (at === 0 ? known : random(12)))
      const methods = ['auto', 'ngram', 'off'] as const
      const running = chosen.map((seed) => draft(model, seed, { method: methods[random(3)]!, tokens: 1 + random(12) }))
      if (schedule % 2 === 0) controller.abort()
      for (const [at, { bits, usage }] of (await Promise.all(running)).entries()) {
        expect(bits, `schedule ${schedule}, request ${chosen[at]}`).toEqual(expected[chosen[at]!]!.bits)
        drafted += usage.draftedTokens ?? 0
      }
      controller.abort()
      await left
    }
    expect(drafted).toBeGreaterThan(0)
  })
})

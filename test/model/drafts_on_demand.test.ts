/**
 * A mixture whose experts are read as tokens choose them, with drafts: rows that are guessed choose experts as any row
 * does, and change no token. On the GPU too, where there is one.
 */
import { afterAll, describe, expect, test } from 'vitest'
import { type GenerateOptions, load, type Model, probe, type Speculation } from '../../lib/index.ts'
import { foresee } from '../../lib/model/foreseen.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'

afterAll(removeFolders)

const OFF: Speculation = { method: 'off' }
const { gpus } = await probe()
const devices = ['cpu', ...(gpus.length > 0 ? ['cuda'] : [])]
const prompt = (seed: number) => Array.from({ length: 5 + seed }, (_, at) => (seed * 131 + at * at * 7) % 512)
const samplings: GenerateOptions[] = [
  { temperature: 0 },
  { temperature: 1, seed: 4, topP: 0.9 },
  { temperature: 0, presencePenalty: 0.5, repetitionPenalty: 1.1 },
]

async function ask(model: Model, seed: number, speculation: Speculation) {
  const options = { ...samplings[seed % 3], maxTokens: 40, ignoreEos: true, logprobs: true, speculation }
  const { tokens, logprobs, usage } = await model.generate(prompt(seed), options).result
  return { bits: { tokens: [...tokens], logprobs: [...logprobs!] }, usage }
}

/** Of every third token another. */
const spoilt = (answer: readonly number[]) =>
  Int32Array.from(answer, (token, index) => (index % 3 === 2 ? (token + 1) % 512 : token))

describe.each(devices)('on %s', (device) => {
  test.each([0, 60_000])('experts on demand, %i bytes of cache', async (expertCache) => {
    const path = familyFolder('qwen3-moe-gptq-g32')
    const all = { device, contextLength: 160, cache: false, threads: 2, maxSequences: 8, batch: 8 } as const
    await using resident = await load(path, { ...all, experts: 'resident' })
    await using model = await load(path, { ...all, experts: 'demand', expertCache })
    for (const seed of [0, 1, 2]) {
      const expected = await ask(resident, seed, OFF)
      for (const tokens of [1, 4, 7]) {
        foresee(model, spoilt(expected.bits.tokens))
        const drafted = await ask(model, seed, { method: 'ngram', tokens })
        expect(drafted.bits).toEqual(expected.bits)
        expect(drafted.usage.acceptedTokens).toBeGreaterThan(10)
      }
      foresee(model, undefined)
      expect((await ask(model, seed, { method: 'auto' })).bits).toEqual(expected.bits)
    }
    const crowd = Array.from({ length: 8 }, (_, seed) => seed)
    const expected = await Promise.all(crowd.map((seed) => ask(resident, seed, OFF)))
    const found = await Promise.all(crowd.map((seed) => ask(model, seed, { method: 'ngram', tokens: 1 + seed })))
    expect(found.map(({ bits }) => bits)).toEqual(expected.map(({ bits }) => bits))
    expect(model.stats.experts.mapped).toBeGreaterThan(0)
  })
})

/** Mixtures of experts: that rows of a crowd do not feel each other, what is read, what is said of them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { inspect, load, type Model, plan } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'
import { modelFolder } from '../goldens/golden.ts'
import { MODELS } from '../models.ts'

const DEMO = modelFolder('demo-moe')
const HELD_OUT = readFileSync(join(MODELS, 'demo', 'held-out.txt'), 'utf8')
const options = { device: 'cpu', contextLength: 160, cache: false, threads: 2 } as const

afterAll(removeFolders)

/** Tokens of a plain recurrence: any will do. */
const prompt = (seed: number, length: number) => Array.from({ length }, (_, at) => (seed * 131 + at * at * 7) % 512)

describe('a mixture on the CPU', () => {
  test.each(['qwen3-moe-gptq-g32', 'mixtral-bf16'])('%s: alone or in a crowd of 32, the same bits', async (name) => {
    const all = { ...options, maxSequences: 32, batch: 32 }
    await using model = await load(familyFolder(name), all)
    const ask = (seed: number) =>
      model.generate(prompt(seed, 3 + (seed % 9)), { maxTokens: 24, temperature: 0, ignoreEos: true, logprobs: true })
        .result
    const seeds = Array.from({ length: 32 }, (_, seed) => seed)
    const together = await Promise.all(seeds.map(ask))
    for (const seed of [0, 7, 31]) {
      const alone = await ask(seed)
      expect(alone.tokens).toEqual(together[seed]!.tokens)
      expect(alone.logprobs).toEqual(together[seed]!.logprobs)
    }
  })

  test('a token alone reads the experts that answer it, and no others', async () => {
    const path = familyFolder('qwen3-moe-gptq-g32')
    const { units } = await inspect(path)
    await using model = await load(path, options)
    const { prediction } = model.plan
    const before = model.stats.weightBytesRead
    await model.score([1, 2])
    const read = model.stats.weightBytesRead - before
    // Two rows choose between them at least as many as one does, and at most twice as many.
    const experts = units.reduce((sum, { experts: own }) => sum + (own ? (own.bytes * own.chosen) / own.count : 0), 0)
    const whole = units.reduce((sum, { bytes }) => sum + bytes, 0)
    const others = whole - units.reduce((sum, { experts: own }) => sum + (own?.bytes ?? 0), 0)
    expect(read).toBeGreaterThan(experts)
    expect(read).toBeLessThanOrEqual(others + 2 * experts)
    expect(read).toBeLessThan(whole)
    expect(prediction.single.boundBy).toBe('cpu')
  })

  test('inspect() and plan() say what answers a token', async () => {
    const path = familyFolder('qwen3-moe-bf16')
    const { spec, parameters, activeParameters, units } = await inspect(path)
    expect(spec.experts).toEqual({ count: 8, chosen: 3, width: 32, layers: 2 })
    // Gate, up and down of 64 x 32, five experts left out in two layers.
    expect(parameters - activeParameters).toBe(2 * 5 * 3 * 64 * 32)
    const mixtures = units.filter(({ experts }) => experts)
    expect(mixtures.map(({ name }) => name)).toEqual(['feed-forward 0', 'feed-forward 2'])
    expect(mixtures[0]!.experts).toEqual({ count: 8, chosen: 3, bytes: 8 * 3 * 64 * 32 * 2 })
    const made = await plan(path, { device: 'cpu' })
    expect(made.units.find(({ name }) => name === 'feed-forward 0')!.experts).toEqual(mixtures[0]!.experts)
  })
})

describe('experts on demand on the CPU', () => {
  const NAMES = ['qwen3-moe-gptq-g32', 'mixtral-bf16', 'gpt-oss-mxfp4', 'glm4-moe-groups-gptq-g32']
  const all = { ...options, maxSequences: 8, batch: 8 }
  const answers = (model: Model) =>
    Promise.all(
      Array.from({ length: 8 }, async (_, seed) => {
        const asked = { maxTokens: 12, temperature: 0, ignoreEos: true, logprobs: true } as const
        const { tokens, logprobs } = await model.generate(prompt(seed, 3 + seed), asked).result
        return { tokens, logprobs: [...logprobs!] }
      }),
    )

  test.each(NAMES)('%s: the same bits whatever is where, alone and while the cache moves', async (name) => {
    const path = familyFolder(name)
    await using resident = await load(path, all)
    const expected = await answers(resident)
    const { units } = await inspect(path)
    const frame = Math.max(...units.map(({ experts }) => (experts ? experts.bytes / experts.count : 0))) + 4096
    for (const frames of [0, 1, 4, 1000]) {
      await using model = await load(path, { ...all, experts: 'demand', expertCache: Math.ceil(frames * frame) })
      expect(model.plan.units.some(({ home }) => home === 'demand')).toBe(true)
      for (let round = 0; round < 2; round++) expect(await answers(model)).toEqual(expected)
      const { hits, mapped, frames: places, usedFrames, promotedBytes } = model.stats.experts
      expect(mapped).toBeGreaterThan(0)
      expect(places > 0).toBe(frames > 0)
      // What was chosen once is found the next time, where there is room for all of it.
      if (frames === 0 || frames === 1000) expect(hits > 0).toBe(frames > 0)
      expect(usedFrames).toBeLessThanOrEqual(places)
      expect(promotedBytes > 0).toBe(frames > 0)
      const moved = answers(model)
      for (const bytes of [0, 3 * frame, 100 * frame]) await model.setBudget(Math.max(1, Math.ceil(bytes)))
      expect(await moved).toEqual(expected)
    }
  })

  test('what cannot be on demand is told so', async () => {
    const refused = { code: 'INVALID_ARGUMENT' }
    await expect(load(familyFolder('glm4-bf16'), { ...all, experts: 'demand' })).rejects.toMatchObject(refused)
    const path = familyFolder('mixtral-bf16')
    const placed = { ...all, experts: 'demand', placement: 'streamed' } as const
    await expect(load(path, placed)).rejects.toMatchObject(refused)
    await expect(load(path, { ...all, experts: 'resident', expertCache: 1 })).rejects.toMatchObject(refused)
  })

  test('a plan for a GPU says what the cache holds, and what that is worth', async () => {
    const gpu = { memory: '24GiB' } as const
    const whole = await plan('qwen3-30b-a3b', { gpu, contextLength: 4096 })
    expect(whole.units.every(({ home }) => home === 'resident')).toBe(true)
    const small = { gpu: { memory: '12GiB' }, contextLength: 4096 } as const
    const auto = await plan('qwen3-30b-a3b', small)
    expect(auto.units.filter(({ home }) => home === 'demand')).toHaveLength(48)
    expect(auto.experts!.count).toBe(48 * 128)
    expect(auto.experts!.hitRate).toBeCloseTo(auto.experts!.frames / (48 * 128), 12)
    expect(auto.vramBytes).toBeLessThanOrEqual(auto.vramBudgetBytes)
    const none = await plan('qwen3-30b-a3b', { ...small, experts: 'demand', expertCache: 0 })
    expect(none.experts).toMatchObject({ frames: 0, hitRate: 0 })
    expect(none.prediction.single.tokensPerSecond).toBeLessThan(auto.prediction.single.tokensPerSecond)
    expect(none.vramBytes).toBe(auto.vramBytes - auto.expertCacheBytes)
  })
})

describe.skipIf(DEMO === undefined)('demo-moe, whose routing was trained', () => {
  test('perplexity and greedy text are those of its page', async () => {
    await using model = await load(DEMO!, { device: 'cpu', cache: false, threads: 2 })
    const encoded = await model.tokenizer.encode(`<|endoftext|>${HELD_OUT}`, { specialTokens: false })
    const { perplexity } = await model.score(encoded.slice(0, 1024))
    expect(Math.abs(perplexity / 1.4482 - 1)).toBeLessThan(1e-3)
    const { text } = await model.generate('Once upon a time', { maxTokens: 32, temperature: 0 }).result
    expect(text).toBe(
      ', there was a little girl named Daisy. She lived in a little town. The wind was soft and the leaves smelled sweet. Daisy had a wooden boat.',
    )
  })
})

/** Mixtures of experts: that rows of a crowd do not feel each other, what is read, what is said of them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { inspect, load, plan } from '../../lib/index.ts'
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

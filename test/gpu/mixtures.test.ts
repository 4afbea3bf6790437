/** Mixtures of experts on a GPU: what was trained, rows that do not feel each other, whatever expert they share. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { load, type Model, probe } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'
import { modelFolder } from '../goldens/golden.ts'
import { MODELS } from '../models.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)
const DEMO = modelFolder('demo-moe')
const HELD_OUT = readFileSync(join(MODELS, 'demo', 'held-out.txt'), 'utf8')

afterAll(removeFolders)

/** Tokens of a plain recurrence: any will do. */
const prompt = (seed: number, length: number) => Array.from({ length }, (_, at) => (seed * 131 + at * at * 7) % 400)

const ask = (model: Model, seed: number) =>
  model.generate(prompt(seed, 3 + (seed % 9)), { maxTokens: 24, temperature: 0, ignoreEos: true, logprobs: true })
    .result

describe.skipIf(gpus.length === 0)('a mixture on a GPU', () => {
  test.each([
    'qwen3-moe-gptq-g32',
    'qwen3-moe-unnormed-awq-g32',
    'mixtral-bf16',
    'gpt-oss-mxfp4',
    'glm4-moe-groups-gptq-g32',
  ])('%s: alone, with 8 and in a crowd of 64, the same bits', async (name) => {
    await using model = await load(familyFolder(name), {
      device: 'cuda',
      contextLength: 64,
      maxSequences: 64,
      batch: 64,
    })
    const crowd = await Promise.all(Array.from({ length: 64 }, (_, seed) => ask(model, seed)))
    const eight = await Promise.all(Array.from({ length: 8 }, (_, seed) => ask(model, seed)))
    for (const seed of [0, 5, 7, 40, 63]) {
      const alone = await ask(model, seed)
      for (const other of [crowd[seed]!, eight[seed]]) {
        if (!other) continue
        expect(alone.tokens).toEqual(other.tokens)
        expect(alone.logprobs).toEqual(other.logprobs)
      }
    }
  })
})

describe.skipIf(gpus.length === 0)('a prompt through a mixture on a GPU', () => {
  const NAMES = ['qwen3-moe-gptq-g32', 'qwen3-moe-bf16', 'mixtral-bf16', 'gpt-oss-mxfp4', 'glm4-moe-groups-gptq-g32']
  // From a row a tile to tiles of 128 that are full.
  const LENGTHS = [2, 9, 65, 130, 300, 500]
  test.each(NAMES)('%s: alone, beside others that choose its experts and on demand, the same bits', async (name) => {
    const all = { device: 'cuda', contextLength: 512, maxSequences: 8, prefixReuse: false } as const
    const read = (model: Model, length: number) =>
      model.generate(prompt(length, length), { maxTokens: 4, temperature: 0, ignoreEos: true, logprobs: true }).result
    const bits = async (model: Model) => {
      const answers = await Promise.all(LENGTHS.map((length) => read(model, length)))
      return answers.map(({ tokens, logprobs }) => ({ tokens, logprobs: [...logprobs!] }))
    }
    await using model = await load(familyFolder(name), all)
    const together = await bits(model)
    for (const [index, length] of LENGTHS.entries()) {
      const { tokens, logprobs } = await read(model, length)
      expect({ tokens, logprobs: [...logprobs!] }).toEqual(together[index])
    }
    await using demand = await load(familyFolder(name), { ...all, experts: 'demand', expertCache: 0 })
    expect(await bits(demand)).toEqual(together)
  })
})

describe.skipIf(gpus.length === 0)('experts on demand on a GPU', () => {
  const NAMES = ['qwen3-moe-gptq-g32', 'mixtral-bf16', 'gpt-oss-mxfp4', 'glm4-moe-groups-gptq-g32']
  const all = { device: 'cuda', contextLength: 64, maxSequences: 16, batch: 16, prefixReuse: false } as const
  const answers = (model: Model) =>
    Promise.all(
      Array.from({ length: 16 }, async (_, seed) => {
        const { tokens, logprobs } = await ask(model, seed)
        return { tokens, logprobs: [...logprobs!] }
      }),
    )

  test.each(NAMES)('%s: the bits of resident, whatever is where and while the cache moves', async (name) => {
    const path = familyFolder(name)
    await using resident = await load(path, all)
    const expected = await answers(resident)
    const frame = Math.max(
      ...resident.plan.units.map(({ experts }) => (experts ? experts.bytes / experts.count + 4096 : 0)),
    )
    for (const frames of [0, 1, 4, 1000]) {
      await using model = await load(path, { ...all, experts: 'demand', expertCache: Math.ceil(frames * frame) })
      for (let round = 0; round < 2; round++) expect(await answers(model)).toEqual(expected)
      const { hits, mapped, frames: places } = model.stats.experts
      expect(mapped).toBeGreaterThan(0)
      expect(places > 0).toBe(frames > 0)
      if (frames === 0 || frames === 1000) expect(hits > 0).toBe(frames > 0)
      const { vramBytes, expertCacheBytes } = model.plan
      for (const bytes of [0, 3 * frame, 100 * frame]) {
        const moved = answers(model)
        await model.setBudget(Math.ceil(vramBytes - expertCacheBytes + bytes))
        expect(await moved).toEqual(expected)
      }
    }
  })
})

describe.skipIf(gpus.length === 0 || DEMO === undefined)('demo-moe on a GPU, whose routing was trained', () => {
  test('perplexity and greedy text are those of its page', async () => {
    await using model = await load(DEMO!, { device: 'cuda', cache: false })
    const encoded = await model.tokenizer.encode(`<|endoftext|>${HELD_OUT}`, { specialTokens: false })
    const { perplexity } = await model.score(encoded.slice(0, 1024))
    expect(Math.abs(perplexity / 1.4482 - 1)).toBeLessThan(5e-3)
    const { text } = await model.generate('Once upon a time', { maxTokens: 32, temperature: 0 }).result
    expect(text).toBe(
      ', there was a little girl named Daisy. She lived in a little town. The wind was soft and the leaves smelled sweet. Daisy had a wooden boat.',
    )
  })
})

/**
 * Keys and values of 8 bits on a GPU: near the CPU twin, and every promise about bits as with float16. (The lab's tests have
 * what is appended, byte by byte.) Needs a device; elsewhere it says why it does not run.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { type LoadOptions, load, type Model, probe } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'
import { MODELS } from '../models.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

afterAll(removeFolders)

const demo = join(MODELS, 'demo')
const on: LoadOptions = { device: 'cuda', cache: false, contextLength: 256, kv: 'q8', deterministic: true }
const prompts = ['Once upon a time', 'Once upon a time, there was a', 'The fox', 'One day a bear', 'There was a boat']

const answer = async (model: Model, prompt: string | number[]) => {
  const { tokens, logprobs } = await model.generate(prompt, { maxTokens: 120, ignoreEos: true, logprobs: true }).result
  return { tokens, logprobs }
}

describe.skipIf(gpus.length === 0)('keys and values of 8 bits on a GPU', () => {
  test('the same bits alone, among others, streamed, drafted for, and brought back', async () => {
    const alone: Awaited<ReturnType<typeof answer>>[] = []
    {
      await using model = await load(demo, { ...on, prefixReuse: false, speculation: { method: 'off' } })
      for (const prompt of prompts) alone.push(await answer(model, prompt))
    }
    const others: LoadOptions[] = [
      on,
      { ...on, placement: 'streamed' },
      { ...on, kvTokens: 320, kvSwap: '4MiB' },
      { ...on, draft: { model: demo } },
    ]
    for (const options of others) {
      await using model = await load(demo, options)
      for (let round = 0; round < 2; round++) {
        const answers = await Promise.all(prompts.map((prompt) => answer(model, prompt)))
        expect(answers, JSON.stringify(options)).toEqual(alone)
      }
      if (options.kvTokens) expect(model.stats.sequences.preemptions).toBeGreaterThan(0)
    }
  })

  // Heads of 64, 16 (padded), 256, and windows beside layers without.
  test.each(['demo', 'gemma3-bf16', 'qwen35-bf16'])('%s: log-probabilities are those of the twin', async (name) => {
    const path = name === 'demo' ? demo : familyFolder(name)
    const tokens = Array.from({ length: 150 }, (_, at) => (at * at * 7 + 11) % 500)
    const score = async (device: string) => {
      await using model = await load(path, { device, cache: false, contextLength: 160, kv: 'q8' })
      return (await model.score(tokens)).logprobs
    }
    const [gpu, cpu] = [await score('cuda'), await score('cpu')]
    const mean = gpu.reduce((sum, logprob, at) => sum + Math.abs(logprob - cpu[at]!), 0) / gpu.length
    expect(mean).toBeLessThan(0.01)
  })

  test('perplexity is that of float16 within 0.3 %', async () => {
    const text = readFileSync(join(demo, 'held-out.txt'), 'utf8')
    const perplexity = async (kv: 'f16' | 'q8') => {
      await using model = await load(demo, { device: 'cuda', cache: false, contextLength: 513, kv })
      const tokens = await model.tokenizer.encode(text, { specialTokens: false })
      let sum = 0
      for (let begin = 0; begin + 1 < tokens.length; begin += 512) {
        for (const logprob of (await model.score(tokens.slice(begin, begin + 513))).logprobs) sum += logprob
      }
      return Math.exp(-sum / (tokens.length - 1))
    }
    const [f16, q8] = [await perplexity('f16'), await perplexity('q8')]
    expect(Math.abs(q8 / f16 - 1)).toBeLessThan(3e-3)
  })
})

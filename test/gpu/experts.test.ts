/** Experts on demand on a GPU by schedules drawn at random. Needs a device; elsewhere it says why it does not run. */
import { afterAll, describe, expect, test } from 'vitest'
import { probe } from '../../lib/index.ts'
import { SHAPES } from '../../lib/model/shapes.ts'
import { loadSynthetic } from '../../lib/model/synthetic.ts'
import { removeFolders } from '../goldens/folders.ts'
import { testSchedules } from '../model/expert_schedules.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

afterAll(removeFolders)

describe.skipIf(gpus.length === 0)('experts on demand on a GPU', () => testSchedules('cuda', 40))

describe.skipIf(gpus.length === 0)('experts that the CPU answers', () => {
  // Of that size: smaller ones come over the link sooner than an answer.
  const shape = { ...SHAPES['qwen3-30b-a3b']!, layers: 3 }
  const options = { device: 'cuda', experts: 'demand', expertCache: 0, contextLength: 64, maxSequences: 8 } as const
  const prompts = Array.from({ length: 8 }, (_, seed) => [5 + seed, 900 - seed, 77])

  test.each([1, 8])('%i at once: the same bits', async (count) => {
    const ask = async (expertCpu: boolean) => {
      await using model = await loadSynthetic('answers', shape, { ...options, expertCpu }, { head: 'q4' })
      const asked = { maxTokens: 12, ignoreEos: true, logprobs: true }
      const answers = await Promise.all(prompts.slice(0, count).map((prompt) => model.generate(prompt, asked).result))
      const bits = answers.map(({ tokens, logprobs }) => ({ tokens, logprobs: [...logprobs!] }))
      return { bits, experts: model.stats.experts }
    }
    const [alone, answered] = [await ask(false), await ask(true)]
    expect(alone.experts.cpu).toBe(0)
    expect(answered.experts.cpu).toBeGreaterThan(0)
    expect(answered.experts.mapped).toBeGreaterThan(0)
    expect(answered.bits).toEqual(alone.bits)
  })
})

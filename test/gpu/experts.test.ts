/**
 * Experts on demand on a GPU by schedules drawn at random: requests that come alone and in crowds, while the cache of
 * experts grows, shrinks and goes. Each answer has the bits of the model whose experts are all resident, asked alone.
 * Needs a device; elsewhere it says why it does not run.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load, type Model, probe } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'
import { randomOf } from './random.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

const SCHEDULES = Number(process.env['MILLRACE_SCHEDULES'] ?? 40)
const QUESTIONS = 12

afterAll(removeFolders)

describe.skipIf(gpus.length === 0).each(['qwen3-moe-gptq-g32', 'gpt-oss-mxfp4', 'glm4-moe-groups-gptq-g32'])(
  '%s',
  (name) => {
    const options = { device: 'cuda', contextLength: 64, maxSequences: 16, batch: 16, prefixReuse: false } as const
    const prompt = (seed: number) => Array.from({ length: 3 + (seed % 9) }, (_, at) => (seed * 131 + at * at * 7) % 400)
    const ask = async (model: Model, seed: number) => {
      const asked = { maxTokens: 40, temperature: seed % 2, seed, ignoreEos: true, logprobs: true }
      const { tokens, logprobs } = await model.generate(prompt(seed), asked).result
      return { tokens, logprobs: [...logprobs!] }
    }
    const expected: Awaited<ReturnType<typeof ask>>[] = []
    let frame = 0

    beforeAll(async () => {
      await using resident = await load(familyFolder(name), options)
      for (let seed = 0; seed < QUESTIONS; seed++) expected.push(await ask(resident, seed))
      const { units } = resident.plan
      frame = Math.max(...units.map(({ experts }) => (experts ? experts.bytes / experts.count + 4096 : 0)))
    })

    test('answers under caches that move', async () => {
      await using model = await load(familyFolder(name), {
        ...options,
        experts: 'demand',
        expertCache: Math.ceil(3 * frame),
      })
      const least = model.plan.vramBytes - model.plan.expertCacheBytes
      for (let schedule = 0; schedule < SCHEDULES; schedule++) {
        const random = randomOf(schedule + 1)
        const moves: string[] = []
        const asked = Array.from({ length: 1 + random(4) * random(4) }, () => random(QUESTIONS))
        const answers = asked.map((seed) => ask(model, seed))
        for (let move = random(5); move > 0; move--) {
          const frames = random(3) === 0 ? 100 : random(9)
          await model.setBudget(Math.ceil(least + frames * frame))
          moves.push(`${frames} frames at step ${model.stats.steps}`)
          if (random(2) === 0) await new Promise((done) => setTimeout(done, random(3)))
        }
        const found = await Promise.all(answers)
        for (const [at, seed] of asked.entries()) {
          const differs = found[at]!.tokens.findIndex((token, i) => token !== expected[seed]!.tokens[i])
          expect(found[at], `schedule ${schedule}, ${moves}; token ${differs} of ${at + 1}/${asked.length}`).toEqual(
            expected[seed],
          )
        }
      }
      expect(model.stats.experts.hits).toBeGreaterThan(0)
      expect(model.stats.experts.promotedBytes).toBeGreaterThan(0)
    })
  },
)

/**
 * Experts on demand by schedules drawn at random: requests that come alone and in crowds, while the cache of experts
 * grows, shrinks and goes. Each answer has the bits of the model whose experts are all resident, asked alone.
 */
import { beforeAll, describe, expect, test } from 'vitest'
import { inspect, load, type Model } from '../../lib/index.ts'
import { familyFolder } from '../goldens/folders.ts'
import { randomOf } from '../gpu/random.ts'

const NAMES = ['qwen3-moe-gptq-g32', 'gpt-oss-mxfp4', 'glm4-moe-groups-gptq-g32']
const QUESTIONS = 12

/** `count` schedules of each model, or as many as MILLRACE_SCHEDULES says. */
export function testSchedules(device: 'cpu' | 'cuda', count: number): void {
  const schedules = Number(process.env['MILLRACE_SCHEDULES'] ?? count)
  const threads = device === 'cpu' ? { threads: 2 } : {}
  const options = { device, ...threads, contextLength: 64, maxSequences: 16, batch: 16, prefixReuse: false }
  const prompt = (seed: number) => Array.from({ length: 3 + (seed % 9) }, (_, at) => (seed * 131 + at * at * 7) % 400)
  const ask = async (model: Model, seed: number) => {
    const asked = { maxTokens: 40, temperature: seed % 2, seed, ignoreEos: true, logprobs: true }
    const { tokens, logprobs } = await model.generate(prompt(seed), asked).result
    return { tokens, logprobs: [...logprobs!] }
  }

  describe.each(NAMES)('%s', (name) => {
    const expected: Awaited<ReturnType<typeof ask>>[] = []
    let frame = 0

    beforeAll(async () => {
      await using resident = await load(familyFolder(name), options)
      for (let seed = 0; seed < QUESTIONS; seed++) expected.push(await ask(resident, seed))
      const { units } = await inspect(familyFolder(name))
      frame = Math.max(...units.map(({ experts }) => (experts ? experts.bytes / experts.count + 4096 : 0)))
    })

    test.each(device === 'cpu' ? [false, true] : [false])(
      `answers under caches that move, ${schedules} schedules; the CPU answers some: %s`,
      async (expertCpu) => {
        await using model = await load(familyFolder(name), {
          ...options,
          experts: 'demand',
          expertCpu,
          expertCache: Math.ceil(3 * frame),
        })
        // The twin's budget is the cache alone.
        const least = device === 'cpu' ? 1 : model.plan.vramBytes - model.plan.expertCacheBytes
        for (let schedule = 0; schedule < schedules; schedule++) {
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
        if (expertCpu) expect(model.stats.experts.cpu).toBeGreaterThan(0)
        else expect(model.stats.experts.cpu).toBe(0)
      },
      60_000 + 2_000 * schedules,
    )
  })
}

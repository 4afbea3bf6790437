/**
 * Streaming on a GPU, at random: homes that move while requests run, an arena whose size changes, a CPU beside the GPU,
 * slots poisoned. Every answer must have the bits of the resident model. MILLRACE_SCHEDULES says how many schedules;
 * without it 25. Needs a device; elsewhere it says why it does not run.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load, type Model, type PlacementHome, probe } from '../../lib/index.ts'
import { randomOf } from './random.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const demo = join(root, 'models/demo')
const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)
const schedules = Number(process.env.MILLRACE_SCHEDULES ?? 25)

/** Resident bytes within the budget; undefined if it is too small for the model, and nothing else may come of it. */
async function tryBudget(model: Model, budget: number): Promise<number | undefined> {
  try {
    return (await model.setBudget(budget)).residentBytes
  } catch (error) {
    expect(error).toMatchObject({ code: 'OUT_OF_MEMORY' })
    return undefined
  }
}

describe.skipIf(gpus.length === 0)('streaming', () => {
  const REQUESTS = 12
  const prompts = Array.from({ length: REQUESTS }, (_, r) =>
    Array.from({ length: 2 + r * 9 }, (_, i) => (r * 37 + i * 11) % 400),
  )
  const options = { device: 'cuda', contextLength: 160, maxSequences: 6 }
  const ask = async (model: Model, r: number) => {
    const sampling = { temperature: r % 2, seed: r, maxTokens: 10 + r, ignoreEos: true, logprobs: true }
    const { tokens, logprobs } = await model.generate(prompts[r]!, sampling).result
    return { tokens, logprobs }
  }
  let expected: Awaited<ReturnType<typeof ask>>[]
  let bytes = 0
  /** Answers to all prompts against those of the GPU alone; how many tokens could be compared. */
  const expectNear = (answers: typeof expected) => {
    let compared = 0
    for (const [r, { tokens, logprobs }] of answers.entries()) {
      const reference = expected[r]!
      // Samples may part where two tokens are all but equally likely: compared is what comes before.
      for (let i = 0; i < tokens.length && tokens[i] === reference.tokens[i]; i++, compared++) {
        expect(Math.abs(logprobs![i]! - reference.logprobs![i]!)).toBeLessThan(0.03)
      }
    }
    return compared
  }
  beforeAll(async () => {
    await using model = await load(demo, { ...options, placement: 'resident' })
    expected = await Promise.all(prompts.map((_, r) => ask(model, r)))
    bytes = model.plan.units.reduce((sum, unit) => sum + unit.bytes, 0)
  })

  describe('random schedules', () => {
    let models: Model[]
    beforeAll(async () => {
      const arena = Math.round(1.3 * bytes)
      const shared = { ...options, placement: 'shared' as const, arena, turnMs: 3, poison: true }
      models = [
        await load(demo, { ...options, placement: 'streamed', ring: 2, poison: true }),
        await load(demo, shared),
        await load(demo, shared),
      ]
    })
    afterAll(() => Promise.all((models ?? []).map((model) => model.close())))

    test(`${schedules} of them have the bits of the resident model`, { timeout: 600_000 }, async () => {
      const residents = new Set<number | undefined>()
      for (let schedule = 0; schedule < schedules; schedule++) {
        const random = randomOf(schedule + 1)
        const asked = Array.from({ length: 1 + random(6) }, () => ({ model: random(3), r: random(REQUESTS) }))
        const answers = Promise.all(asked.map(({ model, r }) => ask(models[model]!, r)))
        const aborted = models[random(3)]!.generate(prompts[random(REQUESTS)]!, { ignoreEos: true, maxTokens: 40 })
        for (let move = random(4); move > 0; move--) {
          const [moved, shared] = [models[0]!, models[1]!]
          const { kvBytes, workspaceBytes } = moved.plan
          const budget = kvBytes + workspaceBytes + 3 * 2 ** 20 + random(9 * 2 ** 20)
          if (random(2) === 0) residents.add(await tryBudget(moved, budget))
          else await shared.setBudget(Math.max(1, random(2 * bytes)))
        }
        aborted.cancel()
        await aborted.result
        for (const [index, answer] of (await answers).entries()) {
          expect(answer, `schedule ${schedule}, request ${index}`).toEqual(expected[asked[index]!.r])
        }
      }
      for (const model of models) expect(model.stats.kv.blocksUsed).toBe(0)
      if (schedules >= 10) {
        expect(residents.size).toBeGreaterThan(2)
        expect(models[1]!.stats.arena.switches).toBeGreaterThan(0)
        for (const { stats } of [models[0]!, models[2]!]) expect(stats.streaming.copiedBytes).toBeGreaterThan(0)
      }
    })
  })

  test('a CPU beside the GPU: alone as in a crowd, near the GPU alone', async () => {
    await using model = await load(demo, { ...options, placement: 'cpu', poison: true })
    const crowd = await Promise.all(prompts.map((_, r) => ask(model, r)))
    for (const r of [0, 5, 11]) expect(await ask(model, r)).toEqual(crowd[r])
    expect(model.stats.hops).toBeGreaterThan(100)
    expect(expectNear(crowd)).toBeGreaterThan(80)
  })

  test('homes of every kind in one model: the bits do not tell resident from streamed', async () => {
    const homes: PlacementHome[] = [
      'resident',
      'streamed',
      'cpu',
      'resident',
      'streamed',
      'cpu',
      'streamed',
      'resident',
    ]
    const resident = homes.map((home) => (home === 'streamed' ? 'resident' : home))
    await using mixed = await load(demo, { ...options, placement: homes, poison: true })
    await using fewer = await load(demo, { ...options, placement: resident, poison: true })
    const asked = await Promise.all(prompts.map((_, r) => ask(mixed, r)))
    for (const [r, answer] of asked.entries()) expect(await ask(fewer, r), `request ${r}`).toEqual(answer)
    expect(mixed.stats.hops).toBeGreaterThan(20)
    expect(fewer.stats.hops).toBeGreaterThan(20)
    // The CPU's units are streamed for prompts by both, the streamed ones for every pass by one.
    const perStep = ({ stats }: Model) => stats.streaming.copiedBytes / stats.steps
    expect(perStep(mixed)).toBeGreaterThan(perStep(fewer))
    // The CPU's feed-forwards are its own: other bits than the GPU's, and nearly the same numbers.
    expect(asked.map(({ logprobs }) => logprobs)).not.toEqual(expected.map(({ logprobs }) => logprobs))
    expect(expectNear(asked)).toBeGreaterThan(80)
  })
})

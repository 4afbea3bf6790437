/** A model spread over the first two GPUs gives the bits of the first. Needs two; elsewhere it says why it does not run. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { load, type Model, probe } from '../../lib/index.ts'

const demo = join(fileURLToPath(new URL('../..', import.meta.url)), 'models/demo')
const { gpus, gpuReason } = await probe()
if (gpus.length < 2) console.warn(`test/gpu/devices is skipped: ${gpuReason || 'there is one GPU'}`)

describe.skipIf(gpus.length < 2)('two GPUs', () => {
  const prompts = Array.from({ length: 12 }, (_, r) => Array.from({ length: 2 + r * 9 }, (_, i) => (r * 37 + i) % 400))
  const ask = (model: Model) =>
    Promise.all(
      prompts.map(async (prompt, r) => {
        const sampling = { temperature: r % 2, seed: r, maxTokens: 10 + r, ignoreEos: true, logprobs: true }
        const { tokens, logprobs } = await model.generate(prompt, sampling).result
        return { tokens, logprobs }
      }),
    )

  test('have the bits of one: resident, streamed, preempted, beside the CPU, while budgets move', async () => {
    const device = ['cuda:0', 'cuda:1']
    const common = { contextLength: 160, maxSequences: 6, poison: true }
    for (const more of [
      { placement: 'resident' as const },
      { placement: 'streamed' as const },
      { placement: 'streamed' as const, maxSequences: 2 },
      { placement: 'cpu' as const },
    ]) {
      await using one = await load(demo, { ...common, ...more, device: 'cuda:0' })
      const expected = await ask(one)
      await using two = await load(demo, { ...common, ...more, device })
      expect(await ask(two)).toEqual(expected)
      const copied = two.stats.streaming.devices.map(({ copiedBytes }) => copiedBytes > 0)
      expect(copied).toEqual(more.placement === 'resident' ? [false, false] : [true, true])
      if (more.placement === 'cpu') continue
      // From a few resident units on each device to all of them; every one of these budgets suffices.
      const rest = Math.max(...two.plan.devices.map(({ kvBytes, workspaceBytes }) => kvBytes + workspaceBytes))
      const answers = Promise.all([ask(two), ask(two), ask(two)])
      const residents = new Set<number>()
      for (let move = 0; move < 12; move++) {
        const { residentBytes } = await two.setBudget(rest + 2 ** 22 + (move % 4) * 2 ** 21)
        residents.add(residentBytes)
      }
      for (const answer of await answers) expect(answer).toEqual(expected)
      expect(residents.size).toBeGreaterThan(2)
    }
  })
})

import { join } from 'node:path'
import { expect, test } from 'vitest'
import { load, plan } from '../../lib/index.ts'
import { MODELS } from '../models.ts'

test('of a folder: what load() then does', async () => {
  const options = { device: 'cpu', contextLength: 64, placement: 'streamed' as const, threads: 1 }
  const planned = await plan(join(MODELS, 'demo'), options)
  await using model = await load(join(MODELS, 'demo'), options)
  expect(model.plan).toEqual(planned)
})

test('of a shape, by name: nothing is loaded', async () => {
  const made = await plan('llama3-70b', { device: 'cpu', ramBudget: '100GB', contextLength: 128, maxSequences: 1 })
  expect(made.units).toHaveLength(161)
  expect(made.hostBytes).toBeGreaterThan(37e9)
  expect(made.prediction.single.tokensPerSecond).toBeGreaterThan(0)
  const q4 = await plan('Llama-3-70B', { device: 'cpu', ramBudget: '100GB', head: 'q4' })
  expect(q4.units.at(-1)!.bytes).toBeLessThan(made.units.at(-1)!.bytes / 3)
})

test('refuses as load() does, and names the shapes', async () => {
  await expect(plan('llama3-70b', { device: 'cpu', ramBudget: '1GB' })).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
  await expect(plan('llama9')).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringContaining('llama3-8b'),
  })
  await expect(plan('./nowhere')).rejects.toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
  await expect(plan('llama3-8b', { vramBugdet: '6GiB' } as object)).rejects.toThrow(/did you mean 'vramBudget'/)
})

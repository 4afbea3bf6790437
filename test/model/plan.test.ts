import { join } from 'node:path'
import { expect, test } from 'vitest'
import { calibrate, load, plan, probe } from '../../lib/index.ts'
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
  await expect(plan('lama3-8b')).rejects.toMatchObject({ remedy: "did you mean 'llama3-8b'?" })
  for (const model of [undefined, 5, null, '']) {
    await expect(plan(model as string)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/^expected a folder or one of .* for model but received/),
    })
  }
  await expect(plan('./nowhere')).rejects.toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
  await expect(plan('llama3-8b', { vramBugdet: '6GiB' } as object)).rejects.toThrow(/did you mean 'vramBudget'/)
})

test('calibrate() takes no other options, and is of GPUs', async () => {
  await expect(calibrate({ x: 1 } as object)).rejects.toThrow(/unknown option 'x' in options/)
  for (const wrong of [{ device: 'cpu' }, { device: 5 }, { threads: 0 }, { onProgress: 1 }, { signal: {} }, null]) {
    await expect(calibrate(wrong as object)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  }
  const { gpus } = await probe()
  if (gpus.length > 0) return
  const refused = await calibrate().catch((error) => error)
  expect(refused).toMatchObject({ code: 'DEVICE_UNAVAILABLE', message: expect.stringMatching(/no GPU to calibrate/) })
  expect(refused.remedy).not.toContain("use device: 'cpu'")
})

/**
 * A fault that ends a GPU's use in this process: its requests fail at once with GPU_LOST, the CPU and Node live. In a file of
 * its own, since nothing on the GPU runs here afterwards.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { load, type MillraceError, probe } from '../../lib/index.ts'
import { openLab } from '../../lib/lab/index.ts'
import { TRAPPING } from './kernels.ts'

const folder = join(fileURLToPath(new URL('../..', import.meta.url)), 'models/demo')
const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

test.skipIf(gpus.length === 0)('a lost GPU fails what is on it promptly; the CPU backend and Node go on', async () => {
  const options = { contextLength: 512 }
  const cpu = await load(folder, { ...options, device: 'cpu' })
  const gpu = await load(folder, { ...options, device: 'cuda' })
  const expected = (await cpu.generate('Once upon a time', { maxTokens: 20 }).result).text
  const lab = await openLab({ device: 'cuda' })
  const kernel = await lab.loadKernel('gemv_q4', TRAPPING)
  const work = await lab.prepare('gemv_q4', { n: 64, k: 64 }, { kernel })
  const stream = await lab.stream()

  const running = Array.from({ length: 6 }, () => gpu.generate('Once', { maxTokens: 500, ignoreEos: true }).result)
  const beside = cpu.generate('Once upon a time', { maxTokens: 20 }).result
  await stream.launch(work)
  const lost = { code: 'GPU_LOST', remedy: expect.stringContaining('restart') }
  await expect(stream.synchronize()).rejects.toMatchObject(lost)
  const began = performance.now()
  for (const outcome of await Promise.allSettled(running)) {
    // One may have been done already.
    if (outcome.status === 'rejected') expect(outcome.reason as MillraceError).toMatchObject(lost)
  }
  expect((await Promise.allSettled(running)).some(({ status }) => status === 'rejected')).toBe(true)
  await expect(gpu.generate('Once', { maxTokens: 4 }).result).rejects.toMatchObject(lost)
  await expect(load(folder, { ...options, device: 'cuda' })).rejects.toMatchObject(lost)
  await expect(lab.buffer(1024)).rejects.toMatchObject(lost)
  expect(performance.now() - began).toBeLessThan(10_000)

  expect((await beside).text).toBe(expected)
  expect((await cpu.generate('Once upon a time', { maxTokens: 20 }).result).text).toBe(expected)
  await lab.close()
  await gpu.close()
  await using another = await load(folder, { ...options, device: 'cpu' })
  expect((await another.generate('Once upon a time', { maxTokens: 20 }).result).text).toBe(expected)
  await cpu.close()
})

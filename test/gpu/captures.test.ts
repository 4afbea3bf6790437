/**
 * Models and labs that come and go, on all GPUs, while others meet shapes that are new to them and capture graphs
 * (test/cuda/capture_test.cc has it without JavaScript). Needs a device; elsewhere it says why it does not run.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { load, type Model, probe } from '../../lib/index.ts'
import { openLab } from '../../lib/lab/index.ts'
import { IDLE } from './kernels.ts'

const demo = join(fileURLToPath(new URL('../..', import.meta.url)), 'models/demo')
const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)
const SECONDS = 12
const CROWD = 12

const options = { contextLength: 600, maxSequences: CROWD, placement: 'resident' as const, prefixReuse: false }
const ask = async (model: Model, r: number) => {
  const prompt = Array.from({ length: 3 + r }, (_, i) => (r * 37 + i * 11) % 400)
  const sampling = { maxTokens: 6, ignoreEos: true, logprobs: true, temperature: r % 2, seed: r }
  const { tokens, logprobs } = await model.generate(prompt, sampling).result
  return { tokens, logprobs }
}

test.skipIf(gpus.length === 0)(
  'loads and labs in a loop cost no capture, and no capture costs them',
  {
    timeout: 120_000,
  },
  async () => {
    const alone: Awaited<ReturnType<typeof ask>>[] = []
    await using first = await load(demo, { ...options, device: 'cuda:0' })
    for (let r = 0; r < CROWD; r++) alone.push(await ask(first, r))

    const until = performance.now() + SECONDS * 1000
    const rounds = async (round: (index: number) => Promise<void>) => {
      let index = 0
      for (; performance.now() < until; index++) await round(index)
      return index
    }
    const devices = gpus.length > 1 ? ['cuda:0', 'cuda:1'] : ['cuda:0']
    const counts = await Promise.all([
      rounds(async () => {
        await using model = await load(demo, { ...options, device: 'cuda:0' })
        for (let crowd = 1; crowd <= CROWD; crowd++) {
          const found = await Promise.all(Array.from({ length: crowd }, (_, r) => ask(model, r)))
          expect(found, `a crowd of ${crowd}`).toEqual(alone.slice(0, crowd))
        }
      }),
      rounds(async (index) => {
        const placement = index % 2 === 0 ? ('streamed' as const) : ('resident' as const)
        await using model = await load(demo, { ...options, placement, device: index % 3 === 0 ? 'cuda:0' : devices })
        expect(await ask(model, index % CROWD)).toEqual(alone[index % CROWD])
      }),
      rounds(async () => {
        await using lab = await openLab({ device: 'cuda' })
        const work = await lab.prepare('gemv_q4', { rows: 4, n: 512, k: 512 })
        const kernel = await lab.loadKernel('gemv_q4', IDLE)
        expect(await lab.time(work, { launches: 50, repeats: 3 })).toHaveLength(3)
        expect(await lab.time({ ...work, kernel }, { launches: 50, repeats: 3 })).toHaveLength(3)
        const buffer = await lab.buffer(2 ** 26, 'host')
        await buffer.release()
      }),
      rounds(async () => {
        expect((await probe()).gpus).toHaveLength(gpus.length)
        await new Promise((resolve) => setTimeout(resolve, 5))
      }),
    ])
    for (const count of counts) expect(count).toBeGreaterThan(1)
    console.log(`models with new shapes, loads, labs, probes: ${counts.join(', ')}`)
  },
)

/** What plans say of the GPU's memory against what models then take. Needs a device; elsewhere it says why it does not run. */
import { expect, test } from 'vitest'
import { probe } from '../../lib/index.ts'
import { SHAPES } from '../../lib/model/shapes.ts'
import { loadSynthetic } from '../../lib/model/synthetic.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

const cases = [
  { shape: 'smollm2-135m', options: {} },
  { shape: 'tinyllama-1.1b', options: { placement: 'streamed' as const } },
  { shape: 'llama3-8b', options: { vramBudget: '3GiB', contextLength: 512, maxSequences: 1 } },
  { shape: 'llama3-8b', options: { vramBudget: '4GiB', contextLength: 8192, maxSequences: 1 } },
  { shape: 'deepseek-v2-lite', options: { contextLength: 16384, maxSequences: 4 } },
]

test.skipIf(gpus.length === 0).each(cases)('$shape $options: within the plan', async ({ shape, options }) => {
  const spec = { ...SHAPES[shape]!, layers: Math.min(8, SHAPES[shape]!.layers) }
  await using model = await loadSynthetic(shape, spec, { device: 'cuda', ...options })
  const { plan, memory } = model
  expect(memory.workspaceBytes).toBeLessThanOrEqual(plan.workspaceBytes)
  // Room for permuted columns, which only some checkpoints have, is always planned.
  expect(memory.workspaceBytes).toBeGreaterThan(plan.workspaceBytes * 0.6 - 2 ** 24)
  expect(memory.vramBytes).toBeLessThanOrEqual(plan.vramBytes)
  expect(plan.vramBytes).toBeLessThanOrEqual(plan.vramBudgetBytes)
})

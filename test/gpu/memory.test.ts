/**
 * Memory that a budget takes away goes back to the GPU, where others find it. What is free there is everybody's: run it
 * by itself where other processes come and go. Needs a device; elsewhere it says why it does not run.
 */
import { expect, test } from 'vitest'
import { probe } from '../../lib/index.ts'
import { SHAPES } from '../../lib/model/shapes.ts'
import { loadSynthetic } from '../../lib/model/synthetic.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

test.skipIf(gpus.length === 0)('memory that a budget takes away goes back to the GPU', async () => {
  const options = { device: 'cuda', placement: 'resident' as const, contextLength: 160, maxSequences: 2 }
  await using model = await loadSynthetic('budgets', SHAPES['tinyllama-1.1b']!, options)
  const ask = async () => {
    const { tokens, logprobs } = await model.generate([1, 2, 3], { maxTokens: 20, ignoreEos: true, logprobs: true })
      .result
    return { tokens, logprobs }
  }
  const free = async () => (await probe()).gpus[0]!.memoryFreeBytes
  const answer = await ask()
  const before = await free()
  const { kvBytes, workspaceBytes, residentBytes } = model.plan
  const small = await model.setBudget(kvBytes + workspaceBytes + Math.round(residentBytes / 2))
  expect(small.residentBytes).toBeLessThan(residentBytes / 2)
  await expect.poll(free, { timeout: 20_000 }).toBeGreaterThan(before + residentBytes / 4)
  expect(await ask()).toEqual(answer)
  const all = await model.setBudget('50%')
  expect(all.residentBytes).toBe(residentBytes)
  expect(await ask()).toEqual(answer)
  expect(model.memory.ringBytes).toBe(0)
})

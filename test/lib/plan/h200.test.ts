/**
 * What plans guess of an H200 that nobody has calibrated, beside what ran on one (docs/PERFORMANCE.md, 2026-11-30):
 * within 10 % of each.
 */
import { expect, test } from 'vitest'
import { buildDecoder } from '../../../lib/checkpoint/decoder.ts'
import { runtime } from '../../../lib/model/runtime.ts'
import { SHAPES } from '../../../lib/model/shapes.ts'
import { SYNTHETIC_DEFAULTS } from '../../../lib/model/synthetic.ts'
import { makePlan } from '../../../lib/plan/plan.ts'
import { h200 } from './h200_machine.ts'

test.each([
  ['llama3-8b', 1, 687],
  ['llama3-8b', 8, 4636],
  ['llama3-8b', 16, 8216],
  ['llama3-8b', 32, 11303],
  ['llama3-8b', 64, 17993],
  ['llama3-8b', 128, 21880], // whole passes, by cuda_pass_bench,
  ['tinyllama-1.1b', 1, 1887],
  ['llama2-70b', 1, 96.1],
])('%s, batch %i: %f tok/s', (name, batch, measured) => {
  const { program } = buildDecoder(SHAPES[name]!)
  const slabs = runtime().native.planSynthetic(program, { ...SYNTHETIC_DEFAULTS, head: 'q4' })
  const plan = makePlan(program, slabs, { device: 'cuda', batch, contextLength: 128, kvSwap: 0 }, h200)
  expect(plan.units.every(({ home }) => home === 'resident')).toBe(true)
  expect(plan.prediction.batch.tokensPerSecond / measured).toBeGreaterThan(0.9)
  expect(plan.prediction.batch.tokensPerSecond / measured).toBeLessThan(1.1)
})

/**
 * What plans guess of mixtures on an H200 that nobody has calibrated, beside what ran on one (docs/PERFORMANCE.md,
 * 2026-11-30): within 15 % of each.
 */
import { expect, test } from 'vitest'
import { buildDecoder } from '../../../lib/checkpoint/decoder.ts'
import { runtime } from '../../../lib/model/runtime.ts'
import { SHAPES } from '../../../lib/model/shapes.ts'
import { SYNTHETIC_DEFAULTS } from '../../../lib/model/synthetic.ts'
import type { PlanOptions } from '../../../lib/options/model.ts'
import { makePlan, predictionOf } from '../../../lib/plan/plan.ts'
import { predictPrefill } from '../../../lib/plan/predict.ts'
import { h200 } from './h200_machine.ts'

function planned(name: string, options: PlanOptions) {
  const { program } = buildDecoder(SHAPES[name]!)
  const slabs = runtime().native.planSynthetic(program, SYNTHETIC_DEFAULTS)
  return { program, plan: makePlan(program, slabs, { device: 'cuda', kvSwap: 0, ...options }, h200) }
}
const near = (predicted: number, measured: number) => {
  expect(predicted / measured).toBeGreaterThan(0.85)
  expect(predicted / measured).toBeLessThan(1.15)
}

const RAM: PlanOptions = { experts: 'demand', expertCache: 0 }

// Tokens choose evenly, or as the shares say that a cache was seen to find.
test.each<[shape: string, batch: number, options: PlanOptions, found: number, measured: number]>([
  ['qwen3-30b-a3b', 1, {}, 1, 511],
  ['qwen3-30b-a3b', 8, {}, 1, 1829],
  ['qwen3-30b-a3b', 32, {}, 1, 4000],
  ['qwen3-30b-a3b', 1, RAM, 0, 50.6],
  ['qwen3-30b-a3b', 8, RAM, 0, 67.2],
  ['qwen3-30b-a3b', 32, RAM, 0, 125],
  ['qwen3-30b-a3b', 1, { ...RAM, expertCache: '8GB' }, 0.55, 99.7],
  ['qwen3-30b-a3b', 1, { ...RAM, expertCache: '8GB' }, 0.86, 210],
  ['gpt-oss-120b', 1, { ...RAM, expertCache: '20GB' }, 0.36, 36.9],
  ['gpt-oss-120b', 1, { ...RAM, expertCache: '20GB' }, 0.4, 37.8],
])('%s, batch %i, %o, of which %f are found: %f tok/s', (name, batch, options, found, measured) => {
  const { program, plan } = planned(name, { batch, contextLength: 128, ...options })
  const units = plan.units.map((unit) => (unit.home === 'demand' ? { ...unit, hitRate: found } : unit))
  near(predictionOf(program, { ...plan, units }, h200).batch.tokensPerSecond, measured)
})

test.each<[tokens: number, options: PlanOptions, measured: number]>([
  [2048, {}, 44573],
  [8192, {}, 31826],
  [2048, RAM, 7435],
  [8192, RAM, 29705],
])('qwen3-30b-a3b, a prompt of %i, %o: %f tok/s', (tokens, options, measured) => {
  const { program, plan } = planned('qwen3-30b-a3b', { contextLength: tokens, ...options })
  near(predictPrefill(program, plan.units, tokens, plan.maxRows, h200.calibration).tokensPerSecond, measured)
})

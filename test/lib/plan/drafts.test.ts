/** What drafts are predicted to bring, against sums by hand. */
import { expect, test } from 'vitest'
import { plan } from '../../../lib/index.ts'
import { predictDrafts, tokensPerPass } from '../../../lib/plan/drafts.ts'

test('tokens of a pass', () => {
  expect(tokensPerPass(0.5, 0)).toBe(1)
  expect(tokensPerPass(0.5, 2)).toBe(1 + 0.5 + 0.25)
  expect(tokensPerPass(1, 7)).toBe(8)
  expect(tokensPerPass(0, 7)).toBe(1)
})

test.each([
  ['free rows: as many as there may be', Array(64).fill(1), 1, 0.8, 31],
  ['rows that cost a pass: none', Array.from({ length: 64 }, (_, row) => row + 1), 1, 0.9, 0],
  ['drafts that are never right: none', Array(64).fill(1), 1, 0, 0],
  ['as far as there are rows', Array(64).fill(1), 16, 0.9, 3],
  ['more sequences than rows are known of', Array(64).fill(1), 100, 0.9, 0],
  // 1 + 0.5 in 1.2 is more than 1 in 1, and than 1.75 in 1.5.
  ['up to where the next gains less than it costs', [1, 1.2, 1.5, 1.8, 2.1], 1, 0.5, 1],
])('%s', (_, costs, batch, acceptance, drafts) => {
  const found = predictDrafts(costs as number[], batch, acceptance)
  expect(found.drafts).toBe(drafts)
  expect(found.tokensPerPass).toBeCloseTo(tokensPerPass(acceptance, drafts), 12)
  expect(found.tokensPerSecond).toBeCloseTo((batch * found.tokensPerPass) / found.passSeconds, 9)
})

test('a model whose layers all cross the link has drafts for nothing, and one of 64 resident rows has none at 0.3', async () => {
  const gpu = { memory: '80GiB', link: 'PCIe 5.0 x16' } as const
  const streamed = await plan('llama3-8b', { gpu, placement: 'streamed', coExecute: false, acceptance: 0.8 })
  const { drafted, single } = streamed.prediction
  expect(drafted!.tokensPerPass).toBeGreaterThan(4.7)
  expect(drafted!.tokensPerSecond).toBeGreaterThan(0.95 * drafted!.tokensPerPass * single.tokensPerSecond)
  const crowd = await plan('llama3-8b', { gpu, placement: 'resident', batch: 64, maxSequences: 128, acceptance: 0.3 })
  expect(crowd.prediction.drafted!.drafts).toBe(0)
  expect(crowd.prediction.drafted!.tokensPerSecond).toBeCloseTo(crowd.prediction.batch.tokensPerSecond, 6)
  expect((await plan('llama3-8b', { gpu })).prediction).not.toHaveProperty('drafted')
})

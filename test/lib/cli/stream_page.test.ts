import { expect, test } from 'vitest'
import type { StreamReport, StreamRun } from '../../../lib/cli/bench_stream.ts'
import { streamPage } from '../../../lib/cli/stream_page.ts'

const run = (batch: number, gib: number, tokensPerSecond: number): StreamRun => ({
  budget: `${gib}GiB`,
  batch,
  homes: 'attention 2 streamed; feed-forward 1 cpu, 1 resident; head resident',
  plannedVramBytes: gib * 2 ** 30,
  vramBytes: gib * 2 ** 30,
  streamedBytesPerPass: 1e9,
  predictedTokensPerSecond: tokensPerSecond * 1.05,
  tokensPerSecond,
  wallTokensPerSecond: tokensPerSecond,
  predictedPrefillTokensPerSecond: 100,
  prefillTokensPerSecond: 100,
  linkShare: 0.9,
  boundBy: 'link',
  loadSeconds: 1,
})
const report: StreamReport = {
  model: 'a <b> & "c"',
  gpu: 'a GPU',
  calibrated: true,
  linkBytesPerSecond: 5e10,
  prompt: 64,
  tokens: 64,
  head: 'stored',
  date: '2026-11-22',
  runs: [run(1, 2, 14), run(1, 4, 60), run(64, 2, 900)],
}

test('the page stands alone: three plots, every run, nothing loaded', () => {
  const page = streamPage(report)
  expect(page.match(/<svg/g)).toHaveLength(3)
  expect(page.match(/<tr>/g)).toHaveLength(1 + report.runs.length)
  expect(page).not.toMatch(/<script|https?:|src=|NaN|Infinity|undefined/)
  expect(page).toContain('a &lt;b&gt; &amp; &quot;c&quot;')
  for (const name of ['batch 1', 'batch 64', '4GiB: 60.0']) expect(page).toContain(name)
})

test('one run, or none, is no reason to fail', () => {
  for (const runs of [[], [run(1, 2, 14)]]) expect(streamPage({ ...report, runs })).not.toMatch(/NaN|Infinity/)
})

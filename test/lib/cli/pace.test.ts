import { expect, test } from 'vitest'
import { formatSeconds, Pace } from '../../../lib/cli/pace.ts'

test('a pace tells rate and time left, of the last seconds', () => {
  const pace = new Pace('download')
  pace.report({ done: 0, total: 1000e6 }, 0)
  expect(pace.text).toBe('')
  pace.report({ done: 100e6, total: 1000e6 }, 1000)
  expect(pace.text).toBe('100 MB/s, 9 s left')
  for (let second = 2; second <= 12; second++)
    pace.report({ done: 100e6 + (second - 1) * 10e6, total: 1000e6 }, second * 1000)
  expect(pace.text).toMatch(/^1\d\.\d MB\/s, 1 min|^10\.0 MB\/s, 2 min left/)
  pace.report({ done: 0, total: 1000e6 }, 13_000)
  expect(pace.text).toBe('')
})

test.each([
  [0.2, '1 s'],
  [59.5, '60 s'],
  [61, '2 min'],
  [3599, '60 min'],
  [3700, '1 h 2 min'],
])('%s seconds are %s', (seconds, text) => expect(formatSeconds(seconds)).toBe(text))

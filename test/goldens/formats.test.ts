/** Quantised formats against transformers, which dequantises the same files (formats/<name>/golden.json). */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { load } from '../../lib/index.ts'
import { FORMATS, formatFolder, formatNames, removeFolders } from './folders.ts'

// Of log-probabilities, in the mean and at most. transformers computes in float32.
const MEAN = 0.002
const MOST = 0.02

afterAll(removeFolders)

for (const name of formatNames) {
  describe(name, () => {
    let resident: Float32Array | undefined

    test.each(['resident', 'streamed'] as const)('%s', async (placement) => {
      const golden = JSON.parse(readFileSync(join(FORMATS, name, 'golden.json'), 'utf8'))
      const warnings: unknown[] = []
      const quiet = () => {}
      const logger = { debug: quiet, info: quiet, error: quiet, warn: (...told: unknown[]) => void warnings.push(told) }
      await using model = await load(formatFolder(name), { device: 'cpu', placement, poison: true, logger })
      expect(warnings).toEqual([])
      const { logprobs } = await model.score(golden.ids)
      const errors = Array.from(logprobs, (value, i) => Math.abs(value - golden.logprobs[i]))
      expect(errors.length).toBe(golden.ids.length - 1)
      expect(errors.reduce((sum, error) => sum + error, 0) / errors.length).toBeLessThan(MEAN)
      expect(Math.max(...errors)).toBeLessThan(MOST)
      // The same bits wherever the weights rest.
      resident ??= logprobs
      expect(logprobs).toEqual(resident)
    })
  })
}

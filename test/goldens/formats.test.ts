/** Quantised formats against transformers, which dequantises the same files (formats/<name>/golden.json). */
import { copyFileSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { load } from '../../lib/index.ts'
import { temporaryFolder } from '../lib/folder.ts'

// Of log-probabilities, in the mean and at most. transformers computes in float32.
const MEAN = 0.002
const MOST = 0.02

const root = fileURLToPath(new URL('formats', import.meta.url))
const tokenizer = fileURLToPath(new URL('models/bf16-tied', import.meta.url))

for (const name of readdirSync(root)) {
  describe(name, () => {
    let resident: Float32Array | undefined

    test.each(['resident', 'streamed'] as const)('%s', async (placement) => {
      const folder = await temporaryFolder({})
      for (const file of ['config.json', 'model.safetensors']) copyFileSync(join(root, name, file), join(folder, file))
      for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
        copyFileSync(join(tokenizer, file), join(folder, file))
      }
      const golden = JSON.parse(readFileSync(join(root, name, 'golden.json'), 'utf8'))
      await using model = await load(folder, { device: 'cpu', placement, poison: true })
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

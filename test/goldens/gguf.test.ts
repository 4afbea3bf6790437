/** GGUF files of llama.cpp's own quantiser against transformers on the weights that gguf-py reads from them. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { load } from '../../lib/index.ts'
import { findFile } from '../models.ts'

// Readers that compute with 16 bits or floats are within these of float32.
const MEAN = 0.005
const PERCENTILE_97 = 0.02

const shipped = fileURLToPath(new URL('gguf', import.meta.url))
const types = 'F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K_M Q4_K_M Q5_K_M Q6_K IQ4_NL IQ4_XS'.split(' ')

function folderOf(file: string): string | undefined {
  if (existsSync(join(shipped, file))) return shipped
  return findFile('gguf', file)
}

for (const type of types) {
  const file = `llama-${type}.gguf`
  const folder = folderOf(file)
  describe.skipIf(!folder)(file, () => {
    let resident: Float32Array | undefined

    test.each(['resident', 'streamed'] as const)('%s', async (placement) => {
      const golden = JSON.parse(readFileSync(join(folder!, 'golden.json'), 'utf8'))[file]
      await using model = await load(join(folder!, file), { device: 'cpu', placement, poison: true })
      const { logprobs } = await model.score(golden.ids)
      const errors = Array.from(logprobs, (value, i) => Math.abs(value - golden.logprobs[i])).sort((a, b) => a - b)
      expect(errors.length).toBe(golden.ids.length - 1)
      expect(errors.reduce((sum, error) => sum + error, 0) / errors.length).toBeLessThan(MEAN)
      expect(errors[Math.floor(0.97 * errors.length)]).toBeLessThan(PERCENTILE_97)
      // The same bits wherever the weights rest.
      resident ??= logprobs
      expect(logprobs).toEqual(resident)
    })
  })
}

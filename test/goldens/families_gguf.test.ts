/** Families in GGUF files, against transformers; gguf_files.ts writes them. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { load } from '../../lib/index.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { FAMILIES } from './folders.ts'
import { convert, GGUF_CASES } from './gguf_files.ts'

const MEAN = 2e-3

describe.each(GGUF_CASES)('$name: $folder', (one) => {
  test('log-probabilities are those of transformers', async () => {
    const golden = JSON.parse(readFileSync(join(FAMILIES, one.folder, 'golden.json'), 'utf8'))
    const path = join(await temporaryFolder({}), 'model.gguf')
    writeFileSync(path, convert(one))
    await using model = await load(path, { device: 'cpu', contextLength: 160, cache: false })
    const { logprobs } = await model.score(golden.ids)
    const errors = golden.logprobs.map((value: number, at: number) => Math.abs(logprobs[at]! - value))
    expect(errors.reduce((sum: number, error: number) => sum + error, 0) / errors.length).toBeLessThan(MEAN)
  })
})

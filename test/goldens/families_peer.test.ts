/** llama.cpp's own engine reads the same GGUF files and answers alike, where MILLRACE_PEER has a node-llama-cpp. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { temporaryFolder } from '../lib/folder.ts'
import { GGUF_TYPES } from '../reference/gguf_blocks.ts'
import { convertFolder } from '../reference/gguf.ts'
import { writeRandomCheckpoint } from '../reference/checkpoint.ts'
import { convert, GGUF_CASES, PEER_CASES } from './gguf_files.ts'
import { besidePeer, openPeer, peerPresent } from './peer.ts'

const PROMPT = Array.from({ length: 60 }, (_, at) => (at * 37 + 11) % 250)
const TOKENS = 24
/** Of log-probabilities: both have keys and values in float16. */
const LARGEST = 0.02
/** In the mean: of packed weights llama.cpp rounds activations to 8 bits. A wrong reading is off by 1 and more. */
const MEAN_OF_TYPES = 0.06
/** Below this much between the first two, either may come first. */
const CLOSE = 0.01

/** Rows of every width are whole blocks of 256. */
const WIDE = { vocab: 272, hidden: 256, layers: 2, heads: 4, kvHeads: 2, headDim: 64, intermediate: 512, maxPosition: 192 }

// biome-ignore lint/suspicious/noExplicitAny: a package that is not among the dependencies
let llama: any

describe.skipIf(!peerPresent)('beside llama.cpp', () => {
  beforeAll(async () => {
    llama = await openPeer()
  }, 120_000)
  afterAll(() => llama?.dispose())

  test.each([...GGUF_CASES.filter(({ peerDiffers }) => !peerDiffers), ...PEER_CASES])('$name: $folder', async (one) => {
    const path = join(await temporaryFolder({}), 'model.gguf')
    writeFileSync(path, convert(one))
    const compared = await besidePeer(llama, path, PROMPT, TOKENS)
    expect(compared.length).toBe(TOKENS)
    for (const { ours, theirs, below } of compared) {
      expect(Math.abs(theirs - ours)).toBeLessThan(LARGEST)
      expect(below).toBeLessThan(CLOSE)
    }
  })

  test.each(GGUF_TYPES)('weights of %s', async (type) => {
    const folder = await temporaryFolder({})
    writeRandomCheckpoint(folder, { seed: 23, shape: WIDE, dtype: 'F32' })
    const compared = await besidePeer(llama, convertFolder(folder, { type }), PROMPT, TOKENS)
    const errors = compared.map(({ ours, theirs }) => Math.abs(theirs - ours))
    expect(errors.length).toBe(TOKENS)
    expect(errors.reduce((sum, error) => sum + error, 0) / TOKENS).toBeLessThan(MEAN_OF_TYPES)
  })
})

/** llama.cpp's own engine reads the same GGUF files and answers alike, where MILLRACE_PEER has a node-llama-cpp. */
import { existsSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load } from '../../lib/index.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { convert, GGUF_CASES, PEER_CASES } from './gguf_files.ts'

const peer = process.env.MILLRACE_PEER ? resolve(process.env.MILLRACE_PEER) : ''
const present = existsSync(join(peer, 'node_modules', 'node-llama-cpp'))
if (!present) {
  process.stderr.write('tests beside llama.cpp are skipped: set MILLRACE_PEER to a folder with node_modules/node-llama-cpp\n')
}

const PROMPT = Array.from({ length: 60 }, (_, at) => (at * 37 + 11) % 250)
const TOKENS = 24
/** Of log-probabilities: both have keys and values in float16. */
const LARGEST = 0.02
/** Below this much between the first two, either may come first. */
const CLOSE = 0.01

// biome-ignore lint/suspicious/noExplicitAny: a package that is not among the dependencies
let llama: any

describe.skipIf(!present)('beside llama.cpp', () => {
  beforeAll(async () => {
    const path = createRequire(join(peer, 'package.json')).resolve('node-llama-cpp')
    const { getLlama, LlamaLogLevel } = await import(pathToFileURL(path).href)
    llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: 2 })
  }, 120_000)
  afterAll(() => llama?.dispose())

  test.each([...GGUF_CASES.filter(({ peerDiffers }) => !peerDiffers), ...PEER_CASES])('$name: $folder', async (one) => {
    const path = join(await temporaryFolder({}), 'model.gguf')
    writeFileSync(path, convert(one))
    await using ours = await load(path, { device: 'cpu', contextLength: 160, cache: false })
    const answer = await ours.generate(PROMPT, { maxTokens: TOKENS, temperature: 0, ignoreEos: true, logprobs: true }).result

    const theirs = await llama.loadModel({ modelPath: path, gpuLayers: 0 })
    const context = await theirs.createContext({ contextSize: 160, batchSize: 160, threads: 2 })
    const next = { generateNext: { probabilities: true } }
    const asked = [...PROMPT, ...answer.tokens.slice(0, -1)].map((token, at) =>
      at < PROMPT.length - 1 ? token : [token, next],
    )
    const found = (await context.getSequence().controlledEvaluate(asked)).slice(PROMPT.length - 1)
    await theirs.dispose()
    expect(found.length).toBe(TOKENS)
    for (const [at, token] of answer.tokens.entries()) {
      const probabilities: Map<number, number> = found[at].next.probabilities
      const [[first, most]] = probabilities as unknown as [[number, number]]
      const logarithm = Math.log(probabilities.get(token) ?? 0)
      expect(Math.abs(logarithm - answer.logprobs![at]!)).toBeLessThan(LARGEST)
      expect(first === token || Math.log(most) - logarithm < CLOSE).toBe(true)
    }
  })
})

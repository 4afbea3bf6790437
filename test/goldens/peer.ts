/** llama.cpp's own engine, where MILLRACE_PEER names a folder with node_modules/node-llama-cpp. */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { load } from '../../lib/index.ts'

const folder = process.env.MILLRACE_PEER ? resolve(process.env.MILLRACE_PEER) : ''
export const peerPresent = existsSync(join(folder, 'node_modules', 'node-llama-cpp'))
if (!peerPresent) {
  process.stderr.write('tests beside llama.cpp are skipped: set MILLRACE_PEER to a folder with node_modules/node-llama-cpp\n')
}

// biome-ignore lint/suspicious/noExplicitAny: a package that is not among the dependencies
export async function openPeer(): Promise<any> {
  const path = createRequire(join(folder, 'package.json')).resolve('node-llama-cpp')
  const { getLlama, LlamaLogLevel } = await import(pathToFileURL(path).href)
  return getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: 2 })
}

/** Of a token that this engine chose: log-probabilities of both, and by how much theirs is below their first choice's. */
export interface Compared {
  ours: number
  theirs: number
  below: number
}

/** What both make of the prompt and of the tokens that this engine then chooses. */
// biome-ignore lint/suspicious/noExplicitAny: see openPeer
export async function besidePeer(llama: any, path: string, prompt: number[], maxTokens: number): Promise<Compared[]> {
  await using model = await load(path, { device: 'cpu', contextLength: 160, cache: false })
  const answer = await model.generate(prompt, { maxTokens, temperature: 0, ignoreEos: true, logprobs: true }).result

  const theirs = await llama.loadModel({ modelPath: path, gpuLayers: 0 })
  const context = await theirs.createContext({ contextSize: 160, batchSize: 160, threads: 2 })
  const next = { generateNext: { probabilities: true } }
  const asked = [...prompt, ...answer.tokens.slice(0, -1)].map((token, at) =>
    at < prompt.length - 1 ? token : [token, next],
  )
  const found = (await context.getSequence().controlledEvaluate(asked)).slice(prompt.length - 1)
  await theirs.dispose()
  return answer.tokens.map((token, at) => {
    const probabilities: Map<number, number> = found[at].next.probabilities
    const [[, most]] = probabilities as unknown as [[number, number]]
    const logarithm = Math.log(probabilities.get(token) ?? 0)
    return { ours: answer.logprobs![at]!, theirs: logarithm, below: Math.log(most) - logarithm }
  })
}

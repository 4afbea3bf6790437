/**
 * The GPU against the CPU twin on every kind of checkpoint in the repository: logits, choices, and the bit promises.
 * Needs a device; elsewhere it says why it does not run.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load, type Model, probe } from '../../lib/index.ts'
import { familyFolder, familyNames, formatFolder, formatNames, removeFolders } from '../goldens/folders.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

const goldens = join(root, 'test/goldens/models')
const ggufs = join(root, 'test/goldens/gguf')
const shared = process.env.MILLRACE_MODELS && join(process.env.MILLRACE_MODELS, 'gguf')
const filesOf = (folder: string) => readdirSync(folder).filter((name) => /^[^-]*-[^-]*\.gguf$|00001-of/.test(name))
/** Names, and where they are. */
const checkpoints: [string, () => string][] = [
  ...['models/stories260k', 'models/demo'].map((name): [string, () => string] => [name, () => join(root, name)]),
  ...readdirSync(goldens).map((name): [string, () => string] => [name, () => join(goldens, name)]),
  ...familyNames.map((name): [string, () => string] => [name, () => familyFolder(name)]),
  ...formatNames.map((name): [string, () => string] => [name, () => formatFolder(name)]),
  ...[ggufs, ...(shared && existsSync(shared) ? [shared] : [])].flatMap((folder) =>
    filesOf(folder).map((name): [string, () => string] => [name, () => join(folder, name)]),
  ),
]
const CONTEXT = 224
/**
 * Of a mixture some rows choose other experts than on the twin: where two scores lie closer together than what x's rounding
 * to float16 does to them. (On the twin, of the 200 choices of these rows 4 to 11 have a next best score within 1 %.)
 */
const mostRerouted = (name: string) => (/moe|mixtral|gpt-oss|qwen3-next|deepseek/.test(name) ? 5 : 0)
/** Of logits, relative to the twin's; rows behind one that chose another group of experts see its keys; where large zeros cancel, x's rounding to float16 shows more than elsewhere. */
const limitOf = (name: string) => (/^(qwen2-gptq-v2-asym-act|glm4-moe-groups)/.test(name) ? 8e-3 : 5e-3)

describe.skipIf(gpus.length === 0).each(checkpoints)('%s', (name, pathOf) => {
  let path: string
  let cpu: Model
  let gpu: Model
  let text: number[]
  beforeAll(async () => {
    path = pathOf()
    cpu = await load(path, { device: 'cpu', contextLength: CONTEXT })
    gpu = await load(path, { device: 'cuda', contextLength: CONTEXT, maxSequences: 64 })
    text = Array.from({ length: 100 }, (_, i) => (i * 37 + 11) % Math.min(cpu.spec.vocab, 400))
  })
  afterAll(async () => {
    await cpu?.close()
    await gpu?.close()
    removeFolders()
  })
  const tokensOf = async (model: Model, prompt: number[], options: object) => {
    const tokens: number[] = []
    for await (const chunk of model.generate(prompt, { maxTokens: 48, ...options })) tokens.push(...chunk.tokens)
    return tokens
  }

  test('logits are those of the CPU twin', async () => {
    const [expected, found] = await Promise.all([cpu.score(text, { logits: true }), gpu.score(text, { logits: true })])
    const { vocab } = cpu.spec
    const rows = Array.from({ length: expected.logits!.length / vocab }, (_, row) => {
      const [from, to] = [row * vocab, (row + 1) * vocab]
      const [own, other] = [expected.logits!.subarray(from, to), found.logits!.subarray(from, to)]
      const size = own.reduce((sum, logit) => sum + logit ** 2, 0)
      return { size, difference: own.reduce((sum, logit, i) => sum + (logit - other[i]!) ** 2, 0) }
    })
    // The rows that differ most are those with other experts.
    rows.sort((a, b) => b.difference / b.size - a.difference / a.size)
    const alike = rows.slice(mostRerouted(name))
    const sum = (of: 'size' | 'difference') => alike.reduce((all, row) => all + row[of], 0)
    expect(Math.sqrt(sum('difference') / sum('size'))).toBeLessThan(limitOf(name))
  })

  test('a request alone, in a crowd and again gives the same tokens', async () => {
    const alone = await tokensOf(gpu, text.slice(0, 20), { seed: 1, temperature: 0.8 })
    const crowd = await Promise.all(
      Array.from({ length: 64 }, (_, i) =>
        tokensOf(gpu, i === 7 ? text.slice(0, 20) : text.slice(i % 24, (i % 24) + 5 + i), {
          seed: 1,
          temperature: 0.8,
        }),
      ),
    )
    expect(crowd[7]).toEqual(alone)
    expect(await tokensOf(gpu, text.slice(0, 20), { seed: 1, temperature: 0.8 })).toEqual(alone)
  })

  test('streamed gives the bits of resident', async () => {
    await using streamed = await load(path, {
      device: 'cuda',
      contextLength: CONTEXT,
      placement: 'streamed',
      ring: 2,
      poison: true,
    })
    const [expected, found] = await Promise.all([
      gpu.score(text, { logits: true }),
      streamed.score(text, { logits: true }),
    ])
    expect(found.logits).toEqual(expected.logits)
    expect(await tokensOf(streamed, text.slice(0, 20), {})).toEqual(await tokensOf(gpu, text.slice(0, 20), {}))
  })
})

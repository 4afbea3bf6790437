/** One tiny random model of every family, and of its kinds of layers, against transformers in float32. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { load } from '../../lib/index.ts'
import { MODELS } from '../models.ts'

const families = fileURLToPath(new URL('families', import.meta.url))
const names = readdirSync(families, { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && !entry.name.startsWith('_'))
  .map(({ name }) => name)

// Keys and values in float16, and activations of 16 bits before linears of 4: a wrong operation is far beyond.
const MEAN = 2e-3
const LARGEST = 2e-2

interface FamilyGolden {
  ids: number[]
  logprobs: number[]
}

const made: string[] = []
afterAll(() => {
  for (const dir of made) rmSync(dir, { recursive: true })
})

/** The files with a tokenizer beside them, of which there is one for all. */
function folderOf(name: string): string {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-family-'))
  made.push(dir)
  for (const file of ['config.json', 'model.safetensors']) symlinkSync(join(families, name, file), join(dir, file))
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
    symlinkSync(join(MODELS, 'stories260k', file), join(dir, file))
  }
  return dir
}

describe.each(names)('%s', (name) => {
  const golden = JSON.parse(readFileSync(join(families, name, 'golden.json'), 'utf8')) as FamilyGolden
  const options = { device: 'cpu', contextLength: 160, cache: false, poison: true, threads: 2 } as const

  test('log-probabilities are those of transformers, wherever the weights rest', async () => {
    const path = folderOf(name)
    const found: Float32Array[] = []
    const warnings: unknown[] = []
    const quiet = () => {}
    const logger = { debug: quiet, info: quiet, error: quiet, warn: (...told: unknown[]) => void warnings.push(told) }
    for (const placement of ['resident', 'streamed'] as const) {
      await using model = await load(path, { ...options, placement, logger })
      found.push((await model.score(golden.ids)).logprobs)
    }
    const errors = golden.logprobs.map((value, at) => Math.abs(found[0]![at]! - value))
    const mean = errors.reduce((sum, error) => sum + error, 0) / errors.length
    expect(mean).toBeLessThan(MEAN)
    expect(Math.max(...errors)).toBeLessThan(LARGEST)
    expect(found[1]).toEqual(found[0])
    expect(warnings).toEqual([])
  })

  test('decoded token by token, among others or alone, the answers are what a prompt computes', async () => {
    await using model = await load(folderOf(name), options)
    const prompts = [golden.ids.slice(0, 5), golden.ids.slice(0, 60), golden.ids.slice(20, 50)]
    const generate = (prompt: number[]) =>
      model.generate(prompt, { maxTokens: 40, temperature: 0, ignoreEos: true, logprobs: true }).result
    const together = await Promise.all(prompts.map(generate))
    for (const [at, { tokens, logprobs }] of together.entries()) {
      const whole = [...prompts[at]!, ...tokens]
      const scored = (await model.score(whole)).logprobs
      expect([...logprobs!]).toEqual([...scored.slice(prompts[at]!.length - 1)])
    }
    const alone = await generate(prompts[1]!)
    expect(alone.tokens).toEqual(together[1]!.tokens)
    expect(alone.logprobs).toEqual(together[1]!.logprobs)
  })
})

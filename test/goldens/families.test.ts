/** One tiny random model of every family, and of its kinds of layers, against transformers in float32. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { load } from '../../lib/index.ts'
import { FAMILIES, familyFolder, familyNames, removeFolders } from './folders.ts'

// Keys and values in float16, and activations of 16 bits before linears of 4: a wrong operation is far beyond.
const MEAN = 2e-3
const LARGEST = 2e-2

interface FamilyGolden {
  ids: number[]
  logprobs: number[]
}

afterAll(removeFolders)

describe.each(familyNames)('%s', (name) => {
  const golden = JSON.parse(readFileSync(join(FAMILIES, name, 'golden.json'), 'utf8')) as FamilyGolden
  const options = { device: 'cpu', contextLength: 160, cache: false, poison: true, threads: 2 } as const

  test('log-probabilities are those of transformers, wherever the weights rest', async () => {
    const path = familyFolder(name)
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
    await using model = await load(familyFolder(name), options)
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

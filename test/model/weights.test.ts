/** Layers of 4 or 8 bits made at load. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { inspect, load } from '../../lib/index.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { findModel } from '../models.ts'

const demo = findModel('demo-fp16')
const golden = (name: string) => fileURLToPath(new URL(`../goldens/models/${name}`, import.meta.url))
const TEXT = 'Once upon a time, there was a kind girl named Daisy. She lived in a snowy valley with her brother Tom.'

describe.skipIf(!demo)('demo-fp16', () => {
  test.each([
    // Groups of 32 with zeros, since the model is narrow: 0.098 with groups of 128.
    { weights: 'q4', nibble: 1, most: 0.085, perplexity: 1.1 },
    { weights: 'q8', nibble: 1 / 16, most: 0.0094, perplexity: 1.005 },
  ] as const)('of $weights is smaller and nearly as good', async ({ weights, nibble, most, perplexity }) => {
    const of = async (more: object) => {
      await using model = await load(demo!, { device: 'cpu', contextLength: 128, maxSequences: 1, ...more })
      const { perplexity } = await model.score(TEXT)
      return { perplexity, error: model.weightError, bytes: model.plan.hostBytes, head: model.headError }
    }
    const stored = await of({})
    const made = await of({ weights })
    console.log(
      `${weights}: weights off by ${made.error!.weights.toFixed(4)}, results by ${made.error!.results.toFixed(4)}; ` +
        `perplexity ${stored.perplexity.toFixed(3)} to ${made.perplexity.toFixed(3)}`,
    )
    expect(stored.error).toBeUndefined()
    expect(made.head).toBeUndefined() // the head is its own affair
    expect(made.error!.weights).toBeGreaterThan(0.02 * nibble)
    expect(made.error!.weights).toBeLessThan(most)
    expect(made.error!.results).toBeLessThan(0.15 * nibble)
    expect(made.perplexity).toBeLessThan(perplexity * stored.perplexity)
    expect(made.bytes).toBeLessThan(stored.bytes)
  })
})

test('every float linear of the layers, and no other', async () => {
  const typesOf = async (name: string, options = {}) => {
    const { units } = await inspect(golden(name), options)
    return [...new Set(units.slice(0, -1).flatMap((unit) => unit.types))]
  }
  expect(await typesOf('bf16-tied')).toEqual(['bf16'])
  expect(await typesOf('bf16-tied', { weights: 'q4' })).toEqual(['q4'])
  expect(await typesOf('bf16-tied', { weights: 'q8' })).toEqual(['q8'])
  // Its down has 172 input features, which no words of 8 hold.
  expect(await typesOf('f16-untied', { weights: 'q4' })).toEqual(['q4', 'f16'])
  expect(await typesOf('gptq-v1-sym-g128', { weights: 'q8' })).toEqual(['q4'])
  await expect(inspect(golden('bf16-tied'), { weights: 'q5' as 'q4' })).rejects.toThrow(
    "expected 'stored', 'q4' or 'q8' for weights",
  )
})

test.skipIf(!demo)('a packed file keeps the result and its error', async () => {
  const cache = join(await temporaryFolder({}), 'cache')
  const open = () => load(demo!, { device: 'cpu', weights: 'q8', cache, contextLength: 64 })
  let first: { weights: number; results: number } | undefined
  {
    await using model = await open()
    first = model.weightError
    expect(first).toBeDefined()
  }
  await using again = await open()
  expect(again.weightError).toEqual(first)
})

/** A head of 4 or 8 bits made at load. */
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { inspect, type LoadOptions, load } from '../../lib/index.ts'
import { findModel, MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
const TEXT = 'Once upon a time, there was a kind girl named Daisy. She lived in a snowy valley with her brother Tom.'
const smollm2 = findModel('smollm2-135m')

async function logitsOf(folder: string, options: LoadOptions) {
  await using model = await load(folder, { contextLength: 128, maxSequences: 1, ...options })
  const { logits, perplexity } = await model.score(TEXT, { logits: true })
  return { logits: logits!, perplexity, error: model.headError, bytes: model.plan.hostBytes }
}

describe.each([
  ['demo', demo],
  ['smollm2-135m', smollm2],
])('%s', (name, folder) => {
  test.skipIf(!folder).each([
    { head: 'q4', nibble: 1, perplexity: 1.1 },
    { head: 'q8', nibble: 1 / 16, perplexity: 1.005 },
  ] as const)('of $head is off by about what it says, and smaller', async ({ head, nibble, perplexity }) => {
    const stored = await logitsOf(folder!, {})
    const made = await logitsOf(folder!, { head })
    expect(stored.error).toBeUndefined()
    let error = 0
    let whole = 0
    for (const [index, logit] of stored.logits.entries()) {
      error += (made.logits[index]! - logit) ** 2
      whole += logit ** 2
    }
    const measured = Math.sqrt(error / whole)
    console.log(
      `${name}, ${head}: weights off by ${made.error!.weights.toFixed(4)}, logits by ${made.error!.logits.toFixed(4)} expected and ` +
        `${measured.toFixed(4)} measured; perplexity ${stored.perplexity.toFixed(3)} to ${made.perplexity.toFixed(3)}`,
    )
    expect(made.error!.weights).toBeGreaterThan(0.02 * nibble)
    expect(made.error!.weights).toBeLessThan(0.15 * nibble)
    // Rows of a real text are no noise: their logits are larger than those of random rows.
    // 8 bits are as near as the rounding of activations.
    expect(measured).toBeLessThan(1.5 * made.error!.logits + 1e-3)
    expect(made.perplexity).toBeLessThan(perplexity * stored.perplexity)
    expect(made.bytes).toBeLessThan(stored.bytes)
  })
})

test('inspect tells the sizes; the heads of one checkpoint are apart', async () => {
  const head = ({ units }: Awaited<ReturnType<typeof inspect>>) => units.at(-1)!
  const [stored, made, eight] = await Promise.all([
    inspect(demo),
    inspect(demo, { head: 'q4' }),
    inspect(demo, { head: 'q8' }),
  ])
  expect(head(stored).types).toEqual(['f16'])
  expect(head(made).types).toEqual(['q4'])
  expect(head(made).bytes).toBeLessThan(head(stored).bytes / 3)
  expect(head(eight).types).toEqual(['q8'])
  expect(head(eight).bytes).toBeLessThan(head(stored).bytes * 0.6)
  await using a = await load(demo)
  await using b = await load(demo, { head: 'q4' })
  await using c = await load(demo, { head: 'q4' })
  expect(b.memory.hostBytes).toBeLessThan(a.memory.hostBytes)
  expect(c.headError).toEqual(b.headError) // of the copy that they share
  await expect(inspect(demo, { head: 'q5' as 'q4' })).rejects.toThrow("expected 'stored', 'q4' or 'q8' for head")
})

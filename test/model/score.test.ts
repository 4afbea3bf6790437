import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { load, type Model } from '../../lib/index.ts'
import { findModel, MODELS } from '../models.ts'

/** As the READMEs of the models have it: no first token, windows of 513 tokens that overlap by one. */
async function perplexity(model: Model, path: string) {
  const tokens = await model.tokenizer.encode(readFileSync(path, 'utf8'), { specialTokens: false })
  let sum = 0
  let count = 0
  for (let begin = 0; begin + 1 < tokens.length; begin += 512) {
    const { logprobs } = await model.score(tokens.slice(begin, begin + 513))
    for (const logprob of logprobs) sum += logprob
    count += logprobs.length
  }
  return { count, perplexity: Math.exp(-sum / count) }
}

const expectNear = (found: number, expected: number) => expect(Math.abs(found / expected - 1)).toBeLessThan(0.01)

describe('perplexity is within 1 % of the figure in the README', () => {
  test('demo, streamed', async () => {
    await using model = await load(join(MODELS, 'demo'), { placement: 'streamed', contextLength: 513, maxSequences: 1 })
    const { count, perplexity: found } = await perplexity(model, join(MODELS, 'demo', 'held-out.txt'))
    expect(count).toBe(9192)
    expectNear(found, 1.4518)
  })

  const fp16 = findModel('demo-fp16')
  test.skipIf(!fp16)('demo before quantisation, two shards', async () => {
    await using model = await load(fp16!, { contextLength: 513, maxSequences: 1 })
    const { perplexity: found } = await perplexity(model, join(MODELS, 'demo', 'held-out.txt'))
    expectNear(found, 1.4508)
  })

  const smollm = findModel('smollm2-135m')
  test.skipIf(!smollm)('smollm2-135m', { timeout: 180_000 }, async () => {
    await using model = await load(smollm!, { contextLength: 513, maxSequences: 1 })
    const { count, perplexity: found } = await perplexity(model, join(smollm!, 'speckled-band.txt'))
    expect(count).toBe(5945)
    expectNear(found, 28.66)
  })
})

describe('score', () => {
  test('logits and log-probabilities agree', async () => {
    await using model = await load(join(MODELS, 'demo'))
    const { tokens, logprobs, logits } = await model.score('Once upon a time, there was a kind girl.', { logits: true })
    const { vocab } = model.spec
    expect(tokens[0]).toBe(0)
    expect(logits).toHaveLength(tokens.length * vocab)
    for (let index = 0; index + 1 < tokens.length; index++) {
      const row = logits!.subarray(index * vocab, (index + 1) * vocab)
      const largest = row.reduce((a, b) => Math.max(a, b))
      const sum = row.reduce((total, logit) => total + Math.exp(logit - largest), 0)
      expect(logprobs[index]).toBeCloseTo(row[tokens[index + 1]!]! - largest - Math.log(sum), 3)
    }
  })

  test('does not depend on what else runs', async () => {
    await using model = await load(join(MODELS, 'demo'), { placement: 'streamed', contextLength: 600 })
    const text = readFileSync(join(MODELS, 'demo', 'held-out.txt'), 'utf8').slice(0, 1500)
    const alone = await model.score(text)
    const busy = Array.from({ length: 5 }, () => model.generate('The', { maxTokens: 60, ignoreEos: true }))
    const crowded = await model.score(text)
    await Promise.all(busy.map((generation) => generation.result))
    expect(crowded.logprobs).toEqual(alone.logprobs)
  })

  test('a single token has nothing to be scored', async () => {
    await using model = await load(join(MODELS, 'demo'))
    const { tokens, logprobs, perplexity } = await model.score('')
    expect({ tokens: [...tokens], logprobs: [...logprobs], perplexity }).toEqual({
      tokens: [0],
      logprobs: [],
      perplexity: Number.NaN,
    })
  })
})

/** Keys and values of 8 bits: what they take, what they cost in perplexity, and that every promise about bits holds. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type GenerateOptions, inspect, type LoadOptions, load, type Model, plan } from '../../lib/index.ts'
import { MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
const on: LoadOptions = { device: 'cpu', cache: false, contextLength: 128, kv: 'q8' }
/** Of a layer and key head: keys and values of 64 numbers, in 8 bits with a scale of 4 bytes. */
const Q8_BYTES = 8 * 2 * 2 * (64 + 4)

test('half the memory, as plan and inspection say, and a perplexity that is the same within 0.3 %', async () => {
  const { kvBytesPerToken } = await inspect(demo, { kv: 'q8' })
  expect(kvBytesPerToken).toBe(Q8_BYTES)
  const tokens = readFileSync(join(demo, 'held-out.txt'), 'utf8')
  const perplexity = async (kv: 'f16' | 'q8') => {
    const options: LoadOptions = { device: 'cpu', cache: false, contextLength: 513, maxSequences: 1, kv }
    await using model = await load(demo, options)
    const planned = await plan(demo, { device: 'cpu', contextLength: 513, maxSequences: 1, kv })
    expect(model.plan).toMatchObject({ kvType: kv, kv: [{ type: kv }], kvBytes: planned.kvBytes })
    expect(model.memory.kvBytes).toBe(planned.kvBytes)
    expect(planned.kvBytes).toBe(528 * (kv === 'q8' ? Q8_BYTES : 8 * 2 * 2 * 64 * 2))
    const ids = (await model.tokenizer.encode(tokens, { specialTokens: false })).slice(0, 2049)
    let sum = 0
    for (let begin = 0; begin + 1 < ids.length; begin += 512) {
      const { logprobs } = await model.score(ids.slice(begin, begin + 513))
      for (const logprob of logprobs) sum += logprob
    }
    return Math.exp(-sum / 2048)
  }
  const [f16, q8] = [await perplexity('f16'), await perplexity('q8')]
  expect(q8).not.toBe(f16)
  expect(Math.abs(q8 / f16 - 1)).toBeLessThan(3e-3)
})

const prompts = ['Once upon a time', 'Once upon a time, there was a', 'The fox', 'One day a bear', 'There was a boat']
const options: GenerateOptions = { maxTokens: 60, ignoreEos: true, logprobs: true }
const answer = async (model: Model, prompt: string) => {
  const { tokens, logprobs } = await model.generate(prompt, options).result
  return { tokens, logprobs }
}
const together = (model: Model) => Promise.all(prompts.map((prompt) => answer(model, prompt)))

test('the same bits alone, among others, streamed, drafted for, after a prefix, and brought back', async () => {
  const alone: Awaited<ReturnType<typeof answer>>[] = []
  {
    await using model = await load(demo, { ...on, prefixReuse: false, speculation: { method: 'off' } })
    for (const prompt of prompts) alone.push(await answer(model, prompt))
  }
  {
    await using model = await load(demo, { ...on, placement: 'streamed' })
    expect(await together(model)).toEqual(alone)
    expect(await together(model)).toEqual(alone) // prompts and answers are known now
  }
  {
    await using model = await load(demo, { ...on, kvTokens: 160, kvSwap: '1MiB' })
    expect(await together(model)).toEqual(alone)
    expect(model.stats.sequences.preemptions).toBeGreaterThan(0)
  }
  {
    await using model = await load(demo, { ...on, draft: { model: demo } })
    expect(model.plan.draft).toMatchObject({ kvType: 'q8', kv: [{ type: 'q8' }] })
    expect(await together(model)).toEqual(alone)
  }
})

test('both kinds of one model at once share its weights and nothing else', async () => {
  await using f16 = await load(demo, { ...on, kv: 'f16' })
  await using q8 = await load(demo, on)
  const [a, b] = await Promise.all([answer(f16, prompts[1]!), answer(q8, prompts[1]!)])
  expect(a.logprobs).not.toEqual(b.logprobs)
  expect(await answer(f16, prompts[1]!)).toEqual(a)
  expect(await answer(q8, prompts[1]!)).toEqual(b)
})

test('other kinds are refused', async () => {
  const wrong = { ...on, kv: 'q4' } as unknown as LoadOptions
  await expect(load(demo, wrong)).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringContaining("'f16' or 'q8' for kv"),
  })
})

/** Real models on this machine's CPU: what they say, and that placement, company and timing change nothing of it. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Generation, type GenerationChunk, type LoadOptions, load, type Model } from '../../lib/index.ts'
import { findModel, MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
const stories = join(MODELS, 'stories260k')
/** The texts in the model's README, which other implementations print too. */
const told = [...readFileSync(join(stories, 'README.md'), 'utf8').matchAll(/```\n([\s\S]*?)\n```/g)].map(
  (match) => match[1]!,
)
const DEMO_GREEDY =
  ', there was a kind girl named Daisy. She lived in a snowy valley. The sun was warm and the sky was blue. Daisy had a red ball.'

const placements: [string, LoadOptions][] = [
  ['resident', { placement: 'resident' }],
  ['streamed', { placement: 'streamed', ring: 2, poison: true }],
  ['streamed through a ring of one unit', { placement: 'streamed', ring: 1, poison: true }],
]

async function collect(generation: Generation): Promise<GenerationChunk[]> {
  const chunks = []
  for await (const chunk of generation) chunks.push(chunk)
  return chunks
}

describe.each(placements)('%s', (_, options) => {
  test("stories260k tells exactly llama2.c's stories", async () => {
    await using model = await load(stories, options)
    const [alone, continued] = await Promise.all([
      model.generate('', { maxTokens: 256 }).result,
      model.generate('One day, Tom and his dog', { maxTokens: 120 }).result,
    ])
    expect(alone.text).toBe(told[0])
    expect(continued.text).toBe(told[1])
    expect(alone).toMatchObject({ finishReason: 'length', usage: { promptTokens: 1, completionTokens: 256 } })
  })

  test('demo begins as its README says', async () => {
    await using model = await load(demo, options)
    const chunks = await collect(model.generate('Once upon a time', { maxTokens: 32 }))
    expect(chunks.map((chunk) => chunk.text).join('')).toBe(DEMO_GREEDY)
    expect(chunks.length).toBeGreaterThan(1)
  })
})

describe('demo', () => {
  let model: Model
  beforeAll(async () => {
    model = await load(demo, { contextLength: 512, maxSequences: 3 })
  })
  afterAll(() => model?.close())

  test('takes requests, and ends by itself', async () => {
    const { text, finishReason } = await model.chat([
      { role: 'user', content: 'Tell me a story about a curious otter and a paper plane.' },
    ]).result
    expect(text).toMatch(/otter/)
    expect(text).toMatch(/paper plane/)
    expect(text).not.toContain('<|')
    expect(finishReason).toBe('stop')
  })

  test('every placement gives the same tokens and the same bits of log-probabilities', async () => {
    const ask = (model: Model) => model.generate('One morning', { maxTokens: 60, logprobs: true }).result
    const expected = await ask(model)
    const mixed = Array.from({ length: 8 }, (_, layer) =>
      layer % 3 === 0 ? ('resident' as const) : ('streamed' as const),
    )
    for (const placement of ['streamed', mixed] as const) {
      await using other = await load(demo, { placement, contextLength: 512, poison: true })
      const { tokens, logprobs } = await ask(other)
      expect({ tokens, logprobs }).toEqual({ tokens: expected.tokens, logprobs: expected.logprobs })
    }
  })

  test('a request in a crowd gives the same bits as alone, queued ones too', async () => {
    const prompts = Array.from(
      { length: 12 },
      (_, index) => `${'Once upon a time there was a boat. '.repeat(index)}The`,
    )
    const ask = (prompt: string) => model.generate(prompt, { maxTokens: 24, logprobs: true }).result
    const alone: Awaited<ReturnType<typeof ask>>[] = []
    for (const prompt of prompts) alone.push(await ask(prompt))
    const together = await Promise.all(prompts.map(ask))
    together.forEach(({ tokens, logprobs }, index) => {
      expect({ tokens, logprobs }).toEqual({ tokens: alone[index]!.tokens, logprobs: alone[index]!.logprobs })
    })
  })

  test('a seed gives the same text again, another seed another', async () => {
    const ask = (seed?: number) => model.generate('The', { maxTokens: 40, temperature: 1.5, seed }).result
    const [first, again, other] = await Promise.all([ask(7), ask(7), ask(8)])
    expect(again.text).toBe(first.text)
    expect(other.text).not.toBe(first.text)
    const random = await ask()
    expect((await ask(random.seed)).text).toBe(random.text)
  })

  test('filters that leave one token are greedy', async () => {
    const ask = (options: object) => model.generate('The', { maxTokens: 30, ...options }).result
    const greedy = await ask({})
    for (const filter of [{ topK: 1 }, { topP: 1e-9 }, { minP: 1 }]) {
      expect((await ask({ temperature: 1.5, ...filter })).tokens).toEqual(greedy.tokens)
    }
  })

  test('stops at texts and at tokens', async () => {
    const whole = await model.generate('Once upon a time', { maxTokens: 32 }).result
    const stopped = await model.generate('Once upon a time', { stop: [' Daisy', 'snowy valley.'] }).result
    expect(stopped).toMatchObject({ text: ', there was a kind girl named', finishReason: 'stop' })
    const token = whole.tokens[10]!
    const ended = await model.generate('Once upon a time', { stopTokens: [token] }).result
    expect(ended).toMatchObject({ tokens: whole.tokens.slice(0, whole.tokens.indexOf(token)), finishReason: 'stop' })
  })

  test('log-probabilities are those that score() gives the same text', async () => {
    const prompt = await model.tokenizer.encode('Once upon a time')
    const { tokens, logprobs } = await model.generate(prompt, { maxTokens: 20, logprobs: true }).result
    const scored = await model.score([...prompt, ...tokens])
    tokens.forEach((_, index) => {
      expect(scored.logprobs[prompt.length - 1 + index]).toBeCloseTo(logprobs![index]!, 2)
    })
  })

  test('leaving the loop ends the request and frees its memory', async () => {
    const generation = model.generate('Once upon a time', { ignoreEos: true })
    for await (const { text } of generation) if (text.includes(' there')) break
    const result = await generation.result
    expect(result.finishReason).toBe('abort')
    expect(result.tokens.length).toBeLessThan(400)
    expect(model.stats).toMatchObject({ sequences: { running: 0, waiting: 0 }, kv: { blocksUsed: 0 } })
  })

  test('a signal ends running and waiting requests', async () => {
    const controller = new AbortController()
    const many = Array.from({ length: 8 }, () => model.generate('The', { ignoreEos: true, signal: controller.signal }))
    setTimeout(() => controller.abort(), 5)
    const outcomes = await Promise.allSettled(many.map((generation) => generation.result))
    for (const outcome of outcomes) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'ABORTED' } })
    }
    expect((await model.generate('Once upon a time', { maxTokens: 3 }).result).tokens).toHaveLength(3)
  })

  test('the context is a limit', async () => {
    const full = new Int32Array(511).fill(5)
    expect(await model.generate(full, { maxTokens: 50, ignoreEos: true }).result).toMatchObject({
      finishReason: 'length',
      usage: { promptTokens: 511, completionTokens: 1 },
    })
    await expect(model.generate(new Int32Array(512)).result).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
    expect((await model.score(new Int32Array(512).fill(5))).logprobs).toHaveLength(511)
    await expect(model.score(new Int32Array(513))).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
  })

  test('the first use of a padding id of the vocabulary is no failure', async () => {
    expect((await model.generate([2047], { maxTokens: 2, ignoreEos: true }).result).tokens).toHaveLength(2)
  })
})

describe('figures', () => {
  test('every streamed byte is copied once a pass, whatever the number of rows', async () => {
    await using model = await load(demo, { placement: 'streamed', speculation: { method: 'off' } })
    const measure = async (requests: number) => {
      const before = model.stats
      await Promise.all(
        Array.from({ length: requests }, () => model.generate([5], { maxTokens: 20, ignoreEos: true }).result),
      )
      const after = model.stats
      const passes = after.steps - before.steps
      const used = (stats: typeof after) => stats.streaming.copiedBytes - stats.streaming.prefetchedBytes
      expect(used(after) - used(before)).toBe(model.plan.streamedBytesPerPass * passes)
      expect(after.streaming.units - before.streaming.units).toBe(16 * passes)
      return {
        passes,
        bytes: after.weightBytesRead - before.weightBytesRead,
        rows: after.rows.decode - before.rows.decode,
      }
    }
    const one = await measure(1)
    const eight = await measure(8)
    expect(one).toMatchObject({ passes: 20, rows: 19 })
    // All of the units but norms and padding.
    const share = one.bytes / (20 * model.plan.units.reduce((sum, unit) => sum + unit.bytes, 0))
    expect(share).toBeGreaterThan(0.99)
    expect(share).toBeLessThanOrEqual(1)
    expect(eight.rows).toBe(8 * 19)
    expect(eight.bytes / eight.passes).toBe(one.bytes / one.passes)
  })

  test('memory is what was planned', async () => {
    await using model = await load(demo, { placement: 'streamed', ring: 3, contextLength: 256 })
    const { hostBytes, kvBytes, ringBytes } = model.memory
    expect({ kvBytes, ringBytes }).toEqual({ kvBytes: model.plan.kvBytes, ringBytes: model.plan.ringBytes })
    // Each unit in whole pages.
    expect(hostBytes).toBeGreaterThanOrEqual(model.plan.hostBytes)
    expect(hostBytes).toBeLessThan(model.plan.hostBytes + 4096 * (model.plan.units.length + 1))
  })
})

describe('close', () => {
  test('drains by default', async () => {
    const model = await load(demo)
    const generation = model.generate('The', { maxTokens: 50, ignoreEos: true })
    await model.close()
    expect(await generation.result).toMatchObject({ finishReason: 'length', usage: { completionTokens: 50 } })
  })
  test('aborts without draining, and after the timeout', async () => {
    for (const options of [{ drain: false }, { timeoutMs: 1 }]) {
      const model = await load(demo)
      const prompt = await model.tokenizer.encode('The')
      const generations = Array.from({ length: 4 }, () => model.generate(prompt, { ignoreEos: true }))
      await model.close(options)
      for (const generation of generations) expect(await generation.result).toMatchObject({ finishReason: 'abort' })
    }
  })
})

test('models share the process: two at once, one closed while the other runs', async () => {
  const a = await load(demo, { placement: 'streamed' })
  await using b = await load(stories)
  const [demoText] = await Promise.all([
    a.generate('Once upon a time', { maxTokens: 32 }).result.finally(() => a.close()),
    b.generate('', { maxTokens: 256 }).result.then(({ text }) => expect(text).toBe(told[0])),
  ])
  expect(demoText.text).toBe(DEMO_GREEDY)
})

const smollm = findModel('smollm2-135m')
describe.skipIf(!smollm)('smollm2-135m', () => {
  test('knows the capital of France, streamed', async () => {
    await using model = await load(smollm!, { placement: 'streamed', ring: 2, contextLength: 512, maxSequences: 1 })
    const { text, finishReason } = await model.chat([{ role: 'user', content: 'What is the capital of France?' }])
      .result
    expect({ text, finishReason }).toEqual({ text: 'The capital of France is Paris.', finishReason: 'stop' })
  })
})

/** A real model as a server uses it: penalties and biases, shared prefixes, a full queue, late requests, long prompts. */
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type GenerateOptions, type GenerationChunk, load, type MillraceError, type Model } from '../../lib/index.ts'
import { MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
let model: Model
beforeAll(async () => {
  model = await load(demo, { contextLength: 512 })
})
afterAll(() => model?.close())

const ask = (options: GenerateOptions, prompt = 'Once upon a time') => model.generate(prompt, options).result

describe('sampling', () => {
  test('a frequency penalty beyond all logits lets no token come twice', async () => {
    const options = { maxTokens: 100, ignoreEos: true }
    const plain = await ask(options)
    expect(new Set(plain.tokens).size).toBeLessThan(90)
    const { tokens } = await ask({ ...options, frequencyPenalty: 100 })
    expect(new Set(tokens).size).toBe(100)
    expect(new Set((await ask({ ...options, presencePenalty: 100 })).tokens).size).toBe(100)
  })

  test('a repetition penalty counts the prompt too', async () => {
    const prompt = await model.tokenizer.encode('Once upon a time')
    const [first] = (await model.generate(prompt, { maxTokens: 1 }).result).tokens
    const { tokens } = await model.generate([first!, ...prompt], { maxTokens: 60, repetitionPenalty: 100 }).result
    expect(tokens).not.toContain(first)
    expect(tokens.filter((token) => prompt.includes(token))).toEqual([])
  })

  test('biases forbid and force tokens, from an object and from a map', async () => {
    const { tokens } = await ask({ maxTokens: 5 })
    const forbidden = await ask({ maxTokens: 30, logitBias: { [tokens[0]!]: Number.NEGATIVE_INFINITY } })
    expect(forbidden.tokens).not.toContain(tokens[0])
    const forced = await ask({ maxTokens: 5, ignoreEos: true, logitBias: new Map([[tokens[2]!, 100]]) })
    expect(forced.tokens).toEqual(new Array(5).fill(tokens[2]))
  })

  test('the most likely tokens: highest first, the greedy choice before all, probabilities that add up', async () => {
    const { tokens, logprobs, topLogprobs } = await ask({ maxTokens: 12, logprobs: true, topLogprobs: 20 })
    expect(topLogprobs).toHaveLength(12)
    topLogprobs!.forEach((list, index) => {
      expect(list).toHaveLength(20)
      expect(list[0]).toEqual({ token: tokens[index], logprob: logprobs![index] })
      expect(list.map(({ logprob }) => logprob)).toEqual(list.map(({ logprob }) => logprob).sort((a, b) => b - a))
      const mass = list.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0)
      expect(mass).toBeGreaterThan(0.3)
      expect(mass).toBeLessThanOrEqual(1 + 1e-5)
    })
  })

  test('log-probabilities are those before penalties', async () => {
    const { tokens, logprobs } = await ask({ maxTokens: 20, logprobs: true, repetitionPenalty: 1.5, ignoreEos: true })
    const prompt = await model.tokenizer.encode('Once upon a time')
    const scored = await model.score([...prompt, ...tokens])
    tokens.forEach((_, index) => {
      expect(logprobs![index]).toBeCloseTo(scored.logprobs[prompt.length - 1 + index]!, 2)
    })
  })

  test('typical sampling of almost nothing is no longer sampling', async () => {
    const options = { maxTokens: 40, temperature: 1, typicalP: 1e-6 }
    expect((await ask({ ...options, seed: 1 })).tokens).toEqual((await ask({ ...options, seed: 2 })).tokens)
  })
})

test('the engine does not wait for JavaScript: what it missed comes in one chunk', async () => {
  const generation = model.generate('The', { maxTokens: 200, ignoreEos: true })
  const iterator = generation[Symbol.asyncIterator]()
  const first = await iterator.next()
  let read = (first.value as GenerationChunk).tokens.length
  // Holds the event loop until all is computed; the figures can be read meanwhile.
  const { decode } = model.stats.rows
  while (model.stats.sequences.running > 0) expect(model.stats.rows.decode).toBeGreaterThanOrEqual(decode)
  let chunks = 0
  for (let next = await iterator.next(); !next.done; next = await iterator.next(), chunks++) {
    read += next.value.tokens.length
  }
  expect(read).toBe(200)
  expect(chunks).toBeLessThanOrEqual(2)
})

test('prompts that begin alike are computed once, and answered the same', async () => {
  await using warm = await load(demo, { contextLength: 512 })
  await using cold = await load(demo, { contextLength: 512, prefixReuse: false })
  const prompt = `${'There was a boat on the sea. '.repeat(12)}The`
  const { length } = await warm.tokenizer.encode(prompt)
  const answer = async (of: Model) => (await of.generate(prompt, { maxTokens: 20, logprobs: true }).result).logprobs
  const expected = await answer(cold)
  for (const of of [warm, warm, cold]) expect(await answer(of)).toEqual(expected)
  expect(cold.stats.prefixCache).toEqual({ promptTokens: 2 * length, reusedTokens: 0, returnedTokens: 0, hitRate: 0 })
  const reused = Math.floor((length - 1) / 16) * 16
  expect(warm.stats.prefixCache).toEqual({
    promptTokens: 2 * length,
    reusedTokens: reused,
    returnedTokens: 0,
    hitRate: reused / (2 * length),
  })
})

describe('overload', () => {
  test('a full queue refuses with the time to wait; what it took is answered', async () => {
    await using small = await load(demo, { contextLength: 256, maxSequences: 1, maxQueue: 5 })
    const outcomes = await Promise.allSettled(
      Array.from({ length: 200 }, () => small.generate('The', { maxTokens: 20, ignoreEos: true }).result),
    )
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected')
    expect(refused.length).toBeGreaterThan(0)
    for (const { reason } of refused) {
      expect(reason).toMatchObject({ code: 'QUEUE_FULL' })
      expect((reason as MillraceError).retryAfterMs).toBeGreaterThan(0)
    }
    const answered = outcomes.filter((outcome) => outcome.status === 'fulfilled')
    expect(answered.length).toBeGreaterThanOrEqual(5)
    for (const { value } of answered) expect(value.tokens).toHaveLength(20)
  })

  test('the limit holds from the call on: of many long prompts at once all but two are refused at once', async () => {
    await using small = await load(demo, { contextLength: 256, maxQueue: 2 })
    const long = 'Once upon a time there was a boat. '.repeat(300)
    let refused = 0
    const outcomes = Array.from({ length: 2000 }, (_, index) =>
      small.generate(long + index, { truncate: 'start', maxTokens: 2, ignoreEos: true }).result.catch((error) => {
        refused++
        return error as MillraceError
      }),
    )
    expect(small.stats.sequences.waiting).toBe(2)
    // Before anything can have been tokenised.
    await Promise.resolve()
    await Promise.resolve()
    expect(refused).toBe(1998)
    const answers = await Promise.all(outcomes)
    expect(answers.slice(0, 2)).toMatchObject([{ tokens: { length: 2 } }, { tokens: { length: 2 } }])
    for (const error of answers.slice(2)) expect(error).toMatchObject({ code: 'QUEUE_FULL', retryAfterMs: 1 })
    expect(small.stats.sequences.waiting).toBe(0)
    expect((await small.generate(long, { truncate: 'start', maxTokens: 2 }).result).tokens).toHaveLength(2)
  })

  test('limits and timings count what the tokenizer takes', async () => {
    const encode = model.tokenizer.encode.bind(model.tokenizer)
    const slow = vi.spyOn(model.tokenizer, 'encode').mockImplementation(async (text, options) => {
      const tokens = await encode(text, options)
      await new Promise((resolve) => setTimeout(resolve, 60))
      return tokens
    })
    const { timings } = await ask({ maxTokens: 2 })
    expect(timings.queueMs).toBeGreaterThan(59)
    expect(timings.firstTokenMs).toBeGreaterThan(timings.queueMs)
    expect(timings.totalMs).toBeGreaterThanOrEqual(timings.firstTokenMs)
    expect((await model.score('The cat')).timings.queueMs).toBeGreaterThan(59)
    await expect(ask({ deadlineMs: 30 })).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' })
    await expect(model.score('The cat', { queueTimeoutMs: 30 })).rejects.toMatchObject({ code: 'QUEUE_TIMEOUT' })
    slow.mockRestore()
  })

  test('requests that wait or take too long end', async () => {
    await using small = await load(demo, { contextLength: 512, maxSequences: 1 })
    const controller = new AbortController()
    const crowd = Array.from({ length: 80 }, () =>
      small.generate('The', { ignoreEos: true, signal: controller.signal }),
    )
    await expect(small.generate('The', { priority: -1, queueTimeoutMs: 1 }).result).rejects.toMatchObject({
      code: 'QUEUE_TIMEOUT',
    })
    await expect(small.generate('The', { ignoreEos: true, deadlineMs: 1 }).result).rejects.toMatchObject({
      code: 'DEADLINE_EXCEEDED',
    })
    await expect(small.score('The', { priority: -1, deadlineMs: 1 })).rejects.toMatchObject({
      code: 'DEADLINE_EXCEEDED',
    })
    controller.abort()
    await Promise.allSettled(crowd.map(({ result }) => result))
  })
})

test('a prompt longer than the context is refused, or cut where the caller says so', async () => {
  const prompt = 'Once upon a time there was a boat. '.repeat(200)
  await expect(ask({}, prompt)).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
  const tokens = await model.tokenizer.encode(prompt)
  const { usage, tokens: answer } = await ask({ truncate: 'start', maxTokens: 10, ignoreEos: true }, prompt)
  expect(usage).toEqual({ promptTokens: 502, completionTokens: 10, truncatedTokens: tokens.length - 502 })
  // The same as cut by hand.
  const by = [tokens[0]!, ...tokens.slice(-501)]
  expect((await model.generate(by, { maxTokens: 10, ignoreEos: true }).result).tokens).toEqual(answer)
})

test('memory says where things are', async () => {
  const { memory, plan } = model
  expect(memory).toMatchObject({ kvBytes: plan.kvBytes, pinnedBytes: 0, vramBytes: 0, savedKvBytes: 0 })
  expect(memory.hostBytes).toBeGreaterThanOrEqual(plan.hostBytes)
})

/** What JavaScript makes of the engine's events, the engine's part being played by the test. */
import diagnostics from 'node:diagnostics_channel'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type Generation, type GenerationChunk, load, MillraceError, type Model } from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'
import type { FakeAddon, FakeModel } from './fake_addon.ts'

const fake = vi.hoisted(() => ({ addon: undefined as unknown as FakeAddon }))
vi.mock('../../../lib/binding.ts', async (original) => {
  const { FakeAddon } = await import('./fake_addon.ts')
  fake.addon = new FakeAddon()
  return { ...(await original<object>()), addon: () => fake.addon }
})

let model: Model
let native: FakeModel
const ids = async (text: string) => [...(await model.tokenizer.encode(text, { specialTokens: false }))]

beforeEach(async () => {
  model = await load(join(MODELS, 'demo'))
  native = fake.addon.models.at(-1)!
})
afterEach(async () => {
  const closed = model.close()
  native.finishClose()
  await closed
  expect(fake.addon.refs).toBe(0)
  expect(native.pending).toBe(0)
})

/** Turns of the event loop in which whatever can happen has happened. */
const settle = () => new Promise((resolve) => setImmediate(resolve))

/** Texts are tokenised in their own time. */
const submitted = (count: number) => vi.waitFor(() => expect(native.submitted).toHaveLength(count))

async function collect(generation: Generation): Promise<GenerationChunk[]> {
  const chunks = []
  for await (const chunk of generation) chunks.push(chunk)
  return chunks
}

describe('requests', () => {
  test('defaults: greedy, up to the end of the context, the model’s end tokens', async () => {
    model.generate('Once')
    await submitted(1)
    expect(native.submitted[0]!.request).toMatchObject({
      kind: 'generate',
      tokens: Int32Array.of(0, ...(await ids('Once'))),
      maxTokens: 1024 - 1 - (await ids('Once')).length,
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      stopTokens: Int32Array.of(0),
      logprobs: false,
    })
    native.answer([], { finish: 'stop' })
  })

  test('options, tokens as they are, seeds that differ', () => {
    const options = { maxTokens: 3, temperature: 0.5, topK: 4, topP: 0.9, minP: 0.1, logprobs: true }
    model.generate([5, 6], { ...options, stopTokens: [9, 0], ignoreEos: true })
    expect(native.submitted[0]!.request).toMatchObject({
      ...options,
      tokens: Int32Array.of(5, 6),
      stopTokens: Int32Array.of(9, 0),
    })
    native.answer([], { finish: 'stop' })
    model.generate(Int32Array.of(7))
    const [a, b] = native.submitted.map(({ request }) => request.seed)
    expect(a).not.toBe(b)
    native.answer([], { finish: 'stop' })
    model.generate([7], { seed: 42 })
    expect(native.submitted[2]!.request.seed).toBe(42)
    native.answer([], { finish: 'stop' })
  })

  test('sampling and scheduling options', () => {
    const options = {
      typicalP: 0.9,
      repetitionPenalty: 1.5,
      presencePenalty: -0.5,
      frequencyPenalty: 0.25,
      topLogprobs: 3,
      priority: -2,
      queueTimeoutMs: 100,
      deadlineMs: 2000,
    }
    model.generate([5, 6], { ...options, logitBias: { 7: -1, 2047: 2 } })
    expect(native.submitted[0]!.request).toMatchObject({
      ...options,
      biasTokens: Int32Array.of(7, 2047),
      biasValues: Float32Array.of(-1, 2),
    })
    native.answer([], { finish: 'stop' })
    model.generate([5, 6])
    expect(native.submitted[1]!.request).toMatchObject({
      typicalP: 1,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      topLogprobs: 0,
      priority: 0,
      queueTimeoutMs: 0,
      deadlineMs: 0,
      biasTokens: new Int32Array(0),
    })
    native.answer([], { finish: 'stop' })
  })

  test('a prompt that is too long is cut where the caller says so', async () => {
    const prompt = [0, ...Array.from({ length: 1999 }, (_, index) => 3 + (index % 2000))]
    const generation = model.generate(prompt, { truncate: 'start', maxTokens: 24 })
    expect([...native.submitted[0]!.request.tokens]).toEqual([0, ...prompt.slice(-999)])
    expect(native.submitted[0]!.request.maxTokens).toBe(24)
    native.answer([], { finish: 'stop' })
    expect((await generation.result).usage).toEqual({ promptTokens: 1000, completionTokens: 0, truncatedTokens: 1000 })
    model.generate(prompt, { truncate: 'middle' })
    expect([...native.submitted[1]!.request.tokens]).toEqual([...prompt.slice(0, 384), ...prompt.slice(-384)])
    native.answer([], { finish: 'stop' })
    model.generate(prompt.slice(0, 500), { truncate: 'start' })
    expect(native.submitted[2]!.request.tokens).toHaveLength(500)
    native.answer([], { finish: 'stop' })
    await expect(model.generate(prompt, { truncate: 'none' }).result).rejects.toMatchObject({
      code: 'CONTEXT_OVERFLOW',
    })
  })

  test('maxTokens is cut to what the context leaves', () => {
    model.generate([5, 6], { maxTokens: 100_000 })
    expect(native.submitted[0]!.request.maxTokens).toBe(1022)
    native.answer([], { finish: 'length' })
  })

  test('chat writes the template’s special tokens once', async () => {
    model.chat([{ role: 'user', content: 'Hi' }])
    await submitted(1)
    expect([...native.submitted[0]!.request.tokens]).toEqual([0, 1, ...(await ids('Hi')), 2])
    native.answer([], { finish: 'stop' })
  })

  test('wrong arguments throw at once and submit nothing', () => {
    const bad: [() => unknown, RegExp][] = [
      [() => model.generate([5], { maxToken: 1 } as never), /did you mean 'maxTokens'/],
      [() => model.generate([5], { stopTokens: [2048] }), /a token id from 0 to 2047 for stopTokens\[0\]/],
      [() => model.generate([5], { logitBias: { 2048: 1 } }), /a token id from 0 to 2047 for logitBias\[0\]/],
      [() => model.chat('Hi' as never), /for messages/],
      [() => model.chat([]), /at least one message/],
      [
        () => model.chat([{ role: 'usr', content: 'Hi' }]),
        /expected one of 'system', 'user', .* for messages\[0\]\.role but received 'usr'/,
      ],
    ]
    for (const [call, message] of bad) {
      expect(call).toThrowError(
        expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(message) }),
      )
    }
    expect(native.submitted).toEqual([])
  })

  test.each([
    [[], 'INVALID_ARGUMENT', /at least one token/],
    [[1, 2048], 'INVALID_ARGUMENT', /for prompt\[1\] but received 2048/],
    [[1.5], 'INVALID_ARGUMENT', /for prompt\[0\]/],
    [[-1], 'INVALID_ARGUMENT', /for prompt\[0\]/],
    [7, 'INVALID_ARGUMENT', /a text, an array of token ids or an Int32Array for prompt but received 7/],
    [undefined, 'INVALID_ARGUMENT', /for prompt but received nothing/],
    [new Int32Array(1024), 'CONTEXT_OVERFLOW', /1024 tokens, the context of 1024 leaves no room/],
  ])('a wrong prompt rejects iteration and result: %j', async (prompt, code, message) => {
    const generation = model.generate(prompt as never)
    const expected = expect.objectContaining({ code, message: expect.stringMatching(message) })
    await expect(generation.result).rejects.toThrowError(expected)
    await expect(collect(generation)).rejects.toThrowError(expected)
    expect(native.submitted).toEqual([])
  })

  test('what the engine refuses rejects with its code and remedy', async () => {
    native.refusal = Object.assign(new Error('no room'), { code: 'CONTEXT_OVERFLOW', remedy: 'less' })
    await expect(model.generate([5]).result).rejects.toMatchObject({
      code: 'CONTEXT_OVERFLOW',
      message: 'no room',
      remedy: 'less',
    })
    native.refusal = undefined
    native.full = Object.assign(new Error('9 wait'), { code: 'QUEUE_FULL', remedy: 'wait', retryAfterMs: 12.5 })
    await expect(model.generate([5]).result).rejects.toMatchObject({ code: 'QUEUE_FULL', retryAfterMs: 12.5 })
    native.full = undefined
    expect(new MillraceError('INTERNAL', { message: 'x' })).not.toHaveProperty('retryAfterMs')
  })
})

describe('answers', () => {
  test('chunks come as tokens do; the result has all of them', async () => {
    const generation = model.generate('Once', { logprobs: true, seed: 1 })
    await submitted(1)
    const iterator = generation[Symbol.asyncIterator]()
    const first = iterator.next()
    const [a, b, c] = await ids(' upon a time')
    native.answer([a!], { logprobs: Float32Array.of(-0.5) })
    expect(await first).toEqual({ done: false, value: { text: ' upon', tokens: [a], logprobs: [-0.5] } })
    native.answer([b!], { logprobs: Float32Array.of(-0.25) })
    native.answer([c!], { logprobs: Float32Array.of(-1), finish: 'length' })
    // Nobody read in between: one chunk.
    expect(await iterator.next()).toEqual({
      done: false,
      value: { text: ' a time', tokens: [b, c], logprobs: [-0.25, -1] },
    })
    expect(await iterator.next()).toEqual({ done: true, value: undefined })
    expect(await generation.result).toEqual({
      text: ' upon a time',
      tokens: [a, b, c],
      logprobs: [-0.5, -0.25, -1],
      finishReason: 'length',
      usage: { promptTokens: 1 + (await ids('Once')).length, completionTokens: 3 },
      timings: { queueMs: 1, firstTokenMs: 2, totalMs: 3 },
      seed: 1,
    })
  })

  test('the most likely tokens come with the tokens', async () => {
    const generation = model.generate('Once', { topLogprobs: 2 })
    await submitted(1)
    const iterator = generation[Symbol.asyncIterator]()
    const [a, b] = await ids(' upon a')
    native.answer([a!, b!], {
      topTokens: Int32Array.of(a!, 9, 8, b!),
      topLogprobs: Float32Array.of(-0.5, -1, -0.25, -2),
    })
    const topLogprobs = [
      [
        { token: a, logprob: -0.5 },
        { token: 9, logprob: -1 },
      ],
      [
        { token: 8, logprob: -0.25 },
        { token: b, logprob: -2 },
      ],
    ]
    expect((await iterator.next()).value).toEqual({ text: ' upon a', tokens: [a, b], topLogprobs })
    native.answer([], { finish: 'stop' })
    expect(await generation.result).toMatchObject({ topLogprobs })
  })

  test('a reader that stalls gets one chunk for all it missed, and what it misses takes only the text', async () => {
    setFlagsFromString('--expose-gc')
    const collectGarbage = runInNewContext('gc') as () => void
    const heap = () => {
      collectGarbage()
      return process.memoryUsage().heapUsed
    }
    const generation = model.generate([5], { ignoreEos: true })
    const iterator = generation[Symbol.asyncIterator]()
    const [token] = await ids(' upon')
    native.answer([token!])
    await iterator.next()
    const missed = 200_000
    const before = heap()
    for (let index = 0; index < missed; index++) native.answer([token!])
    // Per token: five bytes of text, its id (8, and room to grow), nothing else that stays. An event or a string kept
    // for each would take over a hundred.
    expect((heap() - before) / missed).toBeLessThan(30)
    const { value } = await iterator.next()
    expect(value).toMatchObject({ text: ' upon'.repeat(missed) })
    expect((value as GenerationChunk).tokens).toHaveLength(missed)
    native.answer([], { finish: 'length' })
    expect((await generation.result).text).toBe(' upon'.repeat(missed + 1))
  })

  test('a code point waits for its last byte, and its tokens with it', async () => {
    const generation = model.generate([5])
    const tokens = await ids('🎉')
    const iterator = generation[Symbol.asyncIterator]()
    const first = iterator.next()
    for (const token of tokens.slice(0, -1)) native.answer([token])
    await settle()
    native.answer(tokens.slice(-1))
    expect(await first).toEqual({ done: false, value: { text: '🎉', tokens } })
    native.answer(tokens.slice(0, 1), { finish: 'length' })
    expect(await iterator.next()).toEqual({ done: false, value: { text: '\uFFFD', tokens: tokens.slice(0, 1) } })
  })

  test('an answer of nothing has no chunks', async () => {
    const generation = model.generate([5])
    native.answer([], { finish: 'stop' })
    expect(await collect(generation)).toEqual([])
    expect(await generation.result).toMatchObject({ text: '', finishReason: 'stop', usage: { completionTokens: 0 } })
  })

  test('can be iterated over once', async () => {
    const generation = model.generate([5])
    native.answer([], { finish: 'stop' })
    await collect(generation)
    expect(() => generation[Symbol.asyncIterator]()).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
  })
})

describe('stop strings', () => {
  test('end the answer before them and cancel the request', async () => {
    const generation = model.generate([5], { stop: [' time'] })
    native.answer(await ids(' upon a time ago'))
    expect(native.cancelled).toEqual([native.submitted[0]!.id])
    native.answer(await ids(' more'), { finish: 'abort' })
    const chunks = await collect(generation)
    expect(chunks.map((chunk) => chunk.text).join('')).toBe(' upon a')
    const { text, finishReason, usage } = await generation.result
    expect({ text, finishReason }).toEqual({ text: ' upon a', finishReason: 'stop' })
    expect(usage.completionTokens).toBe((await ids(' upon a time')).length)
  })

  test('a special token is one too, and is not in the text', async () => {
    const generation = model.generate([5], { stop: '<|assistant|>', ignoreEos: true })
    native.answer([...(await ids(' upon')), 1, ...(await ids(' a')), 2, ...(await ids(' time'))])
    expect(native.cancelled).toEqual([native.submitted[0]!.id])
    native.answer([], { finish: 'abort' })
    expect(await generation.result).toMatchObject({ text: ' upon a', finishReason: 'stop', tokens: { length: 4 } })
  })

  test('what only looked like one comes at the end', async () => {
    const generation = model.generate([5], { stop: ' time flies' })
    native.answer(await ids(' a time'), { finish: 'length' })
    expect(await generation.result).toMatchObject({ text: ' a time', finishReason: 'length' })
    expect(native.cancelled).toEqual([])
  })
})

describe('ending early', () => {
  test('leaving the loop cancels; the result has what there is', async () => {
    const generation = model.generate([5])
    native.answer(await ids(' upon'))
    for await (const { text } of generation) {
      expect(text).toBe(' upon')
      break
    }
    expect(native.cancelled).toEqual([native.submitted[0]!.id])
    native.answer(await ids(' a'), { finish: 'abort' })
    expect(await generation.result).toMatchObject({ text: ' upon a', finishReason: 'abort' })
  })

  test('cancel() after the end does nothing', async () => {
    const generation = model.generate([5])
    native.answer([], { finish: 'length' })
    generation.cancel()
    expect(native.cancelled).toEqual([])
    expect(await generation.result).toMatchObject({ finishReason: 'length' })
  })

  test('a signal rejects iteration and result with ABORTED, and cancels', async () => {
    const controller = new AbortController()
    const generation = model.generate([5], { signal: controller.signal })
    const reading = collect(generation)
    native.answer(await ids(' upon'))
    await settle()
    const reason = new Error('enough')
    controller.abort(reason)
    await expect(reading).rejects.toMatchObject({ code: 'ABORTED', cause: reason })
    await expect(generation.result).rejects.toMatchObject({ code: 'ABORTED' })
    expect(native.cancelled).toHaveLength(1)
    expect(fake.addon.refs).toBe(1)
    native.answer([], { finish: 'abort' })
    expect(fake.addon.refs).toBe(0)
  })

  test('a signal that is aborted already submits nothing', async () => {
    const generation = model.generate([5], { signal: AbortSignal.abort() })
    await expect(generation.result).rejects.toMatchObject({ code: 'ABORTED' })
    expect(native.submitted).toEqual([])
  })

  test('an error of the engine rejects with its code', async () => {
    const generation = model.generate([5])
    native.answer([], { finish: 'error', error: { code: 'OUT_OF_MEMORY', message: 'full', remedy: 'less' } })
    await expect(generation.result).rejects.toMatchObject({ code: 'OUT_OF_MEMORY', message: 'full', remedy: 'less' })
    await expect(collect(generation)).rejects.toBeInstanceOf(MillraceError)
  })

  test('an unread failure is no unhandled rejection', async () => {
    const unhandled = vi.fn()
    process.on('unhandledRejection', unhandled)
    model.generate([])
    model.generate([5], { signal: AbortSignal.abort() })
    model.generate([5])
    native.answer([], { finish: 'error', error: { code: 'INTERNAL', message: 'x', remedy: '' } })
    await settle()
    await settle()
    process.off('unhandledRejection', unhandled)
    expect(unhandled).not.toHaveBeenCalled()
  })
})

test('one signal serves many requests without a warning, and lets go of those that ended', async () => {
  const warned = vi.fn()
  process.on('warning', warned)
  const controller = new AbortController()
  const end = () => native.answer([], { finish: 'length' })
  const early = Array.from({ length: 15 }, () => {
    const generation = model.generate([5], { signal: controller.signal })
    end()
    return generation.result
  })
  const late = Array.from({ length: 15 }, () => model.generate([5], { signal: controller.signal }))
  await Promise.all(early)
  controller.abort()
  for (const generation of late) await expect(generation.result).rejects.toMatchObject({ code: 'ABORTED' })
  expect(native.cancelled).toEqual(native.submitted.slice(15).map(({ id }) => id))
  for (const { id } of native.submitted.slice(15)) native.answer([], { request: id, finish: 'abort' })
  await settle()
  process.off('warning', warned)
  expect(warned).not.toHaveBeenCalled()
})

describe('score', () => {
  test('gives the engine’s log-probabilities', async () => {
    const scoring = model.score('Once', { logits: true })
    await submitted(1)
    expect(native.submitted[0]!.request).toMatchObject({
      kind: 'score',
      logits: true,
      tokens: Int32Array.of(0, ...(await ids('Once'))),
    })
    const logprobs = Float32Array.of(Math.log(0.5), Math.log(0.125))
    native.answer([], { finish: 'length', logprobs, logits: Float32Array.of(1, 2) })
    const result = await scoring
    expect(result).toMatchObject({
      logprobs,
      logits: Float32Array.of(1, 2),
      tokens: Int32Array.of(0, ...(await ids('Once'))),
    })
    expect(result.perplexity).toBeCloseTo(4, 5)
  })
  test('without special tokens, and refused where it does not fit', async () => {
    const scoring = model.score('Once', { specialTokens: false })
    await submitted(1)
    expect([...native.submitted[0]!.request.tokens]).toEqual(await ids('Once'))
    native.answer([], { finish: 'length' })
    await scoring
    await expect(model.score(new Int32Array(1025))).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' })
    for (const [text, message] of [
      [[], 'a text of at least one token'],
      [[-1], 'for text[0] but received -1'],
      [7, 'for text but received 7'],
    ] as const) {
      const refusal = { code: 'INVALID_ARGUMENT', message: expect.stringContaining(message) }
      await expect(model.score(text as never)).rejects.toMatchObject(refusal)
    }
  })
  test('a signal aborts it', async () => {
    const controller = new AbortController()
    const scoring = model.score('Once', { signal: controller.signal })
    await submitted(1)
    controller.abort()
    expect(native.cancelled).toHaveLength(1)
    native.answer([], { finish: 'abort' })
    await expect(scoring).rejects.toMatchObject({ code: 'ABORTED' })
    await expect(model.score('x', { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' })
  })
})

describe('what is told of requests', () => {
  test('channels: start, end with its reason, and steps while somebody listens', async () => {
    const heard: [string, unknown][] = []
    const listen = (name: string) => {
      const listener = (message: unknown) => heard.push([name, message])
      diagnostics.subscribe(name, listener)
      return () => diagnostics.unsubscribe(name, listener)
    }
    const silence = ['millrace:request:start', 'millrace:request:end', 'millrace:step'].map(listen)
    const generation = model.generate([5, 6, 7])
    const request = native.submitted[0]!.id
    expect(native.observed).toEqual([true])
    const step = { model: native.id, rows: 3, decodeRows: 0, sequences: 1, waiting: 0, kvBlocksUsed: 1, ms: 2 }
    fake.addon.emit({ type: 'step', ...step })
    native.answer([9], { finish: 'length' })
    await generation.result
    const facts = { kind: 'generate', model: native.id, request, promptTokens: 3 }
    expect(heard).toEqual([
      ['millrace:request:start', facts],
      ['millrace:step', step],
      [
        'millrace:request:end',
        {
          ...facts,
          completionTokens: 1,
          finishReason: 'length',
          error: undefined,
          timings: { queueMs: 1, firstTokenMs: 2, totalMs: 3 },
        },
      ],
    ])
    for (const off of silence) off()
    model.generate([5])
    native.answer([], { finish: 'stop' })
    expect(native.observed).toEqual([true, false])
    expect(heard).toHaveLength(3)
  })

  test('the logger: loads, requests, refusals and failures', async () => {
    const lines: [string, string, object][] = []
    const level = (name: string) => (fields: object, message: string) => lines.push([name, message, fields])
    const logger = { debug: level('debug'), info: level('info'), warn: level('warn'), error: level('error') }
    const other = await load(join(MODELS, 'demo'), { logger })
    const theirs = fake.addon.models.at(-1)!
    other.generate([5])
    theirs.answer([], { finish: 'stop' })
    other.generate([5])
    theirs.answer([], { finish: 'error', error: { code: 'DEADLINE_EXCEEDED', message: 'late', remedy: '' } })
    other.generate([5])
    theirs.answer([], { finish: 'error', error: { code: 'INTERNAL', message: 'broken', remedy: '' } })
    theirs.full = Object.assign(new Error('full'), { code: 'QUEUE_FULL', retryAfterMs: 5 })
    await other.generate([5]).result.catch(() => {})
    const closed = other.close()
    theirs.finishClose()
    await closed
    expect(lines.map(([name, message]) => `${name}: ${message}`)).toEqual([
      'info: model loaded',
      'debug: request started',
      'debug: request ended',
      'debug: request started',
      'warn: request failed',
      'debug: request started',
      'error: request failed',
      'warn: request refused: full',
      'info: model closed',
    ])
    expect(lines[4]![2]).toMatchObject({ model: theirs.id, error: 'DEADLINE_EXCEEDED' })
    expect(lines[7]![2]).toMatchObject({ code: 'QUEUE_FULL', retryAfterMs: 5 })
    await expect(load('/nowhere', { logger })).rejects.toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
    expect(lines.at(-1)).toMatchObject(['error', expect.stringMatching(/^load failed: /), { path: '/nowhere' }])
  })
})

describe('process lifetime', () => {
  test('pending work keeps the process alive, idleness does not', async () => {
    expect(fake.addon.refs).toBe(0)
    const a = model.generate([5])
    expect(fake.addon.refs).toBe(1)
    native.answer([], { finish: 'stop' })
    await a.result
    expect(fake.addon.refs).toBe(0)
    expect(fake.addon.attached).toBe(1)
  })
})

describe('close', () => {
  test('is idempotent, and nothing can be asked afterwards', async () => {
    const first = model.close({ timeoutMs: 50 })
    expect(model.close()).toBe(first)
    await first
    await model.close()
    // What is left of it by then.
    expect(native.closes).toEqual([{ drain: true, timeoutMs: expect.any(Number) }])
    expect(native.closes[0]!.timeoutMs).toBeGreaterThan(0)
    expect(native.closes[0]!.timeoutMs).toBeLessThanOrEqual(50)
    await expect(model.generate([5]).result).rejects.toMatchObject({ code: 'MODEL_CLOSED' })
    await expect(model.score('x')).rejects.toMatchObject({ code: 'MODEL_CLOSED' })
    expect(() => model.stats).toThrowError(expect.objectContaining({ code: 'MODEL_CLOSED' }))
    expect(() => model.memory).toThrowError(expect.objectContaining({ code: 'MODEL_CLOSED' }))
  })

  test('a second close without draining aborts what still runs', async () => {
    const generation = model.generate([5])
    const closed = model.close()
    expect(native.cancelled).toEqual([])
    void model.close({ drain: false })
    expect(native.cancelled).toEqual([native.submitted[0]!.id])
    native.answer([], { finish: 'abort' })
    native.finishClose()
    await closed
    expect(await generation.result).toMatchObject({ finishReason: 'abort' })
  })

  test('await using closes', async () => {
    {
      await using other = await load(join(MODELS, 'demo'))
      expect(other.architecture).toBe('LlamaForCausalLM')
    }
    expect(fake.addon.models.at(-1)!.closes).toHaveLength(1)
  })
})

test('score refuses logits beyond a gibibyte', async () => {
  const big = await load(join(MODELS, 'demo'), { contextLength: 1024 })
  Object.assign(big.spec, { vocab: 2 ** 20 })
  await expect(big.score(new Int32Array(257), { logits: true })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    remedy: expect.stringContaining('at most 256 tokens'),
  })
  const engine = fake.addon.models.at(-1)!
  expect(engine.submitted).toEqual([])
  await big.close()
})

test('stats and memory', () => {
  expect(model.stats).toEqual({
    steps: 1,
    stepMs: 19,
    rows: { decode: 2, prefill: 3 },
    weightBytesRead: 7,
    streaming: {
      copiedBytes: 4,
      prefetchedBytes: 5,
      droppedBytes: 14,
      stagedBytes: 15,
      fileBytes: 29,
      units: 6,
      devices: [{ device: 'cpu', copiedBytes: 4 }],
    },
    arena: { copiedBytes: 17, switches: 18, switchMs: 20 },
    experts: { hits: 23, mapped: 24, cpu: 28, hitRate: 23 / 75, promotedBytes: 25, frames: 26, usedFrames: 27 },
    hops: 16,
    sequences: { running: 8, waiting: 9, preemptions: 12, recomputations: 21 },
    speculation: { draftedTokens: 23, acceptedTokens: 22, draftPasses: 24, draftMs: 25 },
    kv: { blocksUsed: 10, blocksTotal: 11, blockTokens: 16, savedBytes: 13, tierBytes: 30, swapBytes: 5 },
    prefixCache: { promptTokens: 20, reusedTokens: 5, returnedTokens: 3, hitRate: 0.25 },
  })
  expect(model.memory).toEqual({
    hostBytes: 1,
    pinnedBytes: 0,
    residentBytes: 0,
    sharedBytes: 0,
    ringBytes: 2,
    kvBytes: 3,
    kvSwapBytes: 5,
    savedKvBytes: 13,
    workspaceBytes: 4,
    vramBytes: 0,
    devices: [{ device: 'cpu', residentBytes: 0, ringBytes: 2, kvBytes: 3, workspaceBytes: 4, directHops: false }],
  })
})

/** The life of a request before, beside and after the engine, whose part and the tokenizer's are played by the test. */
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { calibrate, type Generation, load, MillraceError, type Model } from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'
import type { FakeAddon, FakeModel } from './fake_addon.ts'

const fake = vi.hoisted(() => ({ addon: undefined as unknown as FakeAddon }))
vi.mock('../../../lib/binding.ts', async (original) => {
  const { FakeAddon } = await import('./fake_addon.ts')
  fake.addon = new FakeAddon()
  return { ...(await original<object>()), addon: () => fake.addon }
})

interface Asked {
  text: string
  signal: AbortSignal | undefined
  answer: (tokens: number[]) => void
}

let model: Model
let native: FakeModel
/** Texts that the tokenizer has and the test may answer. */
let asked: Asked[]

beforeEach(async () => {
  model = await load(join(MODELS, 'demo'))
  native = fake.addon.models.at(-1)!
  asked = []
  vi.spyOn(model.tokenizer, 'encode').mockImplementation(
    (text, { signal } = {}) =>
      new Promise((resolve) => asked.push({ text, signal, answer: (tokens) => resolve(Int32Array.from(tokens)) })),
  )
})
afterEach(async () => {
  const closed = model.close({ drain: false })
  native.finishClose()
  await closed
  expect(fake.addon.refs).toBe(0)
  // Every place that was taken was given back.
  expect(native.pending).toBe(0)
})

const turn = () => new Promise((resolve) => setImmediate(resolve))
const code = (promise: Promise<unknown>) =>
  promise.then(
    () => 'none',
    (error: MillraceError) => error.code,
  )

describe('admission', () => {
  test('comes before tokenising: who finds no place is refused at once, and no text of his is tokenised', async () => {
    const first = model.generate('one')
    native.full = Object.assign(new Error('1 requests wait already'), { code: 'QUEUE_FULL', retryAfterMs: 7 })
    const second = model.generate('two')
    const third = model.chat([{ role: 'user', content: 'three' }])
    const fourth = model.score('four')
    for (const refused of [second.result, third.result, fourth]) {
      await expect(refused).rejects.toMatchObject({ code: 'QUEUE_FULL', retryAfterMs: 7 })
    }
    expect(asked.map(({ text }) => text)).toEqual(['one'])
    asked[0]!.answer([5])
    await turn()
    expect(native.submitted.map(({ id }) => id)).toEqual(native.admitted)
    native.answer([], { finish: 'stop' })
    await first.result
  })

  test('a wrong prompt is told as such, also where there is no place', async () => {
    native.full = Object.assign(new Error('full'), { code: 'QUEUE_FULL' })
    expect(await code(model.generate([1.5]).result)).toBe('INVALID_ARGUMENT')
    expect(await code(model.score([-1]))).toBe('INVALID_ARGUMENT')
  })

  test('ids follow the calls, not the tokenizer', async () => {
    model.generate('slow')
    model.generate([5])
    expect(native.admitted).toEqual([...native.admitted].sort((a, b) => a - b))
    expect(native.submitted.map(({ id }) => id)).toEqual([native.admitted[1]])
    native.answer([], { finish: 'stop' })
    asked[0]!.answer([6])
    await turn()
    expect(native.submitted[1]!.id).toBe(native.admitted[0])
    native.answer([], { finish: 'stop' })
  })

  test.each([
    ['the tokenizer fails', () => asked[0]!.answer([]), 'INVALID_ARGUMENT'],
    ['the prompt is too long', () => asked[0]!.answer(new Array(2000).fill(5)), 'CONTEXT_OVERFLOW'],
    ['the tokenizer knows more tokens than the model', () => asked[0]!.answer([2048]), 'INVALID_ARGUMENT'],
  ])('the place is given back where %s', async (_, fail, expected) => {
    for (const start of [() => model.generate('x').result, () => model.score('x')]) {
      asked = []
      const failed = code(start())
      fail()
      expect(await failed).toBe(expected)
      expect(native.pending).toBe(0)
    }
    expect(native.submitted).toEqual([])
  })
})

describe('one clock', () => {
  test('the engine is told how long ago the call was', async () => {
    const scored = model.score('text', { deadlineMs: 60_000 })
    await new Promise((resolve) => setTimeout(resolve, 30))
    asked[0]!.answer([5, 6])
    await turn()
    expect(native.submitted[0]!.request).toMatchObject({ kind: 'score', deadlineMs: 60_000 })
    expect(native.submitted[0]!.request.ageMs).toBeGreaterThan(29)
    native.answer([], { finish: 'length' })
    await scored
  })

  test.each([
    [{ queueTimeoutMs: 5 }, 'QUEUE_TIMEOUT'],
    [{ deadlineMs: 5 }, 'DEADLINE_EXCEEDED'],
    [{ queueTimeoutMs: 60_000, deadlineMs: 5 }, 'DEADLINE_EXCEEDED'],
    [{ queueTimeoutMs: 5, deadlineMs: 60_000 }, 'QUEUE_TIMEOUT'],
  ])('limits hold while a text is tokenised: %j', async (limits, expected) => {
    expect(await code(model.generate('x', limits).result)).toBe(expected)
    expect(await code(model.score('x', limits))).toBe(expected)
    expect(asked.map(({ signal }) => signal?.aborted)).toEqual([true, true])
    // An answer that comes all the same is too late.
    for (const { answer } of asked) answer([5])
    await turn()
    expect(native.submitted).toEqual([])
  })

  test('a limit that is over by the time that the tokens are there holds, though the loop was busy', async () => {
    const late = model.generate('x', { deadlineMs: 5 })
    const began = performance.now()
    while (performance.now() - began < 10);
    asked[0]!.answer([5])
    expect(await code(late.result)).toBe('DEADLINE_EXCEEDED')
    expect(native.submitted).toEqual([])
  })

  test('a request that never ran has queued all its life', async () => {
    const generation = model.generate('x')
    await new Promise((resolve) => setTimeout(resolve, 10))
    generation.cancel()
    const { timings, finishReason } = await generation.result
    expect(finishReason).toBe('abort')
    expect(timings.totalMs).toBeGreaterThan(9)
    expect(timings).toEqual({ queueMs: timings.totalMs, firstTokenMs: 0, totalMs: timings.totalMs })
  })
})

describe('an abort', () => {
  test('reaches a text that is with the tokenizer', async () => {
    const controller = new AbortController()
    const { signal } = controller
    const requests = [
      model.generate('a', { signal }).result,
      model.chat([{ role: 'user', content: 'b' }], { signal }).result,
      model.score('c', { signal }),
    ]
    const reason = new Error('enough')
    controller.abort(reason)
    for (const request of requests) {
      const error = await request.catch((thrown) => thrown)
      expect(error).toMatchObject({ name: 'AbortError', code: 'ABORTED', cause: reason })
      expect(MillraceError.isInstance(error)).toBe(true)
    }
    expect(asked.every((one) => one.signal?.aborted)).toBe(true)
    expect(native.pending).toBe(0)
    expect(fake.addon.refs).toBe(0)
  })

  test('is an AbortError everywhere', async () => {
    const signal = AbortSignal.abort(new Error('before'))
    const aborted = [
      model.generate([5], { signal }).result,
      model.generate([5], { signal })[Symbol.asyncIterator]().next(),
      model.chat([{ role: 'user', content: 'x' }], { signal }).result,
      model.score([5], { signal }),
      load(join(MODELS, 'demo'), { signal }),
      calibrate({ signal }),
    ]
    for (const promise of aborted) {
      await expect(promise).rejects.toMatchObject({ name: 'AbortError', code: 'ABORTED', cause: signal.reason })
    }
    expect(native.admitted).toEqual([])
  })

  test('of a score under way rejects at once, and waits for the engine before it lets the process end', async () => {
    const controller = new AbortController()
    const scored = model.score([5, 6], { signal: controller.signal })
    await turn()
    controller.abort()
    expect(await code(scored)).toBe('ABORTED')
    expect(native.cancelled).toEqual([native.submitted[0]!.id])
    expect(fake.addon.refs).toBe(1)
    native.answer([], { finish: 'abort' })
    expect(fake.addon.refs).toBe(0)
  })

  test('errors of another copy of the package are known, those of the platform are not', () => {
    class Other extends Error {
      override name = 'AbortError'
      code = 'ABORTED'
    }
    expect(MillraceError.isInstance(new Other())).toBe(true)
    expect(MillraceError.isInstance(Object.assign(new Error('x'), { name: 'AbortError', code: 'ABORT_ERR' }))).toBe(
      false,
    )
    expect(MillraceError.isInstance(AbortSignal.abort().reason)).toBe(false)
    expect(new MillraceError('INTERNAL', { message: 'x' }).name).toBe('MillraceError')
  })
})

describe('close', () => {
  test('draining waits for texts that were asked for before, of any kind, and takes no more', async () => {
    const generation = model.generate('a', { maxTokens: 1 })
    const scored = model.score('b')
    const closed = model.close()
    expect(await code(model.generate([5]).result)).toBe('MODEL_CLOSED')
    await turn()
    expect(native.closes).toEqual([])
    asked[0]!.answer([5])
    await turn()
    expect(native.closes).toEqual([])
    native.answer([7], { finish: 'length' })
    asked[1]!.answer([6])
    await turn()
    expect(native.closes).toMatchObject([{ drain: true }])
    native.answer([], { finish: 'length' })
    native.finishClose()
    await closed
    expect((await generation.result).tokens).toEqual([7])
    expect((await scored).tokens).toEqual(Int32Array.of(6))
  })

  test.each([
    ['without draining', { drain: false }],
    ['when its time is over', { timeoutMs: 5 }],
  ])('%s ends them as it ends what runs', async (_, options) => {
    const generation = model.generate('a')
    const scored = code(model.score('b'))
    const closed = model.close(options)
    expect(await generation.result).toMatchObject({ text: '', finishReason: 'abort' })
    expect(await scored).toBe('MODEL_CLOSED')
    await closed
    expect(native.submitted).toEqual([])
    expect(asked.every(({ signal }) => signal?.aborted)).toBe(true)
  })

  test('a trace that it ends has all that ran, and what it lacks is told when all is freed', async () => {
    const traced = await load(join(MODELS, 'demo'))
    const engine = fake.addon.models.at(-1)!
    await traced.trace('trace.json')
    const trace = vi
      .spyOn(engine, 'trace')
      .mockRejectedValue(Object.assign(new Error('not whole'), { code: 'WRITE_FAILED' }))
    const generation = traced.generate([5], { maxTokens: 1 })
    const closed = code(traced.close())
    await turn()
    expect(trace).not.toHaveBeenCalled()
    engine.answer([7], { finish: 'length' })
    await turn()
    expect(trace).toHaveBeenCalledExactlyOnceWith('')
    expect(engine.closes).toMatchObject([{ drain: true }])
    engine.finishClose()
    expect(await closed).toBe('WRITE_FAILED')
    expect((await generation.result).tokens).toEqual([7])
    expect(await code(traced.tokenizer.encode('x'))).toBe('MODEL_CLOSED')
  })

  test('a trace that ended before is not ended again', async () => {
    await model.trace('trace.json')
    await model.trace(null)
    const closed = model.close()
    await turn()
    native.finishClose()
    await closed
    expect(native.traces).toEqual(['trace.json', ''])
  })

  test('a second one without draining hurries the first: what is tokenised and what runs, scores too', async () => {
    const scored = code(model.score([5, 6]))
    const generation = model.generate('a')
    const closed = model.close()
    void model.close({ drain: false })
    expect(await generation.result).toMatchObject({ finishReason: 'abort' })
    expect(native.cancelled).toEqual([native.submitted[0]!.id])
    native.answer([], { finish: 'abort' })
    expect(await scored).toBe('MODEL_CLOSED')
    native.finishClose()
    await closed
  })
})

describe('reading', () => {
  let generation: Generation
  let reader: AsyncGenerator<{ text: string; tokens: number[] }, void, undefined>
  /** Tokens with a text of their own. */
  const [a, b] = [350, 351]
  beforeEach(() => {
    generation = model.generate([5])
    reader = generation[Symbol.asyncIterator]()
  })
  const tokensOf = async (next: Promise<IteratorResult<{ tokens: number[] }, void>>) => {
    const { done, value } = await next
    return done ? 'done' : value!.tokens
  }

  test('calls of next() at the same time are answered in their order', async () => {
    const calls = [reader.next(), reader.next(), reader.next(), reader.next()]
    native.answer([a])
    expect(await tokensOf(calls[0]!)).toEqual([a])
    native.answer([b])
    native.answer([], { finish: 'length' })
    expect(await Promise.all(calls.slice(1).map(tokensOf))).toEqual([[b], 'done', 'done'])
    expect(await tokensOf(reader.next())).toBe('done')
  })

  test('of those that wait when it fails, the first rejects and the others are at the end', async () => {
    const calls = [reader.next(), reader.next(), reader.next()]
    native.answer([a])
    native.answer([], { finish: 'error', error: { code: 'OUT_OF_MEMORY', message: 'full', remedy: 'less' } })
    const [first, second, third] = await Promise.allSettled(calls)
    expect(first).toMatchObject({ value: { value: { tokens: [a] } } })
    expect(second).toMatchObject({ reason: { code: 'OUT_OF_MEMORY' } })
    expect(third).toMatchObject({ value: { done: true } })
  })

  test('what came before a failure is read first', async () => {
    native.answer([a])
    native.answer([], { finish: 'error', error: { code: 'INTERNAL', message: 'broken', remedy: '' } })
    expect(await tokensOf(reader.next())).toEqual([a])
    expect(await code(reader.next())).toBe('INTERNAL')
    expect(await tokensOf(reader.next())).toBe('done')
  })

  test('the iterator can be iterated over', async () => {
    expect(reader[Symbol.asyncIterator]()).toBe(reader)
    native.answer([a])
    expect(await tokensOf(reader.next())).toEqual([a])
    native.answer([b])
    native.answer([], { finish: 'length' })
    const rest = []
    for await (const { tokens } of reader) rest.push(...tokens)
    expect(rest).toEqual([b])
  })

  test('return() answers calls that wait, cancels, and nothing is read afterwards', async () => {
    const calls = [reader.next(), reader.next()]
    expect(await reader.return(undefined)).toEqual({ done: true, value: undefined })
    expect(await Promise.all(calls.map(tokensOf))).toEqual(['done', 'done'])
    expect(native.cancelled).toEqual([native.submitted[0]!.id])
    native.answer([a], { finish: 'abort' })
    expect(await tokensOf(reader.next())).toBe('done')
    expect(await generation.result).toMatchObject({ tokens: [a], finishReason: 'abort' })
  })

  test('throw() rejects with what it was given, and cancels', async () => {
    const waits = reader.next()
    const mine = new Error('mine')
    await expect(reader.throw(mine)).rejects.toBe(mine)
    expect(await tokensOf(waits)).toBe('done')
    expect(native.cancelled).toHaveLength(1)
    native.answer([], { finish: 'abort' })
    expect(await generation.result).toMatchObject({ finishReason: 'abort' })
  })

  test('await using cancels, and waits until the engine has let go', async () => {
    let disposed = false
    const used = (async () => {
      await using mine = generation
      expect(mine.result).toBeInstanceOf(Promise)
    })().then(() => {
      disposed = true
    })
    await turn()
    expect(native.cancelled).toEqual([native.submitted[0]!.id])
    expect(disposed).toBe(false)
    native.answer([], { finish: 'abort' })
    await used
    expect(await generation.result).toMatchObject({ finishReason: 'abort' })
  })

  test('await using of an answer that has ended, or failed, passes quietly', async () => {
    native.answer([], { finish: 'error', error: { code: 'INTERNAL', message: 'broken', remedy: '' } })
    await generation[Symbol.asyncDispose]()
    expect(await code(generation.result)).toBe('INTERNAL')
    expect(native.cancelled).toEqual([])
  })
})

describe('biases', () => {
  const forbid = (count: number) =>
    new Map(Array.from({ length: count }, (_, token) => [token, Number.NEGATIVE_INFINITY]))

  test('that forbid every token are refused before anything is submitted', () => {
    for (const logitBias of [forbid(2048), Object.fromEntries(forbid(2048))]) {
      expect(() => model.generate([5], { logitBias })).toThrowError(
        expect.objectContaining({
          code: 'INVALID_ARGUMENT',
          message: 'logitBias forbids all 2048 tokens of the vocabulary',
        }),
      )
    }
    expect(native.admitted).toEqual([])
    for (const logitBias of [forbid(2047), new Map([...forbid(2048), [7, 0]])]) {
      model.generate([5], { logitBias })
      native.answer([], { finish: 'stop' })
    }
    expect(native.submitted).toHaveLength(2)
  })
})

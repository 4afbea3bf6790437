/** Vectors of texts: the same alone and in a crowd, and what becomes of calls that go wrong. Numbers are held in test/goldens. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load, type Model } from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'

const DEMO = join(MODELS, 'demo')
const settings = { device: 'cpu', threads: 1, contextLength: 256 } as const

let model: Model
const folders: string[] = []
beforeAll(async () => {
  model = await load(DEMO, settings)
})
afterAll(async () => {
  await model?.close()
  for (const folder of folders) rmSync(folder, { recursive: true })
})

const texts = Array.from(
  { length: 40 },
  (_, index) => `The otter ${'walks '.repeat(1 + (index % 23))}to house ${index}.`,
)
const lengthOf = (vector: Float32Array) => Math.hypot(...vector)

describe('vectors', () => {
  test('of a crowd are, bit for bit, those of each text alone', async () => {
    const answer = model.generate('Once upon a time', { maxTokens: 60 })
    const { embeddings, usage } = await model.embed(texts)
    const { text } = await answer.result
    expect(embeddings).toHaveLength(texts.length)
    let tokens = 0
    for (const [index, one] of texts.entries()) {
      const alone = await model.embed(one)
      tokens += alone.usage.promptTokens
      expect(alone.embeddings).toEqual([embeddings[index]])
      expect(lengthOf(embeddings[index]!)).toBeCloseTo(1, 5)
    }
    expect(usage.promptTokens).toBe(tokens)
    // And who was asked meanwhile is not disturbed.
    expect((await model.generate('Once upon a time', { maxTokens: 60 }).result).text).toBe(text)
  })

  test('of ids are those of the text, with what the tokenizer puts before it', async () => {
    const ids = await model.tokenizer.encode(texts[0]!)
    const bare = await model.tokenizer.encode(texts[0]!, { specialTokens: false })
    const [text, array, typed, several, without, plain] = await Promise.all([
      model.embed(texts[0]!),
      model.embed([...ids]),
      model.embed(ids),
      model.embed([ids, texts[0]!]),
      model.embed(texts[0]!, { specialTokens: false }),
      model.embed(bare),
    ])
    for (const { embeddings } of [array, typed]) expect(embeddings).toEqual(text.embeddings)
    expect(several.embeddings).toEqual([text.embeddings[0], text.embeddings[0]])
    expect(without.embeddings).toEqual(plain.embeddings)
    expect(without.embeddings).not.toEqual(text.embeddings)
  })

  test('of fewer dimensions are the first of all, of length 1 again', async () => {
    const { embeddings: whole } = await model.embed(texts[1]!, { pooling: 'last' })
    const { embeddings: part } = await model.embed(texts[1]!, { pooling: 'last', dimensions: 16 })
    expect(part[0]).toHaveLength(16)
    expect(lengthOf(part[0]!)).toBeCloseTo(1, 5)
    const length = lengthOf(whole[0]!.slice(0, 16))
    for (const [i, value] of part[0]!.entries()) expect(value).toBeCloseTo(whole[0]![i]! / length, 5)
  })

  test('of one token are the same pooled either way', async () => {
    const [mean, last] = await Promise.all([
      model.embed([7], { pooling: 'mean' }),
      model.embed([7], { pooling: 'last' }),
    ])
    expect(mean.embeddings).toEqual(last.embeddings)
  })
})

describe('what the checkpoint says', () => {
  async function loadWith(pooling: unknown, tokenizer: object = {}): Promise<Model> {
    const folder = mkdtempSync(join(tmpdir(), 'millrace-embedding-'))
    folders.push(folder)
    cpSync(DEMO, folder, { recursive: true })
    mkdirSync(join(folder, '1_Pooling'))
    writeFileSync(join(folder, '1_Pooling', 'config.json'), JSON.stringify(pooling))
    if ('add_eos_token' in tokenizer) {
      const path = join(folder, 'tokenizer_config.json')
      writeFileSync(path, JSON.stringify({ ...tokenizer, bos_token: '<|endoftext|>', eos_token: '<|endoftext|>' }))
    }
    return load(folder, { ...settings, cache: false })
  }

  test('1_Pooling/config.json chooses where the call does not', async () => {
    await using last = await loadWith({ pooling_mode_cls_token: false, pooling_mode_lasttoken: true })
    const [own, named] = await Promise.all([last.embed(texts[2]!), model.embed(texts[2]!, { pooling: 'last' })])
    expect(own.embeddings).toEqual(named.embeddings)
    const [over, mean] = await Promise.all([last.embed(texts[2]!, { pooling: 'mean' }), model.embed(texts[2]!)])
    expect(over.embeddings).toEqual(mean.embeddings)
    await using first = await loadWith({ pooling_mode_cls_token: true })
    expect((await first.embed(texts[2]!)).embeddings).toEqual(mean.embeddings)
  })

  test('an end token that the tokenizer puts after a text is there, and is none of a prompt', async () => {
    await using ended = await loadWith({}, { add_bos_token: false, add_eos_token: true })
    const end = ended.tokenizer.idOf('<|endoftext|>')!
    const bare = await ended.tokenizer.encode(texts[3]!)
    expect([...bare]).not.toContain(end)
    expect(await ended.tokenizer.encode(texts[3]!, { specialTokens: 'around' })).toEqual(Int32Array.of(...bare, end))
    const [text, ids] = await Promise.all([ended.embed(texts[3]!), ended.embed([...bare, end])])
    expect(text).toEqual(ids)
  })
})

describe('calls that go wrong', () => {
  const failing = (call: Promise<unknown>) =>
    call.then(
      () => 'none',
      (error) => `${error.code}: ${error.message}`,
    )

  test('arguments are told by name', async () => {
    const wrong = (given: unknown, options: object = {}) => failing(model.embed(given as string, options))
    expect(await wrong(7)).toMatch(/^INVALID_ARGUMENT: expected a text.* for texts but received/)
    expect(await wrong([])).toMatch(/^INVALID_ARGUMENT: expected at least one text/)
    expect(await wrong(['a', 7])).toMatch(/^INVALID_ARGUMENT: .*texts\[1\]/)
    expect(await wrong([[3, 99999]])).toMatch(/^INVALID_ARGUMENT: .*texts\[0\]\[1\]/)
    expect(await wrong('a', { pooling: 'cls' })).toMatch(/^INVALID_ARGUMENT: expected 'mean' or 'last'/)
    expect(await wrong('a', { poling: 'mean' })).toMatch(/^INVALID_ARGUMENT: .*poling/)
    expect(await wrong('a', { dimensions: 10_000 })).toMatch(/^INVALID_ARGUMENT: .*dimensions/)
    expect(await wrong('walks '.repeat(400))).toMatch(/^CONTEXT_OVERFLOW/)
  })

  test('one text too long fails the call, and the model goes on', async () => {
    expect(await failing(model.embed([...texts, 'walks '.repeat(400), ...texts]))).toMatch(/^CONTEXT_OVERFLOW/)
    expect((await model.embed(texts[0]!)).embeddings).toHaveLength(1)
  })

  test('an abort ends all of it, a closed model too', async () => {
    const controller = new AbortController()
    const aborted = failing(model.embed(texts, { signal: controller.signal }))
    controller.abort()
    expect(await aborted).toMatch(/^ABORTED/)
    expect(await failing(model.embed(texts, { signal: AbortSignal.abort() }))).toMatch(/^ABORTED/)
    const other = await load(DEMO, settings)
    const closed = failing(other.embed(texts))
    await other.close({ drain: false })
    expect(await closed).toMatch(/^MODEL_CLOSED/)
    expect(await failing(other.embed('a'))).toMatch(/^MODEL_CLOSED/)
  })

  test('a list takes turns within a short queue; a full one refuses a call', async () => {
    await using short = await load(DEMO, { ...settings, maxQueue: 2 })
    const [many, expected] = await Promise.all([short.embed(texts), model.embed(texts)])
    expect(many).toEqual(expected)
    // Of one tick, what is beyond the queue is refused whatever the engine does.
    const answers = [1, 2].map(() => short.generate('Once', { maxTokens: 1 }))
    expect(await failing(short.embed(texts))).toMatch(/^QUEUE_FULL/)
    await Promise.all(answers.map(({ result }) => result))
  })
})

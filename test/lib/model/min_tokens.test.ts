/** minTokens: what would end an answer does not before there are so many tokens, but where nothing else may come. */
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GenerateOptions, load, type Model } from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'

let model: Model
beforeAll(async () => {
  model = await load(join(MODELS, 'demo'), { device: 'cpu', threads: 1, contextLength: 256, maxSequences: 8 })
})
afterAll(() => model.close())

const PROMPT = 'Once upon a time'
const answer = (options: GenerateOptions) => model.generate(PROMPT, options).result

test('stop tokens come from then on, and no earlier', async () => {
  const { tokens } = await answer({ maxTokens: 40 })
  const stopTokens = [tokens[1]!, tokens[4]!]
  expect((await answer({ maxTokens: 40, stopTokens })).tokens.length).toBeLessThan(5)
  const held = await answer({ maxTokens: 40, stopTokens, minTokens: 12 })
  expect(held.tokens.length).toBeGreaterThanOrEqual(12)
  for (const token of held.tokens) expect(stopTokens).not.toContain(token)
  const forced = await answer({
    maxTokens: 40,
    stopTokens,
    minTokens: 12,
    logitBias: { [stopTokens[0]!]: 100 },
  })
  expect(forced.tokens).toHaveLength(12)
  expect(forced.finishReason).toBe('stop')
})

test('a stop text counts from the token after', async () => {
  const plain = await answer({ maxTokens: 40 })
  const stop = model.tokenizer.decode([plain.tokens[3]!]).trim()
  const stopped = await answer({ maxTokens: 40, stop })
  expect(stopped.text).toBe(plain.text.slice(0, plain.text.indexOf(stop)))
  // Complete with the token that is the last to not count, then with the first that does.
  const at = stopped.tokens.length
  const past = await answer({ maxTokens: 40, stop, minTokens: at })
  expect(past.text.startsWith(plain.text.slice(0, plain.text.indexOf(stop) + stop.length))).toBe(true)
  expect((await answer({ maxTokens: 40, stop, minTokens: at - 1 })).text).toBe(stopped.text)
})

test('a constraint that lets nothing follow ends the answer, one that does goes on', async () => {
  const ended = await answer({ maxTokens: 60, minTokens: 50, constraint: { choice: ['yes'] } })
  expect(ended).toMatchObject({ text: 'yes', finishReason: 'stop' })
  const digits = await answer({ maxTokens: 60, minTokens: 9, constraint: { regex: '[0-9]+' } })
  expect(digits.text).toMatch(/^[0-9]{9,}$/)
  expect(digits.tokens.length).toBeGreaterThanOrEqual(9)
})

test('so does one where what may follow is forbidden', async () => {
  const vocabulary = Array.from({ length: model.spec.vocab }, (_, token) => token)
  const logitBias = new Map(
    vocabulary
      .filter((token) => Buffer.from(model.tokenizer.bytesOf(token) ?? []).includes('b'))
      .map((token) => [token, Number.NEGATIVE_INFINITY]),
  )
  const ended = await answer({ maxTokens: 60, minTokens: 50, logitBias, constraint: { regex: 'ab?' } })
  expect(ended).toMatchObject({ text: 'a', finishReason: 'stop' })
})

test('answers of a crowd are those of each alone', async () => {
  const options = Array.from({ length: 12 }, (_, seed): GenerateOptions => {
    const common = { maxTokens: 30, temperature: 1.2, seed, logprobs: true, minTokens: 2 * seed }
    const rare = seed % 3 === 0 ? { constraint: { regex: '[a-z]+( [a-z]+)*' } } : { stopTokens: [seed + 300, 11] }
    return { ...common, ...rare, ...(seed % 2 === 0 ? { stop: ['the', 'e '], repetitionPenalty: 1.2 } : {}) }
  })
  const crowd = await Promise.all(options.map(answer))
  for (const [index, option] of options.entries()) {
    const { tokens, logprobs, text, finishReason } = await answer(option)
    expect({ tokens, logprobs, text, finishReason }).toEqual({
      tokens: crowd[index]!.tokens,
      logprobs: crowd[index]!.logprobs,
      text: crowd[index]!.text,
      finishReason: crowd[index]!.finishReason,
    })
    if (!option.constraint) expect(tokens.length).toBeGreaterThanOrEqual(option.minTokens!)
  }
})

test('more than maxTokens is told', () => {
  expect(() => model.generate(PROMPT, { maxTokens: 5, minTokens: 6 })).toThrow(
    expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(/minTokens/) }),
  )
})

/** Byte pair encoding, against that of @huggingface/tokenizers. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as library from '@huggingface/tokenizers'
import { expect, test } from 'vitest'
import { type ModelConfig, makeWordModel } from '../../../lib/text/tokenizer/words.ts'
import { MODELS } from '../../models.ts'

type Encode = (words: string[]) => string[]
const { BPE } = library as unknown as { BPE: new (config: object) => { encode: Encode } }

/** Ids of the library's pieces; an unknown one's is that of the unknown token, or none. */
function expected(config: ModelConfig): (word: string) => number[] {
  const vocabulary = config.vocab as Record<string, number>
  const bpe = new BPE({ ...config, type: 'BPE' })
  return (word) => bpe.encode([word]).flatMap((piece) => vocabulary[piece] ?? [])
}

function found(config: ModelConfig): (word: string) => number[] {
  const model = makeWordModel({ ...config, type: 'BPE' })
  return (word) => {
    const tokens: number[] = []
    model.encode(word, { push: (token) => tokens.push(token) })
    return tokens
  }
}

/** Numbers from 0 to `below` - 1 that are the same each time. */
function dice(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

function randomWord(roll: (below: number) => number, letters: readonly string[], most: number): string {
  return Array.from({ length: 1 + roll(most) }, () => letters[roll(letters.length)]).join('')
}

test.each(['demo', 'stories260k'])('%s: words of all lengths', (name) => {
  const { model } = JSON.parse(readFileSync(join(MODELS, name, 'tokenizer.json'), 'utf8')) as { model: ModelConfig }
  const [ours, theirs] = [found(model), expected(model)]
  const roll = dice(1)
  const tokens = Object.keys(model.vocab!)
  const letters = [...tokens.filter((text) => [...text].length === 1), 'é', '語', '😀']
  for (let round = 0; round < 400; round++) {
    const word = randomWord(roll, letters, 40) + randomWord(roll, tokens, 10)
    expect(ours(word), word).toEqual(theirs(word))
    expect(ours(word), word).toEqual(theirs(word))
  }
  for (const word of ['a'.repeat(5000), '\u2581'.repeat(3001), 'Ġ'.repeat(700), randomWord(roll, letters, 20_000)]) {
    expect(ours(word)).toEqual(theirs(word))
  }
})

test.each<[string, Partial<ModelConfig>]>([
  ['nothing more', {}],
  ['an unknown token', { unk_token: '?' }],
  ['an end of words', { unk_token: '?', end_of_word_suffix: '</w>' }],
  ['bytes', { unk_token: '?', byte_fallback: true }],
  ['bytes and an end of words', { byte_fallback: true, end_of_word_suffix: '</w>' }],
  ['whole words first', { ignore_merges: true }],
])('vocabularies by chance, with %s', (_, options) => {
  const roll = dice(7)
  for (let round = 0; round < 60; round++) {
    const vocab: Record<string, number> = { '?': 0 }
    const add = (text: string) => {
      vocab[text] ??= Object.keys(vocab).length
    }
    const end = options.end_of_word_suffix ?? ''
    for (const letter of 'abc😀') for (const text of [letter, letter + end]) add(text)
    const letters = Object.keys(vocab).filter((text) => text !== '?')
    const texts = [...letters]
    const merges: string[] = []
    for (let at = 0; at < 30; at++) {
      const [left, right] = [texts[roll(texts.length)]!, texts[roll(texts.length)]!]
      if (end !== '' && left.endsWith(end)) continue
      merges.push(`${left} ${right}`)
      texts.push(left + right)
      // Some symbols are no tokens.
      if (roll(8) > 0) add(left + right)
    }
    for (const byte of Buffer.from('xaé')) add(`<0x${byte.toString(16).toUpperCase()}>`)
    const config = { vocab, merges, ...options }
    const [ours, theirs] = [found(config), expected(config)]
    for (let at = 0; at < 60; at++) {
      const word = randomWord(roll, ['a', 'b', 'c', '😀', 'x', 'é', 'ab', 'aa'], at < 50 ? 12 : 400)
      expect(ours(word), `${word} of ${JSON.stringify(config)}`).toEqual(theirs(word))
    }
  }
})

test('one unknown token for a run of what is in no vocabulary, where it fuses', () => {
  const config = { vocab: { '?': 0, a: 1, b: 2, ab: 3 }, merges: [['a', 'b']], unk_token: '?' }
  expect(found({ ...config, fuse_unk: true })('xyabzza')).toEqual([0, 3, 0, 1])
  expect(found(config)('xyabzza')).toEqual([0, 0, 3, 0, 0, 1])
})

test.each([5, 'a b', [5], ['ab'], [['a']], [['a', 5]]])('refuses %j for merges', (merges) => {
  expect(() => makeWordModel({ type: 'BPE', vocab: { a: 0 }, merges })).toThrow(
    expect.objectContaining({ code: 'TOKENIZER_INVALID' }),
  )
})

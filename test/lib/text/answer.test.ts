import { join } from 'node:path'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { AnswerText } from '../../../lib/text/answer.ts'
import { readTokenizerFiles } from '../../../lib/text/tokenizer/files.ts'
import { Pieces } from '../../../lib/text/tokenizer/pieces.ts'
import { Tokenizer } from '../../../lib/text/tokenizer/tokenizer.ts'
import { MODELS } from '../../models.ts'

let pieces: Pieces
let encode: (text: string) => number[]
beforeAll(async () => {
  const tokenizer = new Tokenizer(await readTokenizerFiles(join(MODELS, 'demo')))
  pieces = new Pieces(tokenizer.table, tokenizer.rules)
  encode = (text) => [...tokenizer.encode(text, false)]
})

/** What is shown of a text's tokens, one after the other, and after which it stopped. */
function answer(stops: string[], text: string) {
  const shown = new AnswerText(pieces, stops)
  const parts: string[] = []
  const tokens = encode(text)
  for (const token of tokens) {
    parts.push(shown.push(token))
    if (shown.stopped) break
  }
  return { text: parts.join('') + shown.flush(), left: tokens.length - parts.length, stopped: shown.stopped }
}

describe('stop texts', () => {
  test('that are special tokens stop at the token, which is not in the text', () => {
    expect(answer(['<|user|>'], 'Once upon<|user|> a time')).toEqual({ text: 'Once upon', left: 2, stopped: true })
    expect(answer(['x', '<|assistant|>'], '<|user|>Once<|assistant|> a')).toEqual({
      text: 'Once',
      left: 1,
      stopped: true,
    })
  })
  test('that have special tokens among text', () => {
    expect(answer(['upon<|user|> a'], 'Once upon<|user|> a time')).toEqual({ text: 'Once ', left: 1, stopped: true })
    expect(answer(['<|user|><|assistant|>'], 'Once<|user|> a<|user|><|assistant|>')).toEqual({
      text: 'Once a',
      left: 0,
      stopped: true,
    })
  })
  test('that do not come leave special tokens out, as ever', () => {
    expect(answer(['<|user|>!'], 'Once<|user|> upon<|assistant|> a')).toEqual({
      text: 'Once upon a',
      left: 0,
      stopped: false,
    })
  })
  test('are found where the text is spelt out, too', () => {
    const shown = new AnswerText(pieces, ['<|user|>'])
    const spelt = [...encode('Once'), ...[...'<|user|>'].flatMap((letter) => encode(letter))]
    expect(spelt.map((token) => shown.push(token)).join('')).toBe('Once')
    expect(shown.stopped).toBe(true)
  })
  test('without special tokens see the text alone', () => {
    expect(answer(['ce up'], 'Once<|user|> upon')).toEqual({ text: 'On', left: 0, stopped: true })
  })

  test('whatever comes, the text is what is before the first of them, without special tokens', () => {
    const parts = fc.array(fc.constantFrom('<|user|>', '<|assistant|>', 'a', 'b', ' a'), { maxLength: 12 })
    fc.assert(
      fc.property(
        parts,
        fc.array(fc.constantFrom('a<|user|>', '<|user|>b', '<|user|><|user|>', 'ab')),
        (all, stops) => {
          const watched = stops.some((stop) => stop.includes('<|user|>'))
          const seen = all
            .join('')
            .replaceAll('<|assistant|>', '')
            .replaceAll(watched ? '' : '<|user|>', '')
          const ends = stops
            .map((stop) => seen.indexOf(stop) + stop.length)
            .filter((end, index) => end >= stops[index]!.length)
          const first = Math.min(...ends)
          const starts = stops.filter((stop) => seen.slice(0, first).endsWith(stop)).map((stop) => first - stop.length)
          const expected = starts.length > 0 ? seen.slice(0, Math.min(...starts)) : seen
          const found = answer(stops, all.join(''))
          expect(found.text).toBe(expected.replaceAll('<|user|>', ''))
          expect(found.stopped).toBe(starts.length > 0)
        },
      ),
      { numRuns: 1000 },
    )
  })
})

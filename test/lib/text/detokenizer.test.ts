import { join } from 'node:path'
import { Tokenizer as HubTokenizer } from '@huggingface/tokenizers'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { Detokenizer } from '../../../lib/text/detokenizer.ts'
import { type DecoderConfig, makePieces } from '../../../lib/text/pieces.ts'
import { readTokenizerFiles, Tokenizer } from '../../../lib/text/tokenizer.ts'
import { findModel, MODELS } from '../../models.ts'

function streamed(tokenizer: Tokenizer, prompt: number[], tokens: number[]): string[] {
  const detokenizer = new Detokenizer(tokenizer.pieces, prompt)
  return [...tokens.map((token) => detokenizer.push(token)), detokenizer.flush()]
}

const folders = [join(MODELS, 'demo'), join(MODELS, 'stories260k'), findModel('smollm2-135m')].filter(
  (dir) => dir !== undefined,
)

describe.each(folders)('%s', (folder) => {
  let tokenizer: Tokenizer
  let hub: HubTokenizer
  let vocabulary: number
  beforeAll(async () => {
    const files = await readTokenizerFiles(folder)
    tokenizer = new Tokenizer(files)
    hub = new HubTokenizer(files.tokenizer, files.config)
    vocabulary = tokenizer.pieces.bytes.length
  })
  const ids = () => fc.array(fc.nat({ max: vocabulary - 1 }), { maxLength: 24 })

  test('chunks are the decoded text, and no chunk has half a code point', () => {
    fc.assert(
      fc.property(ids(), (tokens) => {
        const chunks = streamed(tokenizer, [], tokens)
        expect(chunks.join('')).toBe(tokenizer.decode(tokens))
        for (const chunk of chunks) expect(chunk).not.toMatch(/\p{Surrogate}/u)
      }),
      { numRuns: 500 },
    )
  })

  test('decodes as the tokenizer library does, special tokens left out', () => {
    fc.assert(
      fc.property(ids(), (tokens) => {
        const expected =
          tokens.length === 0
            ? ''
            : hub.decode(tokens, { skip_special_tokens: true, clean_up_tokenization_spaces: false })
        expect(tokenizer.decode(tokens)).toBe(expected)
      }),
      { numRuns: 500 },
    )
  })

  test('prompt and answer together decode to the prompt and what was streamed', () => {
    fc.assert(
      fc.property(ids(), ids(), (prompt, tokens) => {
        // Whole code points, as the tokens of a text have: what a cut one shows as depends on what follows it.
        fc.pre(!tokenizer.decode(prompt).includes('\uFFFD'))
        expect(tokenizer.decode(prompt) + streamed(tokenizer, prompt, tokens).join('')).toBe(
          tokenizer.decode([...prompt, ...tokens]),
        )
      }),
      { numRuns: 500 },
    )
  })

  test('any text survives encoding and streaming', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 30 }), fc.boolean(), (text, asAnswer) => {
        const tokens = tokenizer.encode(text, false)
        // Texts that spell out a special token show nothing of it.
        fc.pre(tokens.every((token) => tokenizer.pieces.bytes[token] !== undefined))
        if (!asAnswer) expect(streamed(tokenizer, [], tokens).join('')).toBe(text)
        else expect(streamed(tokenizer, tokenizer.encode('Hi'), tokens).join('').trimStart()).toBe(text.trimStart())
      }),
      { numRuns: 300 },
    )
  })

  test('an emoji comes whole, when its last token is there', () => {
    const tokens = tokenizer.encode('🎉', false)
    const chunks = streamed(tokenizer, [], tokens)
    expect(chunks.filter((chunk) => chunk !== '' && chunk !== ' ')).toEqual(['🎉'])
  })

  test('a code point that never ends shows as U+FFFD at the end', () => {
    const tokens = tokenizer.encode('🎉', false).slice(0, -1)
    expect(streamed(tokenizer, [], tokens).join('')).toBe('\uFFFD')
  })

  test('an answer completes a code point that a prompt of tokens left open', () => {
    const tokens = tokenizer.encode('🎉', false)
    expect(streamed(tokenizer, tokens.slice(0, -1), tokens.slice(-1)).join('')).toBe('🎉')
  })

  test('ids beyond the vocabulary show nothing', () => {
    expect(tokenizer.decode([vocabulary, vocabulary + 1000])).toBe('')
  })
})

describe('spaces of metaspace tokenizers', () => {
  test('the first word of a text loses its space, the first word of an answer keeps it', async () => {
    const tokenizer = new Tokenizer(await readTokenizerFiles(join(MODELS, 'stories260k')))
    const once = tokenizer.encode('Once', false)
    expect(tokenizer.decode(once)).toBe('Once')
    expect(streamed(tokenizer, [1], once).join('')).toBe('Once')
    expect(streamed(tokenizer, tokenizer.encode('Then'), once).join('')).toBe(' Once')
  })
})

describe('makePieces', () => {
  const vocabulary = new Map([
    ['▁a', 0],
    ['<0xE2>', 1],
    ['b', 2],
  ])
  test('Metaspace decoder', () => {
    const pieces = makePieces(vocabulary, [], { type: 'Metaspace', replacement: '▁' })
    const detokenizer = new Detokenizer(pieces)
    expect([0, 2, 0].map((token) => detokenizer.push(token))).toEqual(['a', 'b', ' a'])
  })
  test('no decoder at all: pieces as they are', () => {
    expect(new Detokenizer(makePieces(vocabulary, [], null)).push(1)).toBe('<0xE2>')
  })
  test.each<DecoderConfig>([
    { type: 'WordPiece' },
    { type: 'Sequence', decoders: [{ type: 'CTC' }] },
    { type: 'Strip', content: '_' },
  ])('refuses a decoder that it does not know, by name: $type', (decoder) => {
    expect(() => makePieces(vocabulary, [], decoder)).toThrowError(
      expect.objectContaining({ code: 'TOKENIZER_INVALID' }),
    )
  })
})

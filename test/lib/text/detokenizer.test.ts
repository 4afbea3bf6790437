import { join } from 'node:path'
import { Tokenizer as HubTokenizer } from '@huggingface/tokenizers'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { Detokenizer, detokenize } from '../../../lib/text/detokenizer.ts'
import { compileDecoder, type DecoderConfig } from '../../../lib/text/tokenizer/decoder.ts'
import { readTokenizerFiles } from '../../../lib/text/tokenizer/files.ts'
import { makeTable, Pieces } from '../../../lib/text/tokenizer/pieces.ts'
import { Tokenizer } from '../../../lib/text/tokenizer/tokenizer.ts'
import { findModel, MODELS } from '../../models.ts'

/** A tokenizer in this thread. */
class Codec {
  readonly pieces: Pieces
  readonly #tokenizer: Tokenizer

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
    this.pieces = new Pieces(tokenizer.table, tokenizer.rules)
  }
  encode(text: string, specialTokens = true): number[] {
    return [...this.#tokenizer.encode(text, specialTokens)]
  }
  decode(tokens: number[]): string {
    return detokenize(this.pieces, tokens)
  }
}

function streamed(tokenizer: Codec, prompt: number[], tokens: number[]): string[] {
  const detokenizer = new Detokenizer(tokenizer.pieces, prompt)
  return [...tokens.map((token) => detokenizer.push(token)), detokenizer.flush()]
}

const folders = [join(MODELS, 'demo'), join(MODELS, 'stories260k'), findModel('smollm2-135m')].filter(
  (dir) => dir !== undefined,
)

describe.each(folders)('%s', (folder) => {
  let tokenizer: Codec
  let hub: HubTokenizer
  let vocabulary: number
  beforeAll(async () => {
    const files = await readTokenizerFiles(folder)
    tokenizer = new Codec(new Tokenizer(files))
    hub = new HubTokenizer(files.tokenizer as never, files.config as never)
    vocabulary = tokenizer.pieces.size
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
        // SentencePiece writes a space so, and cannot tell them apart.
        fc.pre(!text.includes('▁'))
        // Texts that spell out a special token show nothing of it.
        fc.pre(tokens.every((token) => tokenizer.pieces.bytes(token) !== undefined))
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
    const tokenizer = new Codec(new Tokenizer(await readTokenizerFiles(join(MODELS, 'stories260k'))))
    const once = tokenizer.encode('Once', false)
    expect(tokenizer.decode(once)).toBe('Once')
    expect(streamed(tokenizer, [1], once).join('')).toBe('Once')
    expect(streamed(tokenizer, tokenizer.encode('Then'), once).join('')).toBe(' Once')
  })
})

/** Pieces of a vocabulary whose ids are the order of its texts. */
function piecesOf(texts: string[], decoder: DecoderConfig | null, cleanUp = false): Pieces {
  const { toBytes, rules } = compileDecoder(decoder, cleanUp)
  return new Pieces(makeTable(texts.map((text, id) => ({ id, text, bytes: toBytes(text), special: false }))), rules)
}

describe('decoders', () => {
  const texts = ['▁a', '<0xE2>', 'b', '▁▁']
  const shown = (decoder: DecoderConfig | null, tokens: number[]) => {
    const detokenizer = new Detokenizer(piecesOf(texts, decoder))
    return [...tokens.map((token) => detokenizer.push(token)), detokenizer.flush()]
  }
  test('Metaspace: the first token of a text has no space, unless none was put there', () => {
    expect(shown({ type: 'Metaspace', replacement: '▁' }, [0, 2, 0])).toEqual(['a', 'b', ' a', ''])
    expect(shown({ type: 'Metaspace', replacement: '▁', prepend_scheme: 'never' }, [0, 2, 0])).toEqual([
      ' a',
      'b',
      ' a',
      '',
    ])
  })
  test('no decoder at all: tokens as they are, a space between two', () => {
    expect(shown(null, [1, 2])).toEqual(['<0xE2>', ' b', ''])
  })
  test('Strip takes off what the end may have, when it is known to be the end', () => {
    const decoder = {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 1 },
      ],
    }
    expect(shown(decoder, [3, 2, 3, 2, 3])).toEqual(['', ' b', ' ', ' b', ' ', ''])
  })
  test.each<DecoderConfig>([
    { type: 'WordPiece' },
    { type: 'Sequence', decoders: [{ type: 'CTC' }] },
    { type: 'Sequence', decoders: [{ type: 'Fuse' }, { type: 'ByteFallback' }] },
    { type: 'Sequence', decoders: [{ type: 'Fuse' }, { type: 'Replace', pattern: { String: 'ab' }, content: '' }] },
  ])('refuses a decoder that it does not know, by name (%#)', (decoder) => {
    expect(() => compileDecoder(decoder, false)).toThrowError(
      expect.objectContaining({ code: 'TOKENIZER_INVALID', message: expect.stringContaining('decoder') }),
    )
  })
})

test('the table knows every token by its text, the later one where two have it', () => {
  const bytes = Buffer.from('x')
  const entry = (id: number, text: string, special = false) => ({ id, text, bytes, special })
  const pieces = new Pieces(
    makeTable([entry(0, 'a'), entry(1, ''), entry(7, 'Ġ日本'), entry(5, 'b'), entry(2, 'b'), entry(7, '<s>', true)]),
    { separator: '', firstLoses: undefined, strip: undefined, cleanUp: false },
  )
  expect(['a', '', 'b', '<s>', 'Ġ日本', 'c'].map((text) => pieces.idOf(text))).toEqual([
    0,
    1,
    2,
    7,
    undefined,
    undefined,
  ])
  expect([0, 3, 5, 7, 8, -1, 0.5].map((id) => pieces.text(id))).toEqual([
    'a',
    undefined,
    'b',
    '<s>',
    undefined,
    undefined,
    undefined,
  ])
  expect([0, 3, 7].map((id) => pieces.bytes(id)?.length)).toEqual([1, undefined, undefined])
  expect([pieces.size, ...pieces.specials]).toEqual([8, [7, '<s>']])
})

test('spaces that are cleaned up are those of the whole text, however it comes', () => {
  const texts = [' ', '.', "'", 'n', 't', 's', 've', 're', 'm', 'ab', 'x', '!', '日本']
  const pieces = piecesOf(texts, { type: 'Fuse' }, true)
  const whole = (text: string) =>
    [' .', ' ?', ' !', ' ,', " ' ", " n't", " 'm", " 's", " 've", " 're"].reduce(
      (now, from) => now.replaceAll(from, from === " ' " ? "'" : from.slice(1)),
      text,
    )
  fc.assert(
    fc.property(fc.array(fc.nat({ max: texts.length - 1 }), { maxLength: 20 }), (tokens) => {
      expect(detokenize(pieces, tokens)).toBe(whole(tokens.map((token) => texts[token]).join('')))
    }),
    { numRuns: 3000 },
  )
})

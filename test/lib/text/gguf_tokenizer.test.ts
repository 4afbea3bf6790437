/** Tokenizers of GGUF metadata: the vocabularies that llama.cpp ships for its own tests, with its ids; and kinds by hand. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { readGgufTokenizer } from '../../../lib/checkpoint/gguf/tokenizer.ts'
import { ggufTokenizerFiles } from '../../../lib/text/tokenizer/gguf.ts'
import { SPLITTINGS } from '../../../lib/text/tokenizer/gguf_splits.ts'
import { loadTokenizer } from '../../../lib/text/tokenizer/load.ts'
import { compilePreTokenizer } from '../../../lib/text/tokenizer/pretokenizer.ts'
import { Tokenizer } from '../../../lib/text/tokenizer/tokenizer.ts'
import { findFile } from '../../models.ts'
import { bool, type GgufMetadata, ggufBytes, text, texts, u32 } from '../../reference/gguf.ts'
import { temporaryFolder } from '../folder.ts'

describe('every text of every vocabulary has its ids', () => {
  for (const name of ['gpt-2', 'llama-bpe', 'phi-3', 'qwen2']) {
    const file = `ggml-vocab-${name}.gguf`
    const folder = findFile('vocab', file)
    test.skipIf(!folder)(name, async () => {
      const path = join(folder!, file)
      await using tokenizer = await loadTokenizer(path)
      const all = readFileSync(`${path}.inp`, 'utf8').split('\n__ggml_vocab_test__\n')
      const ids = readFileSync(`${path}.out`, 'utf8').split('\n')
      expect(all.length).toBeGreaterThan(40)
      const expected = all.map((_, index) => ids[index]!.split(' ').filter(Boolean).map(Number))
      const found = []
      for (const sample of all) found.push([...(await tokenizer.encode(sample, { specialTokens: false }))])
      expect(found).toEqual(expected)
      for (const [index, sample] of all.entries()) expect(tokenizer.decode(expected[index]!)).toBe(sample)
    })
  }
})

/** Ids of node-llama-cpp 3.22.1, of GPT-2's vocabulary cut by other names' rules. */
const CUT: { texts: string[]; ids: Record<string, string[]> } = JSON.parse(
  readFileSync(join(import.meta.dirname, 'gguf_splits.json'), 'utf8'),
)

describe('every name that llama.cpp has for how a text is cut', () => {
  const folder = findFile('vocab', 'ggml-vocab-gpt-2.gguf')
  const source = folder === undefined ? undefined : readGgufTokenizer(join(folder, 'ggml-vocab-gpt-2.gguf'))
  for (const [pre, ids] of Object.entries(CUT.ids)) {
    test.skipIf(!source)(`${pre}: the ids that llama.cpp has`, () => {
      const tokenizer = new Tokenizer(ggufTokenizerFiles({ ...source!, pre }))
      expect(CUT.texts.map((sample) => tokenizer.encode(sample, false).join(' '))).toEqual(ids)
    })
  }

  /** Words as they are cut, spelt again as in the text. */
  function cut(pre: string, sample: string): string[] {
    const words: string[] = []
    const pretokenizers = SPLITTINGS[pre]!.patterns.map((Regex) => ({
      type: 'Split',
      pattern: { Regex },
      behavior: 'Isolated',
    }))
    compilePreTokenizer({ type: 'Sequence', pretokenizers })(sample, true, (word) => words.push(word))
    return words
  }

  test.each(Object.keys(SPLITTINGS))('%s loses nothing', (pre) => {
    for (const sample of CUT.texts) expect(cut(pre, sample).join('')).toBe(sample)
  })

  test.each([
    // What llama.cpp only comes near.
    ['tekken', 'ÉCOLEéÉ e\u0301t', ['ÉCOLEé', 'É', ' e\u0301t']],
    ['gpt-4o', 'ÉCOLEéÉ', ['ÉCOLEé', 'É']],
    ['tiny_aya', '12345 1234天', ['12', '345', ' ', '123', '4', '天']],
    ['afmoe', '12345 1234567', ['12', '345', ' ', '1', '234', '567']],
    ['superbpe', 'a12345', ['a', '12', '345']],
    ['kimi-k2', 'a漢字b', ['a', '漢字', 'b']],
    ['qwen35', 'e\u0301a', ['e\u0301a']],
    ['qwen2', 'e\u0301a', ['e', '\u0301a']],
  ])('%s cuts %j', (pre, sample, wanted) => {
    expect(cut(pre, sample)).toEqual(wanted)
  })
})

/** SentencePiece with three merges, bytes for all else. */
function sentencePiece(extra: GgufMetadata = {}): GgufMetadata {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  const pieces = ['\u2581', 'a', 'b', 'ab', '\u2581a', '\u2581ab', 'ba']
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, ...pieces, '<|user|>']
  const scores = tokens.map((_, id) => -id)
  const types = tokens.map((_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : id === tokens.length - 1 ? 4 : 1))
  return {
    'general.architecture': text('llama'),
    'tokenizer.ggml.model': text('llama'),
    'tokenizer.ggml.tokens': texts(tokens),
    'tokenizer.ggml.scores': { type: 'array', of: 'f32', value: scores },
    'tokenizer.ggml.token_type': { type: 'array', of: 'i32', value: types },
    'tokenizer.ggml.bos_token_id': u32(1),
    'tokenizer.ggml.eos_token_id': u32(2),
    'tokenizer.ggml.unknown_token_id': u32(0),
    'tokenizer.chat_template': text('{{ bos_token }}{{ messages[0].content }}'),
    ...extra,
  }
}

const write = async (metadata: GgufMetadata) =>
  join(await temporaryFolder({ 'v.gguf': ggufBytes(metadata, []) }), 'v.gguf')
const open = async (metadata: GgufMetadata) => {
  const tokenizer = await loadTokenizer(await write(metadata))
  const encode = async (sample: string, specialTokens = true) => [
    ...(await tokenizer.encode(sample, { specialTokens })),
  ]
  return {
    encode,
    decode: (ids: number[]) => tokenizer.decode(ids),
    bosToken: tokenizer.bosToken,
    eosToken: tokenizer.eosToken,
    chatTemplate: tokenizer.chatTemplate,
  }
}

describe('llama', () => {
  const id = { space: 259, a: 260, b: 261, ab: 262, spaceA: 263, spaceAb: 264, ba: 265, user: 266 }

  test('merges by scores, bytes for what is no token, the first token where it is wanted', async () => {
    const tokenizer = await open(sentencePiece())
    // 'ab' has a higher score than '\u2581a', so it is merged first.
    expect(await tokenizer.encode('ab')).toEqual([1, id.spaceAb])
    expect(await tokenizer.encode('aab', false)).toEqual([id.spaceA, id.ab])
    expect(await tokenizer.encode('\u00e9', false)).toEqual([id.space, 3 + 0xc3, 3 + 0xa9])
    expect(await tokenizer.encode('a<|user|>a', false)).toEqual([id.spaceA, id.user, id.spaceA])
    expect(await tokenizer.encode('', false)).toEqual([])
    expect(tokenizer.decode([1, id.spaceAb, id.spaceA, 3 + 0xc3, 3 + 0xa9, 2])).toBe('ab a\u00e9')
    expect([tokenizer.bosToken, tokenizer.eosToken]).toEqual(['<s>', '</s>'])
  })

  test('settings of the file', async () => {
    const without = await open(
      sentencePiece({
        'tokenizer.ggml.add_bos_token': bool(false),
        'tokenizer.ggml.add_space_prefix': bool(false),
        'tokenizer.ggml.add_eos_token': bool(true),
      }),
    )
    // What comes after a text is not put there: it is to be continued.
    expect(await without.encode('ab')).toEqual([id.ab])
    expect(without.decode([id.spaceAb])).toBe(' ab')
    expect((await open(sentencePiece())).chatTemplate).toBe('{{ bos_token }}{{ messages[0].content }}')
  })
})

describe('gemma4', () => {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  const tokens = [
    '<pad>',
    '<eos>',
    '<bos>',
    '<unk>',
    ...bytes,
    '\n',
    '\n\n',
    '\u2581',
    'a',
    'b',
    '\u2581a',
    'ab',
    '<|turn>',
  ]
  const id = (token: string) => tokens.indexOf(token)
  const types = tokens.map((_, at) => (at < 3 || at === tokens.length - 1 ? 3 : at === 3 ? 2 : at < 260 ? 6 : 1))
  const gemma = (extra: GgufMetadata = {}): GgufMetadata => ({
    'general.architecture': text('gemma4'),
    'tokenizer.ggml.model': text('gemma4'),
    'tokenizer.ggml.tokens': texts(tokens),
    'tokenizer.ggml.token_type': { type: 'array', of: 'i32', value: types },
    'tokenizer.ggml.merges': texts(['\u2581 a', 'a b', '\n \n']),
    'tokenizer.ggml.bos_token_id': u32(2),
    'tokenizer.ggml.eos_token_id': u32(1),
    'tokenizer.ggml.unknown_token_id': u32(3),
    'tokenizer.ggml.add_bos_token': bool(false),
    ...extra,
  })

  test('marked spaces, merges in their order, bytes for all else, and always the first token', async () => {
    const { encode, decode } = await open(gemma())
    const ids = ['\u2581a', 'b', 'ab', '\u2581', '\u2581a', '\n\n', '\n', '<0xC3>', '<0xA9>', '<|turn>', 'a'].map(id)
    const sample = ' abab  a\n\n\n\u00e9<|turn>a'
    expect(await encode(sample, false)).toEqual(ids)
    expect((await encode('a'))[0]).toBe(2)
    expect(decode(ids)).toBe(sample.replace('<|turn>', ''))
  })

  test('the same rules by the name of another kind', async () => {
    const other = { 'tokenizer.ggml.model': text('gpt2'), 'tokenizer.ggml.pre': text('sarvam-moe') }
    expect(await (await open(gemma(other))).encode(' ab')).toEqual([id('\u2581a'), id('b')])
  })
})

test.each([
  [{ 'tokenizer.ggml.model': text('gpt2'), 'tokenizer.ggml.merges': texts(['ab']) }, 'TOKENIZER_INVALID', /merges.*ab/],
  [{ 'tokenizer.ggml.model': text('rwkv') }, 'TOKENIZER_INVALID', /v\.gguf.*tokenizer\.ggml\.model.*rwkv/],
  [
    { 'tokenizer.ggml.model': text('gpt2'), 'tokenizer.ggml.pre': text('strange') },
    'TOKENIZER_INVALID',
    /v\.gguf.*tokenizer\.ggml\.pre.*strange.*llama-bpe/,
  ],
  [{ 'tokenizer.ggml.model': text('gpt2') }, 'TOKENIZER_INVALID', /tokenizer\.ggml\.merges/],
  [
    { 'tokenizer.ggml.token_type': { type: 'array', of: 'i32', value: [1] } },
    'CHECKPOINT_INVALID',
    /token_type.*267.*1/,
  ],
] as [GgufMetadata, string, RegExp][])('%o is refused by name', async (extra, code, message) => {
  await expect(open(sentencePiece(extra))).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
})

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { detokenize } from '../../../lib/text/detokenizer.ts'
import { readTokenizerFiles, type TokenizerFiles } from '../../../lib/text/tokenizer/files.ts'
import { Pieces } from '../../../lib/text/tokenizer/pieces.ts'
import { Tokenizer } from '../../../lib/text/tokenizer/tokenizer.ts'
import { findModel, MODELS } from '../../models.ts'

/** A tokenizer in this thread, whose ids are arrays. */
function codec(files: TokenizerFiles) {
  const tokenizer = new Tokenizer(files)
  return { encode: (text: string, specialTokens?: boolean) => [...tokenizer.encode(text, specialTokens)] }
}
const open = async (folder: string) => codec(await readTokenizerFiles(folder))

describe('first tokens', () => {
  test('demo: by its post-processor, once', async () => {
    const tokenizer = await open(join(MODELS, 'demo'))
    expect(tokenizer.encode('Once upon a time')).toEqual([0, 559, 590, 259, 433])
    expect(tokenizer.encode('Once upon a time', false)).toEqual([559, 590, 259, 433])
    expect(tokenizer.encode('')).toEqual([0])
  })
  test('stories260k: <s> and a space before the text', async () => {
    const tokenizer = await open(join(MODELS, 'stories260k'))
    expect(tokenizer.encode('Once upon a time')).toEqual([1, 403, 407, 261, 378])
    expect(tokenizer.encode('')).toEqual([1])
  })
  const smollm = findModel('smollm2-135m')
  test.skipIf(!smollm)('smollm2: none', async () => {
    const tokenizer = await open(smollm!)
    expect(tokenizer.encode('Once upon a time')).toEqual([6403, 1980, 253, 655])
    expect(tokenizer.encode('')).toEqual([])
    expect(tokenizer.encode('<|im_start|>user')).toEqual([1, 4093])
  })
})

describe('add_bos_token', () => {
  let files: TokenizerFiles
  beforeEach(async () => {
    files = await readTokenizerFiles(join(MODELS, 'stories260k'))
  })
  const encode = (tokenizer: object, config: object, text = 'Once') =>
    codec({ tokenizer: { ...files.tokenizer, ...tokenizer }, config: { ...files.config, ...config } }).encode(text)

  test('adds the token where the post-processor does not', () => {
    expect(
      encode({ post_processor: null }, { add_bos_token: true, tokenizer_class: 'PreTrainedTokenizerFast' }),
    ).toEqual([1, 403])
    expect(encode({ post_processor: null }, { add_bos_token: undefined, tokenizer_class: 'LlamaTokenizer' })).toEqual([
      1, 403,
    ])
    expect(encode({ post_processor: null }, { add_bos_token: undefined, tokenizer_class: 'GPT2Tokenizer' })).toEqual([
      403,
    ])
  })
  test.each(['LlamaTokenizer', 'PreTrainedTokenizerFast', 'Qwen2Tokenizer'])(
    'takes the place of the post-processor, as in transformers 5: %s',
    (tokenizer_class) => {
      const post_processor = {
        type: 'TemplateProcessing',
        single: [{ SpecialToken: { id: '</s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
        special_tokens: { '</s>': { id: '</s>', ids: [2], tokens: ['</s>'] } },
      }
      const neither = { tokenizer_class, add_bos_token: undefined, add_eos_token: undefined }
      expect(encode({ post_processor }, neither)).toEqual([2, 403])
      expect(encode({ post_processor }, { ...neither, add_bos_token: true })).toEqual([1, 403])
      expect(encode({ post_processor }, { ...neither, add_bos_token: false })).toEqual([403])
      expect(encode({}, { ...neither, add_bos_token: true })).toEqual([1, 403])
      expect(encode({}, { ...neither, add_bos_token: false })).toEqual([403])
    },
  )
  test('a setting of the last token alone takes the first one away, but of Llama’s classes', () => {
    const last = { add_bos_token: undefined, add_eos_token: true }
    expect(encode({}, { ...last, tokenizer_class: 'PreTrainedTokenizerFast' })).toEqual([403])
    expect(encode({}, { ...last, tokenizer_class: 'LlamaTokenizerFast' })).toEqual([1, 403])
  })
  test('a text that begins with the token itself gets another, as there', () => {
    expect(encode({}, { add_bos_token: true }, '<s>Once')[1]).toBe(1)
  })
  test('the token may be given as an object', () => {
    expect(encode({ post_processor: null }, { bos_token: { content: '<s>' }, add_bos_token: true })).toEqual([1, 403])
  })
})

describe('tokens that a tokenizer puts after a text', () => {
  const special = (id: string) => ({ SpecialToken: { id, type_id: 0 } })
  const template = {
    type: 'TemplateProcessing',
    single: [special('<s>'), { Sequence: { id: 'A', type_id: 0 } }, special('</s>')],
    pair: [],
    special_tokens: {
      '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] },
      '</s>': { id: '</s>', ids: [2], tokens: ['</s>'] },
    },
  }
  const roberta = { type: 'RobertaProcessing', sep: ['</s>', 2], cls: ['<s>', 1], trim_offsets: true }
  test.each([
    ['a template', template],
    ['Roberta', roberta],
    ['Bert', { ...roberta, type: 'BertProcessing' }],
    ['a sequence', { type: 'Sequence', processors: [{ type: 'ByteLevel' }, template] }],
  ])('are not put after one that is to be continued: %s', async (_, processor) => {
    const { tokenizer, config } = await readTokenizerFiles(join(MODELS, 'stories260k'))
    for (const add_eos_token of [true, false, undefined]) {
      const made = codec({
        tokenizer: { ...tokenizer, post_processor: processor },
        config: { ...config, add_bos_token: undefined, add_eos_token },
      })
      expect(made.encode('Once')).toEqual([1, 403])
      expect(made.encode('Once</s>')).toEqual([1, 403, 2])
      expect(made.encode('Once', false)).toEqual([403])
    }
  })
  test('a sequence puts what comes later around what came before', async () => {
    const { tokenizer } = await readTokenizerFiles(join(MODELS, 'stories260k'))
    const other = { ...roberta, cls: ['</s>', 2] }
    const post_processor = { type: 'Sequence', processors: [template, other] }
    expect(codec({ tokenizer: { ...tokenizer, post_processor }, config: {} }).encode('Once')).toEqual([2, 1, 403])
  })
})

describe("Llama's classes with add_prefix_space: false", () => {
  const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false }
  test.each([
    ['a normalizer that prepends', {}],
    ['metaspaces', { normalizer: null, pre_tokenizer: metaspace, decoder: metaspace }],
  ])('put no space before a text, and take none off: %s', async (_, parts) => {
    const { tokenizer, config } = await readTokenizerFiles(join(MODELS, 'stories260k'))
    const made = (add_prefix_space: boolean) => {
      const whole = new Tokenizer({ tokenizer: { ...tokenizer, ...parts }, config: { ...config, add_prefix_space } })
      const pieces = new Pieces(whole.table, whole.rules)
      return ['fox', ' fox'].map((text) => detokenize(pieces, whole.encode(text, false)))
    }
    expect(made(false)).toEqual(['fox', ' fox'])
    expect(made(true)[0]).toBe('fox')
  })
})

test('a lone surrogate becomes U+FFFD instead of a failure', async () => {
  const tokenizer = await open(join(MODELS, 'demo'))
  expect(tokenizer.encode('a\uD83Cb')).toEqual(tokenizer.encode('a\uFFFDb'))
})

const json = (parts: object, model: object = {}) =>
  JSON.stringify({ model: { type: 'BPE', vocab: { a: 0 }, merges: [], ...model }, ...parts })

describe('files that are not right', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-tokenizer-'))
  })
  afterEach(() => rm(folder, { recursive: true }))

  test.each([
    ['no file', undefined, /expected tokenizer\.json, found none/],
    ['no JSON', '{', /tokenizer\.json: expected JSON/],
    ['no model', '{}', /tokenizer\.json: field 'model'/],
    ['a model of no kind', '{"model":{}}', /tokenizer\.json could not be read/],
    [
      'a model with a prefix',
      json({}, { continuing_subword_prefix: '##' }),
      /continuing_subword_prefix is not supported/,
    ],
    ['a model that forgets', json({}, { dropout: 0.1 }), /dropout is not supported/],
    ['a normalizer', json({ normalizer: { type: 'Nmt' } }), /normalizer 'Nmt' is not supported/],
    ['a pre-tokenizer', json({ pre_tokenizer: { type: 'UnicodeScripts' } }), /pre-tokenizer 'UnicodeScripts'/],
    [
      'a behavior',
      json({ pre_tokenizer: { type: 'Punctuation', behavior: 'Merged' } }),
      /behavior 'Merged' of a pre-tokenizer is not supported/,
    ],
    [
      'a pattern',
      json({ pre_tokenizer: { type: 'Split', pattern: { Regex: '(' }, behavior: 'Removed', invert: false } }),
      /the pattern \(: /,
    ],
    ['a post-processor', json({ post_processor: { type: 'Own' } }), /post-processor 'Own' is not supported/],
    ['a decoder', json({ decoder: { type: 'CTC' } }), /decoder 'CTC' is not supported/],
    ['an id beyond all', json({ added_tokens: [{ id: 2 ** 31, content: 'x' }] }), /field 'added_tokens\.0\.id'/],
    ['an id of the vocabulary beyond all', json({}, { vocab: { a: 2 ** 31 } }), /an id from 0 to \d+ for "a"/],
    ['an id below all', json({}, { vocab: { a: -1 } }), /an id from 0 to \d+ for "a" in the vocabulary, found -1/],
    ['an id that is none', json({}, { vocab: { a: 'x' } }), /for "a" in the vocabulary, found "x"/],
    [
      'a word that is none',
      json({}, { type: 'WordLevel', vocab: { a: 0.5 } }),
      /for "a" in the vocabulary, found 0\.5/,
    ],
    ['no vocabulary', json({}, { vocab: undefined }), /a vocabulary of texts and their ids, found nothing/],
    [
      'no scores',
      json({}, { type: 'Unigram', vocab: [['a']] }),
      /a piece and its score in the vocabulary, found \["a"\]/,
    ],
    [
      'a template that is none',
      json({ post_processor: { type: 'TemplateProcessing', single: '<s> $A' } }),
      /'post_processor/,
    ],
  ])('%s', async (_, content, message) => {
    if (content !== undefined) await writeFile(join(folder, 'tokenizer.json'), content)
    await expect(open(folder)).rejects.toThrowError(
      expect.objectContaining({ code: 'TOKENIZER_INVALID', message: expect.stringMatching(message) }),
    )
  })
})

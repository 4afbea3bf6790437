import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { readTokenizerFiles, type TokenizerFiles } from '../../../lib/text/tokenizer/files.ts'
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
  test('false takes it away from the Llama classes alone', () => {
    expect(encode({}, { add_bos_token: false })).toEqual([403])
    expect(encode({}, { add_bos_token: false, tokenizer_class: 'PreTrainedTokenizerFast' })).toEqual([1, 403])
  })
  test('never doubles what is there', () => {
    expect(encode({}, { add_bos_token: true })).toEqual([1, 403])
  })
  test('the token may be given as an object', () => {
    expect(encode({ post_processor: null }, { bos_token: { content: '<s>' }, add_bos_token: true })).toEqual([1, 403])
  })
})

test('a lone surrogate becomes U+FFFD instead of a failure', async () => {
  const tokenizer = await open(join(MODELS, 'demo'))
  expect(tokenizer.encode('a\uD83Cb')).toEqual(tokenizer.encode('a\uFFFDb'))
})

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
  ])('%s', async (_, content, message) => {
    if (content !== undefined) await writeFile(join(folder, 'tokenizer.json'), content)
    await expect(open(folder)).rejects.toThrowError(
      expect.objectContaining({ code: 'TOKENIZER_INVALID', message: expect.stringMatching(message) }),
    )
  })
})

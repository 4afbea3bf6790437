/** Tokenizers of every kind of setting, against what transformers 5 and the tokenizers library in Rust make of them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { detokenize } from '../../../lib/text/detokenizer.ts'
import { Pieces } from '../../../lib/text/tokenizer/pieces.ts'
import { Tokenizer } from '../../../lib/text/tokenizer/tokenizer.ts'
import { MODELS } from '../../models.ts'

interface Case {
  name: string
  base: string
  tokenizer: object
  config: Record<string, unknown>
  files: Record<string, Record<string, unknown>>
  encoded: [text: string, ids: number[]][]
  decoded: [ids: number[], text: string][]
}

const cases: Case[] = JSON.parse(readFileSync(new URL('../../goldens/tokenizers/cases.json', import.meta.url), 'utf8'))

describe.each(cases)('$name ($base)', ({ base, tokenizer, config, files, encoded, decoded }) => {
  const own = JSON.parse(readFileSync(join(MODELS, base, 'tokenizer.json'), 'utf8'))
  const made = new Tokenizer({
    tokenizer: { ...own, ...tokenizer },
    config,
    addedTokens: files['added_tokens.json'],
    specialTokens: files['special_tokens_map.json'],
  })
  const pieces = new Pieces(made.table, made.rules)

  test('encodes', () => {
    const found = encoded.map(([text]) => [text, [...made.encode(text, false)]])
    expect(found).toEqual(encoded)
  })
  test('decodes', () => {
    expect(decoded.map(([ids]) => [ids, detokenize(pieces, ids)])).toEqual(decoded)
  })
})

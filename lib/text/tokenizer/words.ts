/** The model of tokenizer.json: words to tokens. */

import { isObject, show } from '../../checkpoint/json.ts'
import { MillraceError } from '../../errors.ts'
import { MAX_ID } from './files.ts'
import { BPE, Unigram, WordPiece } from './library.ts'

/** The tokenizer's `model`, as far as it is read here. */
export interface ModelConfig {
  type?: string | undefined
  vocab?: Record<string, number> | [string, number][] | undefined
  merges?: unknown
  unk_token?: string | null | undefined
  unk_id?: number | null | undefined
  fuse_unk?: boolean | null | undefined
  byte_fallback?: boolean | null | undefined
  dropout?: number | null | undefined
  continuing_subword_prefix?: string | null | undefined
  [key: string]: unknown
}

export interface WordModel {
  readonly type: 'BPE' | 'Unigram' | 'WordPiece' | 'WordLevel'
  readonly vocabulary: ReadonlyMap<string, number>
  /** Appends the tokens of a word. */
  encode(word: string, tokens: { push(token: number): void }): void
}

/** Throws where the model is of a kind that is not known here. */
export function makeWordModel(config: ModelConfig): WordModel {
  const type = config.type ?? kindOf(config)
  switch (type) {
    case 'BPE': {
      checkVocabulary(config.vocab)
      // Either would change the tokens, and the library reads neither.
      if (config.continuing_subword_prefix) throw unsupported('a BPE model with continuing_subword_prefix')
      if (config.dropout) throw unsupported('a BPE model with dropout')
      const model = new BPE({ ...config, type, fuse_unk: false })
      const vocabulary = model.tokens_to_ids
      const unknown = config.unk_token == null ? undefined : vocabulary.get(config.unk_token)
      forget(model)
      return { type, vocabulary, encode: pieceByPiece(model, vocabulary, unknown, config.fuse_unk ?? false, false) }
    }
    case 'Unigram': {
      checkScores(config.vocab)
      const model = new Unigram({ ...config, type }, '')
      const vocabulary = model.tokens_to_ids
      forget(model)
      return {
        type,
        vocabulary,
        encode: pieceByPiece(model, vocabulary, config.unk_id ?? undefined, true, config.byte_fallback ?? false),
      }
    }
    case 'WordPiece': {
      checkVocabulary(config.vocab)
      const model = new WordPiece({ continuing_subword_prefix: '##', ...config, type })
      const vocabulary = model.tokens_to_ids
      return { type, vocabulary, encode: pieceByPiece(model, vocabulary, model.unk_token_id, false, false) }
    }
    case 'WordLevel': {
      checkVocabulary(config.vocab)
      const vocabulary = new Map(Object.entries(config.vocab as Record<string, number>))
      const unknown = vocabulary.get(config.unk_token ?? '')
      return {
        type,
        vocabulary,
        encode: (word, tokens) => {
          const id = vocabulary.get(word) ?? unknown
          if (id !== undefined) tokens.push(id)
        },
      }
    }
    default:
      throw unsupported(`a model of type '${type}'`)
  }
}

/** Of Unigram: pieces and scores. */
function checkScores(vocab: unknown): void {
  if (!Array.isArray(vocab)) throw invalid(`expected a vocabulary of pieces and scores, found ${show(vocab)}`)
  for (const piece of vocab) {
    if (Array.isArray(piece) && typeof piece[0] === 'string' && typeof piece[1] === 'number') continue
    throw invalid(`expected a piece and its score in the vocabulary, found ${show(piece)}`)
  }
}

/** Ids that the table of tokens has rows for. */
function checkVocabulary(vocab: unknown): void {
  if (!isObject(vocab)) throw invalid(`expected a vocabulary of texts and their ids, found ${show(vocab)}`)
  for (const text in vocab) {
    const id = vocab[text]
    if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id <= MAX_ID) continue
    throw invalid(`expected an id from 0 to ${MAX_ID} for ${show(text)} in the vocabulary, found ${show(id)}`)
  }
}

function kindOf({ vocab, merges, continuing_subword_prefix: prefix }: ModelConfig): string | undefined {
  if (Array.isArray(vocab)) return 'Unigram'
  if (!vocab) return undefined
  if (merges !== undefined) return 'BPE'
  return prefix === undefined ? 'WordLevel' : 'WordPiece'
}

function pieceByPiece(
  model: { encode(words: string[]): string[] },
  vocabulary: ReadonlyMap<string, number>,
  unknown: number | undefined,
  fuseUnknown: boolean,
  byteFallback: boolean,
): WordModel['encode'] {
  return (word, tokens) => {
    let last: number | undefined
    for (const piece of model.encode([word])) {
      const known = vocabulary.get(piece)
      if (known === undefined && byteFallback) {
        const bytes = bytesOf(piece, vocabulary)
        if (bytes) {
          for (const id of bytes) tokens.push(id)
          last = undefined
          continue
        }
      }
      const id = known ?? unknown
      if (id === undefined || (fuseUnknown && id === unknown && last === id)) continue
      tokens.push(id)
      last = id
    }
  }
}

function bytesOf(piece: string, vocabulary: ReadonlyMap<string, number>): number[] | undefined {
  const ids: number[] = []
  for (const byte of Buffer.from(piece)) {
    const id = vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
    if (id === undefined) return undefined
    ids.push(id)
  }
  return ids
}

/** The library keeps the file's objects beside what it made of them, which is half of its memory. */
function forget(model: { config: unknown; vocab: unknown[]; merges?: unknown[] }): void {
  model.config = undefined
  model.vocab = []
  if (model.merges) model.merges = []
}

function invalid(what: string): MillraceError {
  return new MillraceError('TOKENIZER_INVALID', { message: `tokenizer.json could not be read: ${what}` })
}

function unsupported(what: string): MillraceError {
  return new MillraceError('TOKENIZER_INVALID', {
    message: `tokenizer.json could not be read: ${what} is not supported`,
    remedy: 'use a checkpoint with another tokenizer',
  })
}

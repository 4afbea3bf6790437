/** The model of tokenizer.json: words to tokens. */

import { isObject, show } from '../../checkpoint/json.ts'
import { MillraceError } from '../../errors.ts'
import { Bpe, UNKNOWN } from './bpe.ts'
import { MAX_ID } from './files.ts'
import { Unigram, WordPiece } from './library.ts'

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
  end_of_word_suffix?: string | null | undefined
  ignore_merges?: boolean | null | undefined
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
      // Either would change the tokens, and neither is read here.
      if (config.continuing_subword_prefix) throw unsupported('a BPE model with continuing_subword_prefix')
      if (config.dropout) throw unsupported('a BPE model with dropout')
      const vocabulary = new Map(Object.entries(config.vocab as Record<string, number>))
      const unknown = config.unk_token == null ? undefined : vocabulary.get(config.unk_token)
      const bpe = new Bpe({
        vocabulary,
        merges: pairsOf(config.merges),
        endOfWord: config.end_of_word_suffix ?? '',
        ignoreMerges: config.ignore_merges ?? false,
        byteFallback: config.byte_fallback ?? false,
      })
      const fuse = config.fuse_unk ?? false
      return { type, vocabulary, encode: (word, tokens) => pushAll(bpe.encode(word), unknown, fuse, tokens) }
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

/** Of a BPE model: two symbols each, as a pair or in one text. */
function pairsOf(merges: unknown): [string, string][] {
  if (!Array.isArray(merges)) throw invalid(`expected a list of merges, found ${show(merges)}`)
  return merges.map((merge) => {
    const pair = typeof merge === 'string' ? merge.split(' ', 2) : merge
    if (Array.isArray(pair) && typeof pair[0] === 'string' && typeof pair[1] === 'string') return [pair[0], pair[1]]
    throw invalid(`expected two symbols that merge, found ${show(merge)}`)
  })
}

/** Of those that are in no vocabulary the unknown token, where there is one; of a run of them one if they `fuse`. */
function pushAll(
  ids: readonly number[],
  unknown: number | undefined,
  fuse: boolean,
  tokens: { push(token: number): void },
): void {
  let last: number | undefined
  for (const known of ids) {
    const id = known === UNKNOWN ? unknown : known
    if (id === undefined || (fuse && id === unknown && last === id)) continue
    tokens.push(id)
    last = id
  }
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
function forget(model: { config: unknown; vocab: unknown[] }): void {
  model.config = undefined
  model.vocab = []
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

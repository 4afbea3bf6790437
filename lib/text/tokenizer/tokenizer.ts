/** Text to tokens, and the table that turns them back: what the files of a checkpoint's tokenizer say. */
import { MillraceError } from '../../errors.ts'
import { specialTokensOf } from '../chat/special_tokens.ts'
import { type AddedToken, AddedTokens, type Section } from './added.ts'
import type { SpecialTokens } from './codec.ts'
import { compileDecoder, type DecodeRules, type DecoderConfig, isUtf8, MARK } from './decoder.ts'
import {
  checkFiles,
  type PostProcessorConfig,
  type TokenizerConfig,
  type TokenizerFiles,
  type TokenizerJson,
} from './files.ts'
import { compileNormalizer, type Normalize, type NormalizerConfig } from './normalizer.ts'
import { makeTable, type TableEntry } from './pieces.ts'
import { compilePreTokenizer, type PreTokenize, type PreTokenizerConfig } from './pretokenizer.ts'
import { addedTokensOf, contentOf } from './special.ts'
import { makeWordModel, type WordModel } from './words.ts'

export class Tokenizer {
  /** The texts of the special tokens that chat templates name; '' where there are none. */
  readonly bosToken: string
  readonly eosToken: string
  readonly bosId: number | undefined
  /** For Pieces. */
  readonly table: SharedArrayBuffer
  readonly rules: DecodeRules
  /** What templates may name. */
  readonly specialTokens: Record<string, string | string[]>
  /** Texts of all tokens that are looked for in texts. */
  readonly addedTexts: readonly string[]

  readonly #added: AddedTokens
  readonly #preTokenize: PreTokenize
  readonly #words: WordModel
  /** What comes before and after every text. */
  readonly #around: Around

  /** Throws TOKENIZER_INVALID. */
  constructor(files: TokenizerFiles) {
    const checked = checkFiles(files)
    const { config } = checked
    const tokenizer = withPrefixSpace(checked.tokenizer, config)
    this.#words = wordModel(tokenizer)
    const { vocabulary } = this.#words
    const added = addedTokensOf(tokenizer, config, files, vocabulary)
    const normalise = compileNormalizer(tokenizer.normalizer) ?? ((text) => text)
    this.#added = new AddedTokens(added, normalise)
    this.addedTexts = added.map(({ content }) => content)
    this.specialTokens = specialTokensOf(config)
    this.#preTokenize = compilePreTokenizer(tokenizer.pre_tokenizer)
    // It was meant for word pieces, and would corrupt what byte pairs spell.
    const cleanUp =
      config.clean_up_tokenization_spaces === true &&
      (this.#words.type !== 'BPE' ||
        config.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output === true)
    const { toBytes, rules } = compileDecoder(tokenizer.decoder, cleanUp)
    this.rules = rules
    this.table = makeTable(entriesOf(vocabulary, added, toBytes, normalise))
    const idOf = (text: string) => added.find(({ content }) => content === text)?.id ?? vocabulary.get(text)
    this.bosToken = contentOf(config.bos_token)
    this.eosToken = contentOf(config.eos_token)
    this.bosId = this.bosToken === '' ? undefined : idOf(this.bosToken)
    const adds = addsTokens(config, tokenizer.post_processor)
    const one = (text: string) => (text === '' ? [] : [idOf(text)].filter((id) => id !== undefined))
    this.#around = adds
      ? { before: adds.bos ? one(this.bosToken) : [], after: adds.eos ? one(this.eosToken) : [] }
      : aroundOf(tokenizer.post_processor, idOf)
  }

  /**
   * Tokens of a text: what a tokenizer puts before one comes first, unless `specialTokens` is false; what it puts after one,
   * such as an end token, is there of texts that nothing continues, 'around'.
   */
  encode(text: string, specialTokens: SpecialTokens = true): Int32Array {
    const { before, after } = this.#around
    const tokens = new TokenList()
    if (specialTokens) for (const token of before) tokens.push(token)
    this.#encode(this.#added.split(wellFormed(text)), tokens)
    if (specialTokens === 'around') for (const token of after) tokens.push(token)
    return tokens.take()
  }

  /** Tokens of a prompt in pieces: those that are special are a token each, and the others become none of the added ones. */
  encodePieces(pieces: readonly { text: string; special: boolean }[]): Int32Array {
    const tokens = new TokenList()
    const whole = pieces.map(({ text, special }) => ({ text: wellFormed(text), special }))
    this.#encode(this.#added.splitPieces(whole), tokens)
    return tokens.take()
  }

  #encode(sections: Iterable<Section>, tokens: TokenList): void {
    const take = (word: string) => this.#words.encode(word, tokens)
    for (const section of sections) {
      if ('token' in section) tokens.push(section.token.id)
      else this.#preTokenize(section.text, section.first, take)
    }
  }
}

/** A lone surrogate has no UTF-8 form. */
const wellFormed = (text: string) => text.replace(/\p{Surrogate}/gu, '\uFFFD')

/** Ids that grow in number, without an array of numbers in between. */
class TokenList {
  #tokens = new Int32Array(256)
  #length = 0

  push(token: number): void {
    if (this.#length === this.#tokens.length) {
      const grown = new Int32Array(2 * this.#length)
      grown.set(this.#tokens)
      this.#tokens = grown
    }
    this.#tokens[this.#length++] = token
  }

  take(): Int32Array<ArrayBuffer> {
    return this.#tokens.slice(0, this.#length)
  }
}

function wordModel({ model }: TokenizerJson): WordModel {
  try {
    return makeWordModel(model)
  } catch (cause) {
    if (MillraceError.isInstance(cause)) throw cause
    throw new MillraceError('TOKENIZER_INVALID', {
      message: `tokenizer.json could not be read: ${(cause as Error).message}`,
      cause,
    })
  }
}

function* entriesOf(
  vocabulary: ReadonlyMap<string, number>,
  added: readonly AddedToken[],
  toBytes: (token: string) => Uint8Array,
  normalise: Normalize,
): Iterable<TableEntry> {
  for (const [text, id] of vocabulary) yield { id, text, bytes: toBytes(text), special: false }
  for (const { id, content, normalized, special } of added) {
    // They show as what was looked for. Most are plain text; some are spelt as the vocabulary is.
    const shown = normalized ? normalise(content) : content
    const bytes = toBytes(shown)
    yield { id, text: content, bytes: isUtf8(bytes) ? bytes : Buffer.from(shown), special }
  }
}

/**
 * Whether a text is put between the beginning and the end token, as transformers 5 has it: a setting of either takes the
 * place of tokenizer.json's post-processor; undefined where that rules. With neither, Llama's own classes add the first.
 */
function addsTokens(
  config: TokenizerConfig,
  processor: PostProcessorConfig | null | undefined,
): { bos: boolean; eos: boolean } | undefined {
  const { add_bos_token: bos, add_eos_token: eos } = config
  const isSet = bos !== undefined || eos !== undefined
  return isSet || (isLlama(config) && !processor) ? { bos: bos ?? isLlama(config), eos: eos ?? false } : undefined
}

interface Around {
  before: readonly number[]
  after: readonly number[]
}

/** The special tokens that the post-processor puts around a text. */
function aroundOf(config: PostProcessorConfig | null | undefined, idOf: (text: string) => number | undefined): Around {
  switch (config?.type) {
    case undefined:
    case 'ByteLevel':
      return { before: [], after: [] }
    case 'Sequence':
      // Each puts its own around what those before it made.
      return (config.processors ?? []).reduce<Around>(
        (inner, step) => {
          const outer = aroundOf(step, idOf)
          return { before: [...outer.before, ...inner.before], after: [...inner.after, ...outer.after] }
        },
        { before: [], after: [] },
      )
    case 'BertProcessing':
    case 'RobertaProcessing':
      return { before: config.cls ? [config.cls[1]] : [], after: config.sep ? [config.sep[1]] : [] }
    case 'TemplateProcessing': {
      const items = config.single ?? []
      const at = items.findIndex((item) => item.Sequence)
      const idsOf = (some: typeof items) =>
        some.flatMap(({ SpecialToken: token }) => {
          const name = token?.id ?? ''
          const ids = config.special_tokens?.[name]?.ids ?? [idOf(name)]
          return ids.map((id) => {
            if (typeof id === 'number') return id
            throw invalid(`the post-processor's token '${name}' is not in the vocabulary`)
          })
        })
      if (at === -1) return { before: idsOf(items), after: [] }
      return { before: idsOf(items.slice(0, at)), after: idsOf(items.slice(at + 1)) }
    }
    default:
      throw invalid(`post-processor '${config?.type}' is not supported`)
  }
}

function isLlama({ tokenizer_class: name }: TokenizerConfig): boolean {
  return /^Llama(Tokenizer|TokenizerFast)$/.test(name ?? '')
}

/** Llama's tokenizer classes with add_prefix_space: false put no space before a text, whatever tokenizer.json says. */
function withPrefixSpace(tokenizer: TokenizerJson, config: TokenizerConfig): TokenizerJson {
  if (!isLlama(config) || config.add_prefix_space !== false) return tokenizer
  return {
    ...tokenizer,
    normalizer: without<NormalizerConfig>(tokenizer.normalizer, 'normalizers', ({ type, prepend }) =>
      type === 'Prepend' && prepend === MARK ? undefined : 'same',
    ),
    pre_tokenizer: without<PreTokenizerConfig>(tokenizer.pre_tokenizer, 'pretokenizers', never),
    decoder: without<DecoderConfig>(tokenizer.decoder, 'decoders', (step) =>
      step.type === 'Strip' ? undefined : never(step),
    ),
  }
}

function never<T extends { type: string }>(step: T): T | 'same' {
  return step.type === 'Metaspace' ? { ...step, prepend_scheme: 'never' } : 'same'
}

/** A part of tokenizer.json, and its steps where it is a Sequence, each changed or left out as `change` says. */
function without<T extends { type: string }>(
  part: T | null | undefined,
  steps: keyof T,
  change: (step: T) => T | 'same' | undefined,
): T | null {
  if (!part) return null
  if (part.type === 'Sequence') {
    const kept = ((part[steps] ?? []) as T[])
      .map((step) => without(step, steps, change))
      .filter((step) => step !== null)
    return { ...part, [steps]: kept }
  }
  const changed = change(part)
  return changed === 'same' ? part : (changed ?? null)
}

function invalid(what: string): MillraceError {
  return new MillraceError('TOKENIZER_INVALID', {
    message: `tokenizer.json could not be read: ${what}`,
    remedy: 'use a checkpoint with another tokenizer',
  })
}

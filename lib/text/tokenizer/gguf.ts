/** A GGUF file's tokenizer as tokenizer.json and tokenizer_config.json would say it. */
import { type GgufTokenizer, TOKEN_TYPE } from '../../checkpoint/gguf/tokenizer.ts'
import { MillraceError } from '../../errors.ts'
import type { TokenizerFiles } from './files.ts'
import { SPLITTINGS, type Splitting } from './gguf_splits.ts'

const MARK = '\u2581'

/** Throws TOKENIZER_INVALID for a kind that is not known here. */
export function ggufTokenizerFiles(source: GgufTokenizer): TokenizerFiles {
  const tokens = source.tokens.toArray()
  switch (source.model) {
    case 'llama': {
      const complete = { ...source, special: { bos: 1, eos: 2, unknown: 0, ...source.special } }
      return filesOf(complete, sentencePiece(complete, tokens), true)
    }
    case 'gpt2':
    case 'gemma4': {
      const splitting = splittingOf(source)
      const model = splitting.marked ? marked : byteLevel
      return filesOf(source, model(source, tokens, splitting), splitting.addBos ?? false)
    }
    default:
      throw invalid(source, 'tokenizer.ggml.model', source.model, 'llama, gpt2, gemma4')
  }
}

function filesOf(source: GgufTokenizer, tokenizer: Record<string, unknown>, addBos: boolean): TokenizerFiles {
  return { tokenizer, config: configOf(source, addBos), templates: source.chatTemplate }
}

function splittingOf(source: GgufTokenizer): Splitting {
  const name = source.model === 'gemma4' ? 'gemma4' : source.pre || 'default'
  if (Object.hasOwn(SPLITTINGS, name)) return SPLITTINGS[name]!
  throw invalid(source, 'tokenizer.ggml.pre', name, Object.keys(SPLITTINGS).join(', '))
}

/** What tokenizer_config.json would say. */
function configOf(source: GgufTokenizer, otherwise: boolean): Record<string, unknown> {
  const { special, tokens } = source
  const text = (name: string) => (special[name] === undefined ? undefined : tokens.at(special[name]))
  // Files of Gemma 4 say that they want none, and are wrong.
  const addBos = source.model === 'gemma4' || (source.addBos ?? otherwise)
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    clean_up_tokenization_spaces: false,
    // What does not exist is not added.
    ...(special.bos === undefined ? {} : { add_bos_token: addBos }),
    bos_token: text('bos'),
    eos_token: text('eos'),
    unk_token: text('unknown'),
    pad_token: text('padding'),
  }
}

/** Merges in the order of their results' scores: what SentencePiece does without a list of them. */
function sentencePiece(source: GgufTokenizer, tokens: string[]): Record<string, unknown> {
  const { scores, addSpacePrefix = true } = source
  if (scores === undefined) throw invalid(source, 'tokenizer.ggml.scores', undefined, 'a score a token')
  const ids = idsOf(tokens)
  const merges: { left: string; right: string; score: number }[] = []
  for (const [token, id] of ids) {
    for (let at = 1; at < token.length; at++) {
      const left = token.slice(0, at)
      const right = token.slice(at)
      if (ids.has(left) && ids.has(right)) merges.push({ left, right, score: scores[id]! })
    }
  }
  merges.sort((a, b) => b.score - a.score || b.left.length - a.left.length || ids.get(a.left)! - ids.get(b.left)!)
  return {
    ...common(source, tokens),
    normalizer: addSpacePrefix
      ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: MARK }, MARKED] }
      : MARKED,
    pre_tokenizer: null,
    decoder: markedDecoder(addSpacePrefix),
    model: markedPairs(
      source,
      tokens,
      merges.map(({ left, right }) => [left, right]),
    ),
  }
}

const MARKED = { type: 'Replace', pattern: { String: ' ' }, content: MARK }

const markedDecoder = (addedSpace: boolean) => ({
  type: 'Sequence',
  decoders: [
    { type: 'Replace', pattern: { String: MARK }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    ...(addedSpace ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
  ],
})

/** Byte pairs of texts as SentencePiece spells them. */
function marked(source: GgufTokenizer, tokens: string[], { patterns }: Splitting): Record<string, unknown> {
  return {
    ...common(source, tokens),
    normalizer: MARKED,
    pre_tokenizer: { type: 'Sequence', pretokenizers: patterns.map(split) },
    decoder: markedDecoder(false),
    model: markedPairs(source, tokens, mergesOf(source)),
  }
}

function byteLevel(source: GgufTokenizer, tokens: string[], splitting: Splitting): Record<string, unknown> {
  const { patterns, ignoreMerges = false } = splitting
  return {
    ...common(source, tokens),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        ...patterns.map(split),
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { ...bytePairs(tokens, mergesOf(source)), ignore_merges: ignoreMerges },
  }
}

const split = (pattern: string) => ({ type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false })

const idsOf = (tokens: string[]) => new Map(tokens.map((token, id) => [token, id]))

type Pair = [left: string, right: string]

/** The first half has one character at least, which may be a space. */
function mergesOf(source: GgufTokenizer): Pair[] {
  const { merges } = source
  if (merges === undefined) throw invalid(source, 'tokenizer.ggml.merges', undefined, 'an array of merges')
  return merges.toArray().map((merge) => {
    const space = merge.indexOf(' ', 1)
    if (space === -1) throw invalid(source, 'tokenizer.ggml.merges', merge, 'two pieces with a space between them')
    return [merge.slice(0, space), merge.slice(space + 1)]
  })
}

const bytePairs = (tokens: string[], merges: Pair[]) => ({
  type: 'BPE',
  unk_token: null as string | null,
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
  vocab: Object.fromEntries(idsOf(tokens)),
  merges,
})

function markedPairs({ special }: GgufTokenizer, tokens: string[], merges: Pair[]) {
  const unknown = special.unknown === undefined ? null : tokens[special.unknown]
  return { ...bytePairs(tokens, merges), unk_token: unknown, fuse_unk: true, byte_fallback: true }
}

/** Added tokens, and the last token where the file wants one. */
function common(source: GgufTokenizer, tokens: string[]) {
  const { types, special, addEos } = source
  const phi3 = /phi-?3/i.test(source.name)
  const added = tokens.flatMap((content, id) => {
    const control = types?.[id] === TOKEN_TYPE.control
    if (!control && types?.[id] !== TOKEN_TYPE.userDefined && id !== special.bos && id !== special.eos) return []
    const rstrip =
      phi3 && (content === '</s>' || (control && /^<\|.*\|>$/.test(content) && content !== '<|endoftext|>'))
    return { id, content, single_word: false, lstrip: false, rstrip, normalized: false, special: control }
  })
  const end = addEos && special.eos !== undefined ? tokens[special.eos]! : undefined
  return {
    version: '1.0',
    added_tokens: added,
    post_processor:
      end === undefined
        ? null
        : {
            type: 'TemplateProcessing',
            single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: end, type_id: 0 } }],
            pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 0 } }],
            special_tokens: { [end]: { id: end, ids: [special.eos], tokens: [end] } },
          },
  }
}

function invalid({ file }: GgufTokenizer, key: string, found: string | undefined, supported: string): MillraceError {
  return new MillraceError('TOKENIZER_INVALID', {
    message: `${file}: metadata key '${key}': ${found === undefined ? 'expected' : `'${found}' is not supported, expected`} ${supported}${found === undefined ? ', found none' : ''}`,
    remedy: 'use a checkpoint with another tokenizer',
  })
}

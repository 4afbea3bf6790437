/** A GGUF file's tokenizer as tokenizer.json and tokenizer_config.json would say it. */
import { type GgufTokenizer, TOKEN_TYPE } from '../../checkpoint/gguf/tokenizer.ts'
import { MillraceError } from '../../errors.ts'
import type { TokenizerFiles } from './files.ts'

const MARK = '\u2581'

const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
const withDigits = (digits: string) =>
  `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`

interface Splitting {
  /** Applied one after the other to the pieces of the one before. */
  patterns: readonly string[]
  /** A piece that is a token is that token, whatever merges say. */
  ignoreMerges?: boolean
  addBos?: boolean
}

/** By `tokenizer.ggml.pre`, as llama.cpp splits. */
const SPLITTING: Readonly<Record<string, Splitting>> = {
  // Of files that do not say.
  default: { patterns: ['[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2, '\\p{N}+', '[0-9][0-9][0-9]'] },
  ...named(['gpt-2', 'phi-2', 'olmo', 'jais', 'mellum', 'trillion'], { patterns: [GPT2] }),
  ...named(['starcoder', 'refact', 'smollm', 'command-r', 'codeshell', 'exaone'], { patterns: ['\\p{N}', GPT2] }),
  ...named(['llama3', 'llama-v3', 'llama-bpe', 'falcon3', 'falcon-h1', 'pixtral'], {
    patterns: [withDigits('\\p{N}{1,3}')],
    ignoreMerges: true,
    addBos: true,
  }),
  ...named(['dbrx', 'smaug-bpe'], { patterns: [withDigits('\\p{N}{1,3}')] }),
  ...named(['qwen2', 'deepseek-r1-qwen', 'stablelm2', 'hunyuan'], { patterns: [withDigits('\\p{N}')] }),
}

function named(names: readonly string[], splitting: Splitting): Record<string, Splitting> {
  return Object.fromEntries(names.map((name) => [name, splitting]))
}

/** Throws TOKENIZER_INVALID for a kind that is not known here. */
export function ggufTokenizerFiles(source: GgufTokenizer): TokenizerFiles {
  const tokens = source.tokens.toArray()
  switch (source.model) {
    case 'llama':
      return { tokenizer: sentencePiece(source, tokens), config: configOf(source), templates: source.chatTemplate }
    case 'gpt2':
      return { tokenizer: byteLevel(source, tokens), config: configOf(source), templates: source.chatTemplate }
    default:
      throw invalid(source, 'tokenizer.ggml.model', source.model, 'llama, gpt2')
  }
}

/** What tokenizer_config.json would say. */
function configOf(source: GgufTokenizer): Record<string, unknown> {
  const { special, tokens, model, pre } = source
  const text = (name: string) => (special[name] === undefined ? undefined : tokens.at(special[name]))
  const addBos = source.addBos ?? (model === 'llama' || (SPLITTING[pre ?? '']?.addBos ?? false))
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
  const { scores, special, addSpacePrefix = true } = source
  if (scores === undefined) throw invalid(source, 'tokenizer.ggml.scores', undefined, 'a score a token')
  const ids = new Map(tokens.map((token, id) => [token, id]))
  const merges: { left: string; right: string; score: number }[] = []
  for (const [token, id] of ids) {
    for (let at = 1; at < token.length; at++) {
      const left = token.slice(0, at)
      const right = token.slice(at)
      if (ids.has(left) && ids.has(right)) merges.push({ left, right, score: scores[id]! })
    }
  }
  merges.sort((a, b) => b.score - a.score || b.left.length - a.left.length || ids.get(a.left)! - ids.get(b.left)!)
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: MARK }
  return {
    ...common(source, tokens),
    normalizer: addSpacePrefix
      ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: MARK }, spaces] }
      : spaces,
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: MARK }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(addSpacePrefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      unk_token: special.unknown === undefined ? null : tokens[special.unknown],
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(ids),
      merges: merges.map(({ left, right }) => [left, right]),
    },
  }
}

function byteLevel(source: GgufTokenizer, tokens: string[]): Record<string, unknown> {
  const { pre = 'default', merges } = source
  if (!Object.hasOwn(SPLITTING, pre)) {
    throw invalid(source, 'tokenizer.ggml.pre', pre, Object.keys(SPLITTING).join(', '))
  }
  if (merges === undefined) throw invalid(source, 'tokenizer.ggml.merges', undefined, 'an array of merges')
  const { patterns, ignoreMerges = false } = SPLITTING[pre]!
  return {
    ...common(source, tokens),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        ...patterns.map((pattern) => ({
          type: 'Split',
          pattern: { Regex: pattern },
          behavior: 'Isolated',
          invert: false,
        })),
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      unk_token: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: ignoreMerges,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: merges.toArray(),
    },
  }
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

/**
 * The pre-tokenizer of tokenizer.json, which cuts a text into words, as the tokenizers library in Rust has it. (The
 * package of the same name takes every behaviour but Removed for Isolated, and knows ASCII's digits and words alone.)
 */
import { MillraceError } from '../../errors.ts'
import { BYTE_CHARACTERS, MARK } from './decoder.ts'
import { matches, type PatternConfig, patternOf } from './regex.ts'

export interface PreTokenizerConfig {
  type: string
  pretokenizers?: PreTokenizerConfig[] | undefined
  pattern?: PatternConfig | undefined
  behavior?: string | undefined
  invert?: boolean | undefined
  individual_digits?: boolean | undefined
  add_prefix_space?: boolean | null | undefined
  use_regex?: boolean | undefined
  replacement?: string | undefined
  prepend_scheme?: string | undefined
  split?: boolean | undefined
  delimiter?: string | undefined
  length?: number | undefined
}

/** Takes a word. `first`: it is the beginning of the whole text. */
export type Take = (word: string, first: boolean) => void
/** Cuts a piece of a text into words. */
export type PreTokenize = (text: string, first: boolean, take: Take) => void

type Segment = [start: number, end: number, matched: boolean]

const utf8 = new TextEncoder()

const WORD = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}'
const PUNCTUATION = /[\p{P}!-/:-@[-`{-~]/gu
const SPACE = /\p{White_Space}/gu
const GPT2 =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu

/** Throws TOKENIZER_INVALID where the pre-tokenizer is of a kind that is not known here. */
export function compilePreTokenizer(config: PreTokenizerConfig | null | undefined): PreTokenize {
  if (!config) return (text, first, take) => take(text, first)
  switch (config.type) {
    case 'Sequence':
      return chain((config.pretokenizers ?? []).map(compilePreTokenizer))
    case 'Split':
      return splitter(patternOf(config.pattern ?? {}), behaviourOf(config.behavior), config.invert ?? false)
    case 'Punctuation':
      return splitter(PUNCTUATION, behaviourOf(config.behavior ?? 'Isolated'))
    case 'Digits':
      return splitter(/\p{N}/gu, behaviours[config.individual_digits ? 'isolated' : 'contiguous'])
    case 'Whitespace':
      return splitter(new RegExp(`[${WORD}]+|[^${WORD}\\p{White_Space}]+`, 'gu'), behaviours.removed, true)
    case 'WhitespaceSplit':
      return splitter(SPACE, behaviours.removed)
    case 'BertPreTokenizer':
      return chain([splitter(SPACE, behaviours.removed), splitter(PUNCTUATION, behaviours.isolated)])
    case 'CharDelimiterSplit':
      return splitter(config.delimiter ?? ' ', behaviours.removed)
    case 'FixedLength':
      return fixedLength(Math.max(1, config.length ?? 5))
    case 'Metaspace':
      return metaspace(config)
    case 'ByteLevel':
      return byteLevel(config)
    default:
      throw unsupported(`pre-tokenizer '${config.type}'`)
  }
}

function chain(steps: readonly PreTokenize[]): PreTokenize {
  return steps.reduceRight<PreTokenize>(
    (next, step) => (text, first, take) => step(text, first, (word, begins) => next(word, begins, take)),
    (text, first, take) => take(text, first),
  )
}

/** What becomes of the parts that match, and of those between. */
const behaviours = {
  isolated: (segments: Segment[]) => segments,
  removed: (segments: Segment[]) => segments.filter(([, , matched]) => !matched),
  contiguous: (segments: Segment[]) => merged(segments, (now, last) => now[2] === last[2]),
  mergedwithprevious: (segments: Segment[]) => merged(segments, (now, last) => now[2] && !last[2]),
  mergedwithnext: (segments: Segment[]) => merged(segments, (now, last) => last[2] && !now[2]),
}

type Behaviour = (segments: Segment[]) => Segment[]

function behaviourOf(name: string | undefined): Behaviour {
  const key = String(name).toLowerCase().replaceAll('_', '')
  if (Object.hasOwn(behaviours, key)) return behaviours[key as keyof typeof behaviours]
  throw unsupported(`behavior '${name}' of a pre-tokenizer`)
}

/**
 * Neighbours put together where `joins` says so of the two as they were found: of a run of matches the first alone goes
 * to what comes before it, or the last alone to what follows.
 */
function merged(segments: Segment[], joins: (now: Segment, last: Segment) => boolean): Segment[] {
  const result: Segment[] = []
  let last: Segment | undefined
  for (const segment of segments) {
    const previous = result.at(-1)
    if (last && previous && joins(segment, last)) previous[1] = segment[1]
    else result.push([...segment])
    last = segment
  }
  return result
}

function splitter(pattern: string | RegExp, behaviour: Behaviour, invert = false): PreTokenize {
  return (text, first, take) => {
    const segments: Segment[] = []
    let at = 0
    for (const [start, end] of matches(text, pattern)) {
      if (at < start) segments.push([at, start, invert])
      segments.push([start, end, !invert])
      at = end
    }
    if (at < text.length) segments.push([at, text.length, invert])
    for (const [start, end] of behaviour(segments)) {
      if (start < end) take(text.slice(start, end), first && start === 0)
    }
  }
}

function fixedLength(length: number): PreTokenize {
  return (text, first, take) => {
    const characters = [...text]
    for (let at = 0; at < characters.length; at += length) {
      take(characters.slice(at, at + length).join(''), first && at === 0)
    }
  }
}

function metaspace(config: PreTokenizerConfig): PreTokenize {
  const mark = config.replacement ?? MARK
  const scheme = config.prepend_scheme ?? (config.add_prefix_space === false ? 'never' : 'always')
  if (!['always', 'never', 'first'].includes(scheme)) throw unsupported(`prepend_scheme '${scheme}'`)
  const split = config.split === false ? undefined : splitter(mark, behaviours.mergedwithnext)
  return (text, first, take) => {
    let marked = text.replaceAll(' ', mark)
    if ((scheme === 'always' || (scheme === 'first' && first)) && !marked.startsWith(mark)) marked = mark + marked
    if (split) split(marked, first, take)
    else take(marked, first)
  }
}

function byteLevel({ add_prefix_space: addSpace, use_regex: useRegex }: PreTokenizerConfig): PreTokenize {
  const words = useRegex === false ? compilePreTokenizer(null) : splitter(GPT2, behaviours.isolated)
  return (text, first, take) =>
    words(addSpace && !text.startsWith(' ') ? ` ${text}` : text, first, (word, begins) => take(inBytes(word), begins))
}

function inBytes(word: string): string {
  let spelt = ''
  for (const byte of utf8.encode(word)) spelt += BYTE_CHARACTERS[byte]
  return spelt
}

function unsupported(what: string): MillraceError {
  return new MillraceError('TOKENIZER_INVALID', {
    message: `tokenizer.json could not be read: ${what} is not supported`,
    remedy: 'use a checkpoint with another tokenizer',
  })
}

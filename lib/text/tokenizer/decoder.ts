/** The decoder of tokenizer.json: what each token stands for, and what becomes of the text as a whole. */
import { MillraceError } from '../../errors.ts'
import { patternOf } from './regex.ts'

/** A decoder of tokenizer.json, as far as it is read here. */
export interface DecoderConfig {
  type: string
  decoders?: DecoderConfig[] | undefined
  pattern?: { String?: string | undefined; Regex?: string | undefined } | undefined
  content?: string | undefined
  replacement?: string | undefined
  prepend_scheme?: string | undefined
  add_prefix_space?: boolean | null | undefined
  start?: number | undefined
  stop?: number | undefined
}

/** What decoding does to a text beyond putting bytes together. */
export interface DecodeRules {
  /** Between two tokens: a space without a decoder, '' with one. */
  separator: string
  /** The mark of a space, which the first token of a text loses. */
  firstLoses: string | undefined
  /** Characters that are taken off a text's start and end, at most so many. */
  strip: { content: string; start: number; stop: number } | undefined
  /** No space before punctuation and English contractions. */
  cleanUp: boolean
}

export interface Decoder {
  toBytes: (token: string) => Uint8Array
  rules: DecodeRules
}

export const MARK = '\u2581'
const utf8 = new TextEncoder()

/** Throws TOKENIZER_INVALID where the decoder is of a kind, or in an order, that is not known here. */
export function compileDecoder(decoder: DecoderConfig | null | undefined, cleanUp: boolean): Decoder {
  const rules: DecodeRules = { separator: decoder ? '' : ' ', firstLoses: undefined, strip: undefined, cleanUp }
  // Each step maps a token's text; the last makes bytes of it.
  const steps: ((text: string) => string)[] = []
  let toBytes: (text: string) => Uint8Array = (text) => utf8.encode(text)
  // What follows sees one text, not tokens.
  let fused = false
  for (const step of flatten(decoder)) {
    switch (step.type) {
      case 'ByteLevel':
        if (fused) throw unknown('ByteLevel after Fuse')
        toBytes = byteLevel
        fused = true
        break
      case 'ByteFallback': {
        if (fused) throw unknown('ByteFallback after Fuse')
        const inner = toBytes
        toBytes = (text) =>
          /^<0x[0-9A-Fa-f]{2}>$/.test(text) ? Uint8Array.of(Number.parseInt(text.slice(3, 5), 16)) : inner(text)
        break
      }
      case 'Metaspace': {
        if (fused) throw unknown('Metaspace after Fuse')
        const mark = step.replacement ?? MARK
        steps.push((text) => text.replaceAll(mark, ' '))
        if (step.prepend_scheme !== 'never' && step.add_prefix_space !== false) rules.firstLoses = mark
        break
      }
      case 'Replace': {
        const pattern = patternOf(step.pattern ?? {})
        const content = step.content ?? ''
        if (fused && (typeof pattern !== 'string' || [...pattern].length !== 1 || toBytes === byteLevel)) {
          throw unknown('Replace of more than one character after Fuse')
        }
        steps.push((text) => text.replaceAll(pattern, () => content))
        break
      }
      case 'Strip': {
        const strip = { content: step.content ?? ' ', start: step.start ?? 0, stop: step.stop ?? 0 }
        if (!fused) steps.push((text) => stripped(text, strip))
        else if (rules.strip) throw unknown('Strip after Strip')
        else rules.strip = strip
        break
      }
      case 'Fuse':
        fused = true
        break
      default:
        throw unknown(step.type)
    }
  }
  const last = toBytes
  return { rules, toBytes: (token) => last(steps.reduce((text, step) => step(text), token)) }
}

/** Whether the text of an added token, taken as the decoder takes it, is UTF-8: such tokens are spelt in plain text. */
export function isUtf8(bytes: Uint8Array): boolean {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    return true
  } catch {
    return false
  }
}

function stripped(text: string, { content, start, stop }: { content: string; start: number; stop: number }): string {
  const characters = [...text]
  let from = 0
  while (from < start && characters[from] === content) from++
  let to = characters.length
  while (characters.length - to < stop && to > from && characters[to - 1] === content) to--
  return characters.slice(from, to).join('')
}

function flatten(decoder: DecoderConfig | null | undefined): DecoderConfig[] {
  if (!decoder) return []
  return decoder.type === 'Sequence' ? (decoder.decoders ?? []).flatMap(flatten) : [decoder]
}

function unknown(type: string): MillraceError {
  return new MillraceError('TOKENIZER_INVALID', {
    message: `tokenizer.json: decoder '${type}' is not supported, expected ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback, Fuse and Strip`,
    remedy: 'use a checkpoint with another tokenizer',
  })
}

/**
 * GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards, in order.
 * (Radford et al. 2019, encoder.py's bytes_to_unicode.)
 */
export const BYTE_CHARACTERS: readonly string[] = (() => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff)
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++))
})()

const byteOf: ReadonlyMap<string, number> = new Map(BYTE_CHARACTERS.map((character, byte) => [character, byte]))

function byteLevel(token: string): Uint8Array {
  const bytes: number[] = []
  for (const character of token) {
    const byte = byteOf.get(character)
    // One character of another alphabet, and the token is no bytes but text.
    if (byte === undefined) return utf8.encode(token)
    bytes.push(byte)
  }
  return Uint8Array.from(bytes)
}

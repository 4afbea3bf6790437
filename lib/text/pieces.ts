/**
 * The bytes that each token stands for, computed once from tokenizer.json's decoder. Working in bytes makes streaming
 * exact: a code point is whole when its last byte is there, whatever tokens it came in.
 */
import { MillraceError } from '../errors.ts'

/** A decoder of tokenizer.json, as far as it is read here. */
export interface DecoderConfig {
  type: string
  decoders?: DecoderConfig[] | undefined
  pattern?: { String?: string | undefined; Regex?: string | undefined } | undefined
  content?: string | undefined
  replacement?: string | undefined
  start?: number | undefined
  stop?: number | undefined
}

export interface AddedToken {
  id: number
  content: string
  special?: boolean | undefined
}

export interface Pieces {
  /** By token id; undefined where the text shows nothing: special tokens and ids beyond the vocabulary. */
  bytes: (Uint8Array | undefined)[]
  /** Leading spaces that decoding takes off the start of a text. */
  strippedSpaces: number
}

const utf8 = new TextEncoder()

/** Throws TOKENIZER_INVALID where the decoder is of a kind that is not known here. */
export function makePieces(
  vocabulary: ReadonlyMap<string, number>,
  added: readonly AddedToken[],
  decoder: DecoderConfig | null | undefined,
): Pieces {
  const { toBytes, strippedSpaces } = compile(decoder)
  const bytes: (Uint8Array | undefined)[] = []
  for (const [token, id] of vocabulary) bytes[id] = toBytes(token)
  for (const token of added) bytes[token.id] = token.special ? undefined : utf8.encode(token.content)
  return { bytes, strippedSpaces }
}

function compile(decoder: DecoderConfig | null | undefined) {
  const steps = flatten(decoder)
  // Each step maps a piece still a text; the last makes bytes of it.
  const replacements: ((text: string) => string)[] = []
  let toBytes: (text: string) => Uint8Array = (text) => utf8.encode(text)
  let strippedSpaces = 0
  for (const step of steps) {
    switch (step.type) {
      case 'ByteLevel':
        toBytes = byteLevel
        break
      case 'ByteFallback': {
        const inner = toBytes
        toBytes = (text) =>
          /^<0x[0-9A-Fa-f]{2}>$/.test(text) ? Uint8Array.of(Number.parseInt(text.slice(3, 5), 16)) : inner(text)
        break
      }
      case 'Metaspace': {
        const mark = step.replacement ?? '\u2581'
        replacements.push((text) => text.replaceAll(mark, ' '))
        strippedSpaces = Math.max(strippedSpaces, 1)
        break
      }
      case 'Replace': {
        const { String: text, Regex: regex } = step.pattern ?? {}
        const pattern = text ?? (regex === undefined ? undefined : new RegExp(regex, 'gu'))
        const content = step.content ?? ''
        if (pattern !== undefined) replacements.push((piece) => piece.replaceAll(pattern, () => content))
        break
      }
      case 'Strip':
        if ((step.content ?? ' ') !== ' ' || (step.stop ?? 0) !== 0) throw unknown('Strip of other than leading spaces')
        strippedSpaces = Math.max(strippedSpaces, step.start ?? 0)
        break
      case 'Fuse':
        break
      default:
        throw unknown(step.type)
    }
  }
  const last = toBytes
  return {
    strippedSpaces,
    toBytes: (token: string) => last(replacements.reduce((text, replace) => replace(text), token)),
  }
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
const byteOf: ReadonlyMap<string, number> = (() => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff)
  const map = new Map<string, number>()
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) map.set(String.fromCodePoint(printable(byte) ? byte : next++), byte)
  return map
})()

function byteLevel(token: string): Uint8Array {
  const bytes: number[] = []
  for (const character of token) {
    const byte = byteOf.get(character)
    if (byte === undefined) bytes.push(...utf8.encode(character))
    else bytes.push(byte)
  }
  return Uint8Array.from(bytes)
}

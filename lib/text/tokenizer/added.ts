/** Added tokens: whole texts that are tokens, wherever they stand. As the tokenizers library in Rust finds them. */

import type { Normalize } from './normalizer.ts'

export interface AddedToken {
  id: number
  content: string
  /** Not within a word: no letter, digit or underscore beside it. */
  singleWord: boolean
  /** Takes the spaces before it, or after it, along. */
  lstrip: boolean
  rstrip: boolean
  /** Looked for in the normalised text, not in the text as it is. */
  normalized: boolean
  /** Decoding leaves it out. */
  special: boolean
}

/** A token that was found, or the text between two. `first`: the whole text begins with it. */
export type Section = { token: AddedToken } | { text: string; first: boolean }

const WORD_AT_END = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u
const WORD_AT_START = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u
const SPACE = /\p{White_Space}/u

/** A piece of a prompt that holds one token, or none, whatever its text looks like. */
interface Piece {
  text: string
  special: boolean
}

export class AddedTokens {
  readonly #byContent: ReadonlyMap<string, AddedToken>
  readonly #plain: Finder
  readonly #normalised: Finder
  readonly #normalise: Normalize

  constructor(tokens: readonly AddedToken[], normalise: Normalize) {
    this.#normalise = normalise
    this.#byContent = new Map(tokens.map((token) => [token.content, token]))
    this.#plain = new Finder(
      tokens.filter(({ normalized }) => !normalized).map((token) => ({ token, content: token.content })),
    )
    this.#normalised = new Finder(
      tokens
        .filter(({ normalized }) => normalized)
        .map((token) => ({ token, content: this.#normalise(token.content) })),
    )
  }

  /** The parts of a text, in order. What is no token is normalised. */
  *split(text: string): Iterable<Section> {
    for (const outer of this.#plain.split(text, true)) {
      if ('token' in outer) yield outer
      else yield* this.#normalised.split(this.#normalise(outer.text), outer.first)
    }
  }

  /** The same of a text in pieces, of which those that are `special` are tokens, and no others hold any. */
  splitPieces(pieces: readonly Piece[]): Iterable<Section> {
    const sections = [...this.split(pieces.map(({ text }) => text).join(''))]
    // As a rule no text looks like a token, and pieces say nothing new.
    const found = sections.flatMap((section) => ('token' in section ? [section.token.content] : []))
    const meant = pieces.filter(({ special }) => special).map(({ text }) => text)
    const same = found.length === meant.length && found.every((text, index) => text === meant[index])
    return same ? sections : this.#eachPiece(pieces)
  }

  *#eachPiece(pieces: readonly Piece[]): Iterable<Section> {
    let first = true
    let text = ''
    let strip = false
    for (const [index, piece] of pieces.entries()) {
      const token = piece.special ? this.#byContent.get(piece.text) : undefined
      const isWithin = token?.singleWord && isWithinWord(pieces[index - 1]?.text ?? '', pieces[index + 1]?.text ?? '')
      if (!token || isWithin) {
        text += strip ? trimmed(piece.text, 'start') : piece.text
        strip = false
        continue
      }
      if (token.lstrip) text = trimmed(text, 'end')
      if (text !== '') yield { text: this.#normalise(text), first }
      yield { token }
      first = false
      text = ''
      strip = token.rstrip
    }
    if (text !== '') yield { text: this.#normalise(text), first }
  }
}

const isWithinWord = (before: string, after: string) => WORD_AT_END.test(before) || WORD_AT_START.test(after)

/** Without the white space that a token takes along. */
function trimmed(text: string, side: 'start' | 'end'): string {
  let [start, end] = [0, text.length]
  if (side === 'start') while (start < end && SPACE.test(text[start]!)) start++
  else while (end > start && SPACE.test(text[end - 1]!)) end--
  return text.slice(start, end)
}

interface Entry {
  token: AddedToken
  content: string
}

/** Finds the leftmost and, of several at one place, the longest. */
class Finder {
  /** By the first code unit, longest first. */
  readonly #byStart = new Map<number, Entry[]>()

  constructor(entries: readonly Entry[]) {
    for (const entry of entries) {
      if (entry.content === '') continue
      const start = entry.content.charCodeAt(0)
      const list = this.#byStart.get(start)
      if (list) list.push(entry)
      else this.#byStart.set(start, [entry])
    }
    for (const list of this.#byStart.values()) list.sort((a, b) => b.content.length - a.content.length)
  }

  *split(text: string, first: boolean): Iterable<Section> {
    let done = 0
    for (let at = 0; at < text.length; ) {
      const found = this.#byStart.get(text.charCodeAt(at))?.find(({ content }) => text.startsWith(content, at))
      if (!found) {
        at++
        continue
      }
      const { token, content } = found
      let start = at
      let end = at + content.length
      at = end
      if (token.singleWord && (WORD_AT_END.test(before(text, start)) || WORD_AT_START.test(after(text, end)))) continue
      if (token.lstrip) while (start > done && SPACE.test(text[start - 1]!)) start--
      if (token.rstrip) while (end < text.length && SPACE.test(text[end]!)) end++
      if (start > done) yield { text: text.slice(done, start), first: first && done === 0 }
      yield { token }
      done = end
      at = Math.max(at, end)
    }
    if (done < text.length) yield { text: text.slice(done), first: first && done === 0 }
  }
}

/** The character before, or after, a place: of two code units where it has them. */
function before(text: string, at: number): string {
  return text.slice(Math.max(0, at - 2), at)
}

function after(text: string, at: number): string {
  return text.slice(at, at + 2)
}

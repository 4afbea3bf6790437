/** Token ids -> text, piece by piece. */
import type { Pieces } from './pieces.ts'

/** Prompt tokens that can still matter: a code point has four bytes, the rest is room for tokens without text. */
const CONTEXT_TOKENS = 32

/**
 * Turns generated tokens into text as they come. Never splits a code point; what push() and flush() return,
 * concatenated, is what decoding prompt and generated tokens together adds to the decoded prompt.
 */
export class Detokenizer {
  readonly #pieces: Pieces
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  /** Leading spaces still to be taken off. */
  #strip: number

  constructor(pieces: Pieces, prompt: ArrayLike<number> = []) {
    this.#pieces = pieces
    this.#strip = pieces.strippedSpaces
    if (!hasText(pieces, prompt)) return
    this.#strip = 0
    // A prompt given as tokens may end within a code point, which the answer then completes.
    for (let index = Math.max(0, prompt.length - CONTEXT_TOKENS); index < prompt.length; index++)
      this.push(prompt[index]!)
  }

  /** The text that this token completes; '' if none. */
  push(token: number): string {
    const bytes = this.#pieces.bytes[token]
    return bytes === undefined ? '' : this.#trim(this.#decoder.decode(bytes, { stream: true }))
  }

  /** What is left at the end: U+FFFD for an incomplete code point, mostly ''. */
  flush(): string {
    return this.#trim(this.#decoder.decode())
  }

  #trim(text: string): string {
    if (this.#strip === 0 || text === '') return text
    let start = 0
    while (start < this.#strip && text[start] === ' ') start++
    this.#strip = start === text.length ? this.#strip - start : 0
    return text.slice(start)
  }
}

function hasText(pieces: Pieces, tokens: ArrayLike<number>): boolean {
  for (let index = 0; index < tokens.length; index++) {
    if (pieces.bytes[tokens[index]!]?.length) return true
  }
  return false
}

/** The text of a whole sequence of tokens; special tokens show nothing. */
export function detokenize(pieces: Pieces, tokens: ArrayLike<number>): string {
  const detokenizer = new Detokenizer(pieces)
  let text = ''
  for (let index = 0; index < tokens.length; index++) text += detokenizer.push(tokens[index]!)
  return text + detokenizer.flush()
}

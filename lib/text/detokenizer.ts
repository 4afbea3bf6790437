/** Token ids -> text, piece by piece. */
import type { Pieces } from './tokenizer/pieces.ts'

/** Prompt tokens that can still matter: a code point has four bytes, the rest is room for tokens without text. */
const CONTEXT_TOKENS = 32

/**
 * Turns generated tokens into text as they come. Never splits a code point; what push() and flush() return,
 * concatenated, is what decoding prompt and generated tokens together adds to the decoded prompt.
 */
export class Detokenizer {
  readonly #pieces: Pieces
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  readonly #ending: Ending | undefined
  /** No token has shown anything yet. */
  #first = true
  /** Characters still to be taken off the start. */
  #strip: number

  constructor(pieces: Pieces, prompt: ArrayLike<number> = []) {
    this.#pieces = pieces
    const { strip, cleanUp } = pieces.rules
    this.#strip = strip?.start ?? 0
    // The start of the prompt may be stripped, and its end may be within a code point, which the answer completes.
    let index = 0
    while (index < prompt.length && (this.#first || this.#strip > 0)) this.#decode(prompt[index++]!)
    for (index = Math.max(index, prompt.length - CONTEXT_TOKENS); index < prompt.length; index++)
      this.#decode(prompt[index]!)
    if (cleanUp || strip?.stop) this.#ending = new Ending(pieces.rules)
  }

  /** The text that this token completes; '' if none. */
  push(token: number): string {
    const text = this.#decode(token)
    return this.#ending ? this.#ending.push(text) : text
  }

  /** What is known of the text before a token that shows nothing, as if the text ended there. */
  settle(): string {
    return this.#ending?.settle() ?? ''
  }

  /** What is left at the end: U+FFFD for an incomplete code point, mostly ''. */
  flush(): string {
    const text = this.#trim(this.#decoder.decode())
    return this.#ending ? this.#ending.push(text) + this.#ending.flush() : text
  }

  #decode(token: number): string {
    let bytes = this.#pieces.bytes(token)
    if (bytes === undefined) return ''
    const { firstLoses, separator } = this.#pieces.rules
    if (this.#first) {
      this.#first = false
      if (firstLoses !== undefined) {
        const text = this.#pieces.text(token)!
        if (text.includes(firstLoses)) bytes = Buffer.from(text.replaceAll(firstLoses, ''))
      }
    } else if (separator !== '') return this.#trim(separator + this.#decoder.decode(bytes, { stream: true }))
    return this.#trim(this.#decoder.decode(bytes, { stream: true }))
  }

  #trim(text: string): string {
    if (this.#strip === 0 || text === '') return text
    const { content } = this.#pieces.rules.strip!
    let start = 0
    let left = this.#strip
    while (left > 0 && text.startsWith(content, start) && start < text.length) {
      start += content.length
      left--
    }
    this.#strip = start === text.length ? left : 0
    return text.slice(start)
  }
}

/** Before these transformers' clean_up_tokenization_spaces takes a space away, one after the other. */
const CLEAN_UP: readonly (readonly [string, string])[] = [
  [' .', '.'],
  [' ?', '?'],
  [' !', '!'],
  [' ,', ','],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
]

/** Holds back what the end of a text, or its next characters, may still change. */
class Ending {
  readonly #cleanUp: boolean
  readonly #strip: { content: string; stop: number } | undefined
  /** Not cleaned yet. */
  #raw = ''
  /** Cleaned, and to be taken off if the text ends here. */
  #last = ''

  constructor({ cleanUp, strip }: Pieces['rules']) {
    this.#cleanUp = cleanUp
    this.#strip = strip?.stop ? strip : undefined
  }

  push(text: string): string {
    this.#raw += text
    const safe = this.#cleanUp ? safeEnd(this.#raw) : this.#raw.length
    return this.#hold(this.#clean(safe))
  }

  settle(): string {
    const text = this.#last + this.#clean(this.#raw.length)
    this.#last = ''
    return text
  }

  flush(): string {
    const text = this.#hold(this.#clean(this.#raw.length))
    this.#last = ''
    return text
  }

  #clean(length: number): string {
    const text = this.#raw.slice(0, length)
    this.#raw = this.#raw.slice(length)
    return this.#cleanUp ? CLEAN_UP.reduce((now, [from, to]) => now.replaceAll(from, to), text) : text
  }

  #hold(text: string): string {
    if (!this.#strip) return text
    const { content, stop } = this.#strip
    const all = this.#last + text
    let end = all.length
    for (let taken = 0; taken < stop && content !== '' && all.endsWith(content, end) && end > 0; taken++)
      end -= content.length
    this.#last = all.slice(end)
    return all.slice(0, end)
  }
}

/**
 * Where a text can be cut so that both parts are cleaned as the whole is: after three characters without a space, since
 * what is replaced begins with one and has four at most; and after one that nothing of what is replaced has.
 */
function safeEnd(text: string): number {
  for (let end = text.length; end > 0; end--) {
    if (/[^ .?!,'ntmsver]/.test(text[end - 1]!)) return end
    if (end > 2 && !text.slice(end - 3, end).includes(' ')) return end
  }
  return 0
}

/** The text of a whole sequence of tokens; special tokens show nothing. */
export function detokenize(pieces: Pieces, tokens: ArrayLike<number>): string {
  const detokenizer = new Detokenizer(pieces)
  let text = ''
  for (let index = 0; index < tokens.length; index++) text += detokenizer.push(tokens[index]!)
  return text + detokenizer.flush()
}

/** Text that grows piece by piece. */

const PIECES = 64

/**
 * Collects pieces of text without a string of its own for each: += on strings keeps every piece alive with a node
 * beside it, some sixty bytes a token, as long as nobody reads.
 */
export class TextBuffer {
  readonly #joined: string[] = []
  #pieces: string[] = []

  get empty(): boolean {
    return this.#joined.length === 0 && this.#pieces.length === 0
  }

  push(text: string): void {
    if (text === '') return
    if (this.#pieces.push(text) < PIECES) return
    this.#joined.push(this.#pieces.join(''))
    this.#pieces = []
  }

  /** All of the text. */
  toString(): string {
    return this.#joined.join('') + this.#pieces.join('')
  }

  /** All of the text, which then is no longer here. */
  take(): string {
    const text = this.toString()
    this.#joined.length = 0
    this.#pieces = []
    return text
  }
}

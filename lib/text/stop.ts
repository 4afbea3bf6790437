/** Stop strings in streamed text. */

/**
 * Passes text on up to the first stop string, holding back what may be the beginning of one. The outcome does not
 * depend on how the text is cut: the stop string that is complete first wins, of several the one that began first.
 */
export class StopMatcher {
  readonly #stops: readonly string[]
  #held = ''
  /** Parts of what is held that are looked at and not passed on: [start, end) each, in order. */
  #hidden: [start: number, end: number][] = []
  /** Stop strings that end within so much of what is held do not count. */
  #passed = 0
  #stopped = false

  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  /** A stop string was found; what follows is dropped. */
  get stopped(): boolean {
    return this.#stopped
  }

  /**
   * The text that is now certain to come before any stop string. What is `hidden` can be part of one, and is not passed on.
   * Unless it `counts`, no stop string ends in this text, but one may begin there.
   */
  push(text: string, { hidden = false, counts = true } = {}): string {
    if (this.#stopped) return ''
    if (this.#stops.length === 0) return hidden ? '' : text
    const buffer = this.#held + text
    if (hidden) this.#hidden.push([this.#held.length, buffer.length])
    if (!counts) this.#passed = buffer.length
    let start = -1
    let end = Number.POSITIVE_INFINITY
    for (const stop of this.#stops) {
      const at = buffer.indexOf(stop, Math.max(0, this.#passed - stop.length + 1))
      if (at === -1) continue
      const after = at + stop.length
      if (after < end || (after === end && at < start)) [start, end] = [at, after]
    }
    if (start !== -1) {
      this.#stopped = true
      return this.#pass(buffer.slice(0, start), '')
    }
    const certain = buffer.length - this.#partial(buffer)
    return this.#pass(buffer.slice(0, certain), buffer.slice(certain))
  }

  /** At the end: what was held back and turned out to be no stop string. */
  flush(): string {
    return this.#pass(this.#held, '')
  }

  /** What is seen of `text`, while `held` stays. */
  #pass(text: string, held: string): string {
    let seen = ''
    let at = 0
    for (const [start, end] of this.#hidden) {
      seen += text.slice(at, Math.max(at, start))
      at = Math.max(at, end)
    }
    seen += text.slice(at)
    this.#hidden = this.#hidden
      .map(([start, end]): [number, number] => [Math.max(0, start - text.length), end - text.length])
      .filter(([, end]) => end > 0)
    this.#passed = Math.max(0, this.#passed - text.length)
    this.#held = held
    return seen
  }

  /** Length of the longest end of the buffer with which a stop string begins. */
  #partial(buffer: string): number {
    let longest = 0
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, buffer.length); length > longest; length--) {
        if (buffer.endsWith(stop.slice(0, length))) {
          longest = length
          break
        }
      }
    }
    return longest
  }
}

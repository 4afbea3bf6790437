/** Stop strings in streamed text. */

/**
 * Passes text on up to the first stop string, holding back what may be the beginning of one. The outcome does not
 * depend on how the text is cut: the stop string that is complete first wins, of several the one that began first.
 */
export class StopMatcher {
  readonly #stops: readonly string[]
  #held = ''
  #stopped = false

  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  /** A stop string was found; what follows is dropped. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** The text that is now certain to come before any stop string. */
  push(text: string): string {
    if (this.#stopped) return ''
    if (this.#stops.length === 0) return text
    const buffer = this.#held + text
    let start = -1
    let end = Number.POSITIVE_INFINITY
    for (const stop of this.#stops) {
      const at = buffer.indexOf(stop)
      if (at === -1) continue
      const after = at + stop.length
      if (after < end || (after === end && at < start)) [start, end] = [at, after]
    }
    if (start !== -1) {
      this.#stopped = true
      this.#held = ''
      return buffer.slice(0, start)
    }
    const keep = this.#partial(buffer)
    this.#held = buffer.slice(buffer.length - keep)
    return buffer.slice(0, buffer.length - keep)
  }

  /** At the end: what was held back and turned out to be no stop string. */
  flush(): string {
    const rest = this.#held
    this.#held = ''
    return rest
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

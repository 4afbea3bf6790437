/** The text of an answer in the making: tokens in, text out, up to the first stop text. */
import { Detokenizer } from './detokenizer.ts'
import { StopMatcher } from './stop.ts'
import type { Pieces } from './tokenizer/pieces.ts'

/**
 * A detokenizer and a stop matcher in one. Special tokens show nothing, but a stop text may be one, or have some in it:
 * those are looked at, and are not in the text either. Some may be wanted in the text, `shown`.
 */
export class AnswerText {
  readonly #detokenizer: Detokenizer
  readonly #matcher: StopMatcher
  /** Texts of the special tokens that stop texts name. */
  readonly #watched: ReadonlyMap<number, string>

  readonly #shown: ReadonlyMap<number, string>
  /** Tokens that come before stop texts count. */
  #uncounted: number

  /** `prompt`: what the tokens continue. `minTokens`: no stop text counts that is complete with so many. */
  constructor(
    pieces: Pieces,
    stops: readonly string[],
    {
      prompt = [],
      shown = new Map(),
      minTokens = 0,
    }: { prompt?: ArrayLike<number>; shown?: ReadonlyMap<number, string> | undefined; minTokens?: number } = {},
  ) {
    this.#detokenizer = new Detokenizer(pieces, prompt)
    this.#matcher = new StopMatcher(stops)
    this.#shown = shown
    this.#uncounted = minTokens
    this.#watched = stops.length === 0 ? new Map() : watchedTokens(pieces, stops)
  }

  /** A stop text was found; what follows is dropped. */
  get stopped(): boolean {
    return this.#matcher.stopped
  }

  /** The text that is now certain to be part of the answer: whole code points, '' if none. */
  push(token: number): string {
    const counts = this.#uncounted <= 0
    this.#uncounted--
    const shown = this.#shown.get(token)
    const special = shown ?? this.#watched.get(token)
    if (special === undefined) return this.#matcher.push(this.#detokenizer.push(token), { counts })
    const before = this.#matcher.push(this.#detokenizer.settle(), { counts })
    return before + this.#matcher.push(special, { hidden: shown === undefined, counts })
  }

  /** What is left at the end. */
  flush(): string {
    return this.#matcher.push(this.#detokenizer.flush(), { counts: this.#uncounted <= 0 }) + this.#matcher.flush()
  }
}

function watchedTokens(pieces: Pieces, stops: readonly string[]): ReadonlyMap<number, string> {
  return new Map([...pieces.specials].filter(([, text]) => stops.some((stop) => stop.includes(text))))
}

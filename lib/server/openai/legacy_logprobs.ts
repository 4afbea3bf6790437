/** Log-probabilities as completions have them: four lists, one entry a token. */
import type { Model, TokenLogprob } from '../../index.ts'
import { finite, type TokenFacts } from '../answer/logprobs.ts'
import type { Echo } from './echo.ts'

export interface LegacyLogprobs {
  tokens: string[]
  token_logprobs: (number | null)[]
  top_logprobs: (Record<string, number> | null)[] | null
  text_offset: number[]
}

export class LogprobsWriter {
  readonly #model: Model
  readonly #top: number
  readonly #decoder = new TextDecoder()
  /** UTF-16 units of the text so far. */
  #offset = 0
  #lists = empty()

  constructor(model: Model, top: number) {
    this.#model = model
    this.#top = top
  }

  echo({ tokens, logprobs = [], topLogprobs = [] }: Echo): void {
    for (const [index, token] of tokens.entries())
      this.#push(token, logprobs[index] ?? null, topLogprobs[index] ?? null)
  }

  add({ tokens, logprobs = [], topLogprobs = [] }: TokenFacts): void {
    for (const [index, token] of tokens.entries()) this.#push(token, logprobs[index]!, topLogprobs[index] ?? [])
  }

  /** Those since the last time. */
  take(): LegacyLogprobs {
    const lists = this.#lists
    this.#lists = empty()
    return this.#top > 0 ? lists : { ...lists, top_logprobs: null }
  }

  #push(token: number, logprob: number | null, top: readonly TokenLogprob[] | null): void {
    const { tokens, token_logprobs, top_logprobs, text_offset } = this.#lists
    tokens.push(this.#textOf(token))
    token_logprobs.push(logprob === null ? null : finite(logprob))
    top_logprobs.push(
      top && Object.fromEntries(top.map(({ token: other, logprob: value }) => [this.#textOf(other), finite(value)])),
    )
    text_offset.push(this.#offset)
    // Special tokens are in no text.
    if (this.#model.tokenizer.decode([token]) === '' && this.#textOf(token) !== '') return
    this.#offset += this.#decoder.decode(this.#model.tokenizer.bytesOf(token), { stream: true }).length
  }

  /** A part of a code point as OpenAI writes it: 'bytes:\xe2\x80'. */
  #textOf(token: number): string {
    const bytes = this.#model.tokenizer.bytesOf(token) ?? new Uint8Array(0)
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    } catch {
      return `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`
    }
  }
}

const empty = () => ({
  tokens: [] as string[],
  token_logprobs: [] as (number | null)[],
  top_logprobs: [] as (Record<string, number> | null)[],
  text_offset: [] as number[],
})

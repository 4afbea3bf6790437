/** Log-probabilities of tokens, as OpenAI's chats have them. */
import type { Model, TokenLogprob } from '../../index.ts'

/** JSON has no -Infinity; OpenAI's API writes -9999 for what is out of the question. */
const LEAST = -9999

export const finite = (logprob: number) => (Number.isFinite(logprob) ? logprob : LEAST)

/** The token's text; a part of a code point shows as U+FFFD, and its bytes tell what it is. */
export function tokenText(model: Model, token: number): string {
  return new TextDecoder().decode(model.tokenizer.bytesOf(token) ?? new Uint8Array(0))
}

const entryOf = (model: Model, { token, logprob }: TokenLogprob) => ({
  token: tokenText(model, token),
  logprob: finite(logprob),
  bytes: [...(model.tokenizer.bytesOf(token) ?? [])],
})

export interface TokenFacts {
  tokens: readonly number[]
  logprobs?: readonly number[]
  topLogprobs?: readonly TokenLogprob[][]
}

export function chatLogprobs(model: Model, { tokens, logprobs = [], topLogprobs = [] }: TokenFacts) {
  return tokens.map((token, index) => ({
    ...entryOf(model, { token, logprob: logprobs[index]! }),
    top_logprobs: (topLogprobs[index] ?? []).map((top) => entryOf(model, top)),
  }))
}

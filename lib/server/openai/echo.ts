/** A prompt given back, with how likely the model finds it. */
import { setImmediate as breathe } from 'node:timers/promises'
import type { Model, TokenLogprob } from '../../index.ts'

export interface Echo {
  text: string
  tokens: number[]
  /** One a token, if asked for; of the first there is none. */
  logprobs?: (number | null)[]
  topLogprobs?: (TokenLogprob[] | null)[]
}

/** `top`: so many of the most likely tokens at each place; undefined: no log-probabilities. */
export async function makeEcho(
  model: Model,
  prompt: string | readonly number[],
  top: number | undefined,
  signal: AbortSignal,
): Promise<Echo> {
  const given = typeof prompt === 'string' ? prompt : model.tokenizer.decode([...prompt])
  if (top === undefined) {
    const tokens = typeof prompt === 'string' ? await model.tokenizer.encode(prompt, { signal }) : prompt
    return { text: given, tokens: [...tokens] }
  }
  const { tokens, logprobs, logits } = await model.score(prompt, { logits: top > 0, signal })
  return {
    text: given,
    tokens: [...tokens],
    logprobs: [null, ...logprobs],
    topLogprobs: [null, ...(logits ? await topOfRows(logits, tokens.length - 1, top) : [])],
  }
}

/** Of each row; the event loop has its turn in between. */
async function topOfRows(logits: Float32Array, rows: number, count: number): Promise<TokenLogprob[][]> {
  const vocab = logits.length / (rows + 1)
  const found: TokenLogprob[][] = []
  for (let row = 0; row < rows; row++) {
    found.push(topOf(logits.subarray(row * vocab, (row + 1) * vocab), count))
    if ((row * vocab) % ROWS_BYTES < vocab) await breathe()
  }
  return found
}

/** So many logits are gone through at once. */
const ROWS_BYTES = 2 ** 20

function topOf(row: Float32Array, count: number): TokenLogprob[] {
  let most = Number.NEGATIVE_INFINITY
  for (const logit of row) if (logit > most) most = logit
  let sum = 0
  const best: { token: number; logprob: number }[] = []
  for (let token = 0; token < row.length; token++) {
    const logit = row[token]!
    sum += Math.exp(logit - most)
    if (best.length === count && logit <= best[count - 1]!.logprob) continue
    let at = best.length
    while (at > 0 && best[at - 1]!.logprob < logit) at--
    best.splice(at, 0, { token, logprob: logit })
    if (best.length > count) best.pop()
  }
  const log = most + Math.log(sum)
  return best.map(({ token, logprob }) => ({ token, logprob: logprob - log }))
}

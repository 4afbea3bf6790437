/** What drafts are worth: tokens of a pass against what its rows cost. */

/** Of a sequence in one pass, where nobody asks for another number. */
export const MOST_AUTO_DRAFTS = 31

export interface DraftPrediction {
  /** That a draft is right, given that those before it were. */
  acceptance: number
  /** Drafts of a sequence in a pass, as many as are worth their rows. */
  drafts: number
  /** Of a sequence, the one that follows the drafts that stand counted. */
  tokensPerPass: number
  /** The draft model's passes counted. */
  passSeconds: number
  /** Of all sequences together. */
  tokensPerSecond: number
}

/** Tokens that a pass yields of a sequence with so many drafts. */
export function tokensPerPass(acceptance: number, drafts: number): number {
  return acceptance === 1 ? drafts + 1 : (1 - acceptance ** (drafts + 1)) / (1 - acceptance)
}

/**
 * Of `batch` sequences that all have as many drafts. `costs`: seconds of passes with 1, 2, ... rows. `drafting`: of a
 * pass of the draft model for all of them, one a draft; 0 where there is none. `room`: drafts of a pass, at most. Ties go
 * to the fewest drafts.
 */
export function predictDrafts(
  costs: readonly number[],
  batch: number,
  acceptance: number,
  drafting = 0,
  room = Number.POSITIVE_INFINITY,
): DraftPrediction {
  const rows = Math.min(costs.length, batch + room)
  const most = Math.max(0, Math.min(MOST_AUTO_DRAFTS, Math.floor(rows / batch) - 1))
  const choices = Array.from({ length: most + 1 }, (_, drafts): DraftPrediction => {
    const tokens = tokensPerPass(acceptance, drafts)
    const passSeconds = costs[Math.min(batch * (drafts + 1), costs.length) - 1]! + drafts * drafting
    return { acceptance, drafts, tokensPerPass: tokens, passSeconds, tokensPerSecond: (batch * tokens) / passSeconds }
  })
  return choices.reduce((best, one) => (one.tokensPerSecond > best.tokensPerSecond ? one : best))
}

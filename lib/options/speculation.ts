/** How many passes an answer takes: tokens that are guessed ahead and checked several at a time. */
import { z } from 'zod'
import { MOST_AUTO_DRAFTS } from '../plan/drafts.ts'
import { integer, invalidArgument } from './validate.ts'

export interface Speculation {
  /**
   * 'draft': what the draft model would say, of a model that was loaded with one; 'ngram': what followed the last tokens where they stood before, in the prompt or in the answer; 'auto': the draft model's, or where
   * there is none n-grams, as many as are worth their rows by what was right of late and what passes take; 'off': one
   * token a pass. No token of the answer depends on it. Default 'auto'.
   */
  method?: 'auto' | 'ngram' | 'draft' | 'off' | undefined
  /** At most so many drafts of a sequence in a pass. Default 31 of 'auto', else 8. */
  tokens?: number | undefined
}

/** More would never be worth their rows. */
const MOST_DRAFTS = 63

export const speculation = z.strictObject(
  {
    method: z.enum(['auto', 'ngram', 'draft', 'off'], { error: "'auto', 'ngram', 'draft' or 'off'" }).optional(),
    tokens: integer(1, MOST_DRAFTS).optional(),
  },
  { error: "an object such as { method: 'ngram', tokens: 8 }" },
)

/** Throws INVALID_ARGUMENT where drafts are asked of a model that there is not. */
export function checkDrafts(asked: Speculation | undefined, hasModel: boolean): void {
  if (asked?.method !== 'draft' || hasModel) return
  throw invalidArgument(
    "'auto', 'ngram' or 'off'",
    'speculation.method',
    'draft',
    'load the model with the option draft',
  )
}

const FIXED_DRAFTS = 8

/** Every field of it: what the request names, or else the load, or else the default. */
export function draftsOf(...asked: readonly (Speculation | undefined)[]) {
  const named = <Name extends keyof Speculation>(name: Name) => asked.find((one) => one?.[name] !== undefined)?.[name]
  const draftMethod = named('method') ?? 'auto'
  const tokens = named('tokens') ?? (draftMethod === 'auto' ? MOST_AUTO_DRAFTS : FIXED_DRAFTS)
  return { draftMethod, draftTokens: draftMethod === 'off' ? 0 : tokens }
}

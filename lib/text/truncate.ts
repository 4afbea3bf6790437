/** Prompts that are longer than the context, cut by the caller's wish. */

/** Which part of a prompt goes: its start, or its middle. */
export type Truncation = 'start' | 'middle'

/**
 * Of a context, the tokens that a prompt may keep: the answer gets maxTokens, but no more than half of the context; a
 * quarter where maxTokens was not named.
 */
export function promptRoom(contextLength: number, maxTokens: number | undefined): number {
  const answer = Math.min(maxTokens ?? Math.floor(contextLength / 4), Math.floor(contextLength / 2))
  return contextLength - Math.max(answer, 1)
}

/** At most `room` of the tokens, in their order. The first stays if `keepFirst`: models need their begin-of-text token. */
export function truncatePrompt(tokens: Int32Array, room: number, which: Truncation, keepFirst: boolean): Int32Array {
  const excess = tokens.length - room
  if (excess <= 0) return tokens
  const first = keepFirst && room > 1 ? 1 : 0
  const start = which === 'start' ? first : Math.max(first, Math.ceil(room / 2))
  const kept = new Int32Array(room)
  kept.set(tokens.subarray(0, start))
  kept.set(tokens.subarray(start + excess), start)
  return kept
}

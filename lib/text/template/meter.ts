/** Bounds of one rendering: whatever a template does costs steps, so that a hostile one ends without timers. */
import { Unbounded } from './problems.ts'

export const MAX_STEPS = 2_000_000

/** Characters of any one text, the prompt included. */
export const MAX_TEXT = 16 * 2 ** 20

/** Calls within calls of macros. */
export const MAX_DEPTH = 200

/** Characters that are read or copied in the time of a step. */
const TEXT_PER_STEP = 64

/** Rendering is synchronous, so one count serves all values and filters without being handed through them. */
let steps = 0

export function startMeter(): void {
  steps = 0
}

export const stepsTaken = () => steps

/** Counts work; lists cost their length. */
export function spend(work = 1): void {
  steps += work
  if (!(steps <= MAX_STEPS)) throw new Unbounded(`more than ${MAX_STEPS} steps`)
}

/** Counts the reading of a text. */
export function spendText(length: number): void {
  if (length > MAX_TEXT) throw new Unbounded(`a text of more than ${MAX_TEXT} characters`)
  spend(1 + length / TEXT_PER_STEP)
}

/** A text put together from others: V8 copies nothing until it is read, so its length alone is bounded. */
export function bounded(text: string): string {
  if (text.length > MAX_TEXT) throw new Unbounded(`a text of more than ${MAX_TEXT} characters`)
  return text
}

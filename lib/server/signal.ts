import { z } from 'zod'
import { MillraceError } from '../index.ts'

/** Throws ABORTED. */
export function requireNotAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw new MillraceError('ABORTED', { message: `${what} was aborted`, cause: signal.reason })
}

export const abortSignal = z.custom<AbortSignal>((value) => value instanceof AbortSignal, { error: 'an AbortSignal' })

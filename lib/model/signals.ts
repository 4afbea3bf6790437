/** Abort signals that many requests share. */
import { MillraceError } from '../errors.ts'

interface Entry {
  callbacks: Set<() => void>
  listener: () => void
}

const entries = new WeakMap<AbortSignal, Entry>()

/**
 * Calls back once when the signal aborts, unless the returned function was called before. One listener stands for all
 * callbacks of a signal: Node warns of a leak at the eleventh listener, and a signal for a batch of requests is none.
 */
export function onAbort(signal: AbortSignal, callback: () => void): () => void {
  const { callbacks, listener } = entryOf(signal)
  if (callbacks.size === 0) signal.addEventListener('abort', listener, { once: true })
  callbacks.add(callback)
  return () => {
    if (callbacks.delete(callback) && callbacks.size === 0) signal.removeEventListener('abort', listener)
  }
}

function entryOf(signal: AbortSignal): Entry {
  const known = entries.get(signal)
  if (known) return known
  const callbacks = new Set<() => void>()
  const listener = () => {
    const waiting = [...callbacks]
    callbacks.clear()
    for (const callback of waiting) callback()
  }
  const entry = { callbacks, listener }
  entries.set(signal, entry)
  return entry
}

/** Throws ABORTED. */
export function requireNotAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw abortedError(signal, what)
}

export function abortedError(signal: AbortSignal, what: string): MillraceError {
  return new MillraceError('ABORTED', { message: `${what} was aborted`, cause: signal.reason })
}

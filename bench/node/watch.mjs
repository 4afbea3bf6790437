/** How late the timers of this thread are. */
import { closeSync, openSync, readSync } from 'node:fs'
import { performance } from 'node:perf_hooks'

/** Milliseconds that this thread has been ready to run while others had the processors (Linux's schedstat). */
const schedstat = openSync('/proc/thread-self/schedstat')
const buffer = Buffer.alloc(128)
function waitedForProcessor() {
  const length = readSync(schedstat, buffer, 0, buffer.length, 0)
  return Number(buffer.toString('latin1', 0, length).split(' ')[1]) / 1e6
}

/**
 * By how many milliseconds each of a chain of 1 ms timers was late, and `own`: without the time in which the thread was
 * ready but had no processor, which other processes (and the model's own threads) have on a busy machine.
 */
export function watch() {
  const late = []
  const own = []
  let due = performance.now() + 1
  let waited = waitedForProcessor()
  let timer
  const tick = () => {
    const delay = Math.max(0, performance.now() - due)
    const nowWaited = waitedForProcessor()
    late.push(delay)
    own.push(Math.max(0, delay - (nowWaited - waited)))
    waited = nowWaited
    due = performance.now() + 1
    timer = setTimeout(tick, 1)
  }
  timer = setTimeout(tick, 1)
  return () => {
    clearTimeout(timer)
    const summary = (delays) => {
      delays.sort((a, b) => a - b)
      const at = (share) => delays[Math.min(delays.length - 1, Math.floor(share * delays.length))]
      return { p50: at(0.5), p99: at(0.99), max: delays.at(-1) }
    }
    return { timers: late.length, ...summary(late), own: summary(own) }
  }
}

/** Nothing is watched any more. */
export function closeWatch() {
  closeSync(schedstat)
}

/** A thread that holds tokenizers, as its users' side sees it. */
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { Reply, Request } from './protocol.ts'

/** MiB of the thread's heap, for all tokenizers: byte pairs of 256,000 tokens keep 60, and take 200 while they are read. */
export const HEAP_LIMIT_MB = 1024

export interface TokenizerThread {
  post(request: Request): void
  /** Whether it keeps the process alive. */
  hold(held: boolean): void
  /** Nothing is heard of it any more. */
  stop(): void
}

export interface ThreadEvents {
  onReply(reply: Reply): void
  /** It has ended by itself. */
  onDeath(cause: Error): void
}

/**
 * A worker thread; or, where there is no script for one or the process may start none, this thread itself, whose event
 * loop then waits for it.
 */
export function startThread(events: ThreadEvents): TokenizerThread {
  const script = workerScript()
  try {
    return script ? startWorker(script, events) : startHere(events)
  } catch {
    return startHere(events)
  }
}

function startWorker(script: URL, events: ThreadEvents): TokenizerThread {
  const worker = new Worker(script, {
    // Flags of the process, such as --eval or --test, are not meant for it.
    execArgv: [],
    name: 'millrace tokenizer',
    resourceLimits: { maxOldGenerationSizeMb: HEAP_LIMIT_MB },
  })
  let live = true
  const die = (cause: Error) => {
    if (!live) return
    live = false
    events.onDeath(cause)
  }
  worker.on('message', (reply: Reply) => {
    if (live) events.onReply(reply)
  })
  worker.on('error', die)
  worker.on('exit', (code) => die(new Error(`it ended with code ${code}`)))
  return {
    post: (request) => worker.postMessage(request),
    hold: (held) => (held ? worker.ref() : worker.unref()),
    stop: () => {
      live = false
      void worker.terminate()
    },
  }
}

function startHere({ onReply }: ThreadEvents): TokenizerThread {
  let live = true
  const host = import('./host.ts').then(({ TokenizerHost }) => {
    return new TokenizerHost((reply) => {
      if (live) onReply(reply)
    })
  })
  return {
    post: (request) => {
      // As a thread would get it: a copy, which throws of what cannot be copied.
      const copy = structuredClone(request)
      void host.then((ready) => ready.take(copy))
    },
    hold: () => {},
    stop: () => {
      live = false
    },
  }
}

/** Straight from the sources, the built package's: Node 20 runs no TypeScript. */
function workerScript(): URL | undefined {
  const here = fileURLToPath(import.meta.url)
  const script = here.endsWith('.ts')
    ? join(dirname(here), '..', '..', '..', 'dist', 'text', 'tokenizer', 'worker.js')
    : join(dirname(here), 'worker.js')
  return existsSync(script) ? pathToFileURL(script) : undefined
}

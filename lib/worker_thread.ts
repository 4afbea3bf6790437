/** A thread for work that would hold the event loop, as its users' side sees it. */
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'

export interface WorkerThread<Request> {
  post(request: Request): void
  /** Whether it keeps the process alive. */
  hold(held: boolean): void
  /** Nothing is heard of it any more. */
  stop(): void
}

export interface WorkerEvents<Reply> {
  onReply(reply: Reply): void
  /** It has ended by itself. */
  onDeath(cause: Error): void
}

export interface WorkerKind<Request, Reply> {
  name: string
  /** Its script among the built files, from the package's folder of them on. */
  script: string
  heapLimitMb: number
  /** Of it what is new: work that makes much and drops it is collected less often. Default: V8's. */
  youngHeapMb?: number
  /** The same on this thread: takes requests, and replies. */
  here(reply: (reply: Reply) => void): Promise<(request: Request) => void>
}

/**
 * A worker thread; or, where there is no script for one or the process may start none, this thread itself, whose event
 * loop then waits for it.
 */
export function startThread<Request, Reply>(
  kind: WorkerKind<Request, Reply>,
  events: WorkerEvents<Reply>,
): WorkerThread<Request> {
  const script = workerScript(kind.script)
  try {
    return script ? startWorker(kind, script, events) : startHere(kind, events)
  } catch {
    return startHere(kind, events)
  }
}

function startWorker<Request, Reply>(
  { name, heapLimitMb, youngHeapMb }: WorkerKind<Request, Reply>,
  script: URL,
  events: WorkerEvents<Reply>,
): WorkerThread<Request> {
  const worker = new Worker(script, {
    // Flags of the process, such as --eval or --test, are not meant for it.
    execArgv: [],
    name: `millrace ${name}`,
    resourceLimits: {
      maxOldGenerationSizeMb: heapLimitMb,
      ...(youngHeapMb === undefined ? {} : { maxYoungGenerationSizeMb: youngHeapMb }),
    },
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

function startHere<Request, Reply>(
  kind: WorkerKind<Request, Reply>,
  { onReply }: WorkerEvents<Reply>,
): WorkerThread<Request> {
  let live = true
  const ready = kind.here((reply) => {
    if (live) onReply(reply)
  })
  return {
    post: (request) => {
      // As a thread would get it: a copy, which throws of what cannot be copied.
      const copy = structuredClone(request)
      void ready.then((take) => take(copy))
    },
    hold: () => {},
    stop: () => {
      live = false
    },
  }
}

/** Straight from the sources, the built package's: Node 20 runs no TypeScript. */
function workerScript(script: string): URL | undefined {
  const here = fileURLToPath(import.meta.url)
  const folder = here.endsWith('.ts') ? join(dirname(here), '..', 'dist') : dirname(here)
  const path = join(folder, script)
  return existsSync(path) ? pathToFileURL(path) : undefined
}

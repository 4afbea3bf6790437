/**
 * The one thread of this environment that compiles constraints, so that none holds the event loop, and what it has
 * compiled of late: a constraint is compiled once, whoever asks.
 */
import { MillraceError } from '../errors.ts'
import { abortedError, onAbort } from '../model/signals.ts'
import { startThread, type WorkerThread } from '../worker_thread.ts'
import type { Reply, Request } from './protocol.ts'
import type { Task } from './task.ts'

/** MiB of the thread's heap: the bounds of what is compiled lie far below. */
const HEAP_LIMIT_MB = 1024
/** MiB for what is new: automata in the making are dropped at once, and a third of the time went to collecting them. */
const YOUNG_HEAP_MB = 192
/** Programs that are kept, and their bytes. */
const KEPT = 256
const KEPT_BYTES = 64 * 2 ** 20
/** Milliseconds without work until the thread ends. */
const IDLE_MS = 10_000

type Program = Uint32Array<ArrayBuffer>

interface Entry {
  task: Task
  resolve(program: Program): void
  reject(error: unknown): void
}

class ConstraintService {
  /** By id, in the order of the thread's work. */
  readonly #pending = new Map<number, Entry>()
  /** By content, the one used longest ago first. */
  readonly #programs = new Map<string, { program: Promise<Program>; bytes: number }>()
  #thread: WorkerThread<Request> | undefined
  #timer: NodeJS.Timeout | undefined
  #next = 0

  /** Rejects with what is wrong with the constraint, or with ABORTED; others may wait for the same. */
  async compile(task: Task, signal?: AbortSignal): Promise<Program> {
    if (signal?.aborted) throw abortedError(signal, 'the request')
    const program = this.#program(keyOf(task), task)
    if (!signal) return program
    let off: () => void = () => {}
    const aborted = new Promise<never>((_, reject) => {
      off = onAbort(signal, () => reject(abortedError(signal, 'the request')))
    })
    try {
      return await Promise.race([program, aborted])
    } finally {
      off()
    }
  }

  #program(key: string, task: Task): Promise<Program> {
    const known = this.#programs.get(key)
    this.#programs.delete(key)
    if (known) {
      this.#programs.set(key, known)
      return known.program
    }
    const entry = { program: this.#ask(task), bytes: key.length }
    this.#programs.set(key, entry)
    entry.program.then(
      ({ byteLength }) => {
        entry.bytes += byteLength
        this.#forget()
      },
      // What has failed may be told again, but is not kept.
      () => this.#programs.delete(key),
    )
    return entry.program
  }

  #forget(): void {
    let bytes = [...this.#programs.values()].reduce((sum, entry) => sum + entry.bytes, 0)
    for (const [key, entry] of this.#programs) {
      if (this.#programs.size <= KEPT && bytes <= KEPT_BYTES) return
      this.#programs.delete(key)
      bytes -= entry.bytes
    }
  }

  #ask(task: Task): Promise<Program> {
    return new Promise((resolve, reject) => {
      const id = this.#next++
      this.#pending.set(id, { task, resolve, reject })
      this.#start().post({ id, task })
      this.#rest()
    })
  }

  #start(): WorkerThread<Request> {
    this.#thread ??= startThread<Request, Reply>(
      {
        name: 'constraints',
        script: 'constraint_thread.js',
        heapLimitMb: HEAP_LIMIT_MB,
        youngHeapMb: YOUNG_HEAP_MB,
        here: async (reply) => {
          const { answer } = await import('./protocol.ts')
          return (request) => reply(answer(request))
        },
      },
      { onReply: (reply) => this.#onReply(reply), onDeath: (cause) => this.#onDeath(cause) },
    )
    return this.#thread
  }

  #onReply(reply: Reply): void {
    const entry = this.#pending.get(reply.id)
    this.#pending.delete(reply.id)
    if ('error' in reply) entry?.reject(new MillraceError(reply.error.code, reply.error))
    else entry?.resolve(reply.program)
    this.#rest()
  }

  /** Fails what the thread was at; a new thread does the rest. */
  #onDeath(cause: Error): void {
    this.#thread = undefined
    const [first, ...rest] = this.#pending
    if (first) {
      const tooLarge = (cause as NodeJS.ErrnoException).code === 'ERR_WORKER_OUT_OF_MEMORY'
      this.#pending.delete(first[0])
      first[1].reject(
        new MillraceError(tooLarge ? 'CONSTRAINT_TOO_LARGE' : 'INTERNAL', {
          message: tooLarge
            ? `the constraint takes more than ${HEAP_LIMIT_MB} MiB of memory to compile`
            : `the thread that compiles constraints failed: ${cause.message}`,
          cause,
        }),
      )
    }
    for (const [id, { task }] of rest) this.#start().post({ id, task })
    this.#rest()
  }

  /** Only pending work keeps the process alive. */
  #rest(): void {
    clearTimeout(this.#timer)
    this.#thread?.hold(this.#pending.size > 0)
    if (this.#pending.size > 0 || !this.#thread) return
    this.#timer = setTimeout(() => {
      this.#thread?.stop()
      this.#thread = undefined
    }, IDLE_MS).unref()
  }
}

let instance: ConstraintService | undefined

export function constraintService(): ConstraintService {
  instance ??= new ConstraintService()
  return instance
}

const keys = new WeakMap<Task, string>()

/** The task's content. */
export function keyOf(task: Task): string {
  let key = keys.get(task)
  if (key === undefined) {
    key = JSON.stringify(task)
    keys.set(task, key)
  }
  return key
}

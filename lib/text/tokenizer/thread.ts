/** The thread that holds tokenizers. */
import { startThread as start, type WorkerEvents, type WorkerThread } from '../../worker_thread.ts'
import type { Reply, Request } from './protocol.ts'

/** MiB of the thread's heap, for all tokenizers: byte pairs of 256,000 tokens keep 60, and take 200 while they are read. */
export const HEAP_LIMIT_MB = 1024

export type TokenizerThread = WorkerThread<Request>

export function startThread(events: WorkerEvents<Reply>): TokenizerThread {
  return start<Request, Reply>(
    {
      name: 'tokenizer',
      script: 'tokenizer_thread.js',
      heapLimitMb: HEAP_LIMIT_MB,
      here: async (reply) => {
        const { TokenizerHost } = await import('./host.ts')
        const host = new TokenizerHost(reply)
        return (request) => host.take(request)
      },
    },
    events,
  )
}

/** Files of requests, as OpenAI's batches have them, answered in process; where it was ended, it goes on. */
import { randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { access, open, stat } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { MillraceError } from '../index.ts'
import { answeredIn, withoutPassing } from './batch_output.ts'
import type { ServeOptions } from './options.ts'
import { makeApp } from './serve.ts'
import { requireNotAborted } from './signal.ts'

export interface BatchProgress {
  /** Lines that are answered, of so many; those of earlier runs count as done. */
  done: number
  total: number
  failed: number
  /** Of this run. */
  answered: number
  completionTokens: number
}

export interface BatchOptions {
  input: string
  output: string
  /** Requests at once. Default: what the first model's plan was made for. */
  concurrency?: number | undefined
  signal?: AbortSignal | undefined
  onProgress?: (progress: BatchProgress) => void
}

interface Line {
  custom_id: string
  url: string
  body: Record<string, unknown>
}

interface Body {
  usage?: { completion_tokens?: number; output_tokens?: number }
  error?: { message: string; code: string | null }
}

const URLS = ['/v1/chat/completions', '/v1/completions', '/v1/responses', '/v1/embeddings']

/**
 * Answers every line of `input` that `output` has no answer to, in the order in which answers end; failures that pass,
 * such as a full queue, are no answers of earlier runs. Both are looked through before a model is loaded. Rejects with
 * INVALID_ARGUMENT, as load() does, also of a model that is loaded later, with GPU_LOST, and with ABORTED; what is answered
 * by then is in the file, and another run asks for the rest.
 */
export async function runBatch(
  models: Pick<ServeOptions, 'models' | 'load' | 'lazy' | 'ramBudget' | 'maxWaitMs'>,
  { input, output, concurrency, signal, onProgress = () => {} }: BatchOptions,
): Promise<BatchProgress> {
  await requireInput(input, output)
  const ids = await readIds(input)
  let file = await open(output, 'a+')
  try {
    const { done, failed, again } = await answeredIn(file, ids)
    const progress = { done: done.size, total: ids.size, failed, answered: 0, completionTokens: 0 }
    if (done.size < ids.size) {
      const silent = { page: false, logLevel: 'silent', bodyLimit: 2 ** 28 } as const
      const { app, handle } = await makeApp({ ...models, ...silent, signal })
      const stop = () => void handle.pool.close()
      signal?.addEventListener('abort', stop, { once: true })
      try {
        if (signal?.aborted) stop()
        if (again) file = await withoutPassing(file, output)
        const atOnce = concurrency ?? handle.pool.entries[0]!.model?.plan.batch ?? 1
        let writing: Promise<unknown> = Promise.resolve()
        await forEachAtOnce(linesOf(input), atOnce, async ({ text, number }) => {
          const line = parseLine(text, input, number)
          if (done.has(line.custom_id)) return
          requireNotAborted(signal, 'the batch')
          const response = await app.inject({ method: 'POST', url: line.url, payload: line.body })
          // What was cut short is for the next run.
          requireNotAborted(signal, 'the batch')
          const { statusCode, headers } = response
          const body = response.json() as Body
          if (statusCode >= 500) requireGoingOn(handle.pool.failure, statusCode, body, line)
          const answer = `${JSON.stringify(answerOf(line, statusCode, headers, body))}\n`
          writing = writing.then(() => file.appendFile(answer))
          await writing.catch((cause) => {
            const message = `the output file ${output} could not be written to: ${(cause as Error).message}`
            throw new MillraceError('WRITE_FAILED', { message, cause })
          })
          progress.done++
          progress.answered++
          if (statusCode !== 200) progress.failed++
          progress.completionTokens += body.usage?.completion_tokens ?? body.usage?.output_tokens ?? 0
          onProgress({ ...progress })
        })
      } finally {
        signal?.removeEventListener('abort', stop)
        await app.close()
      }
    }
    return progress
  } finally {
    await file.close()
  }
}

/** Throws what would fail the lines to come as well: the next run answers them, and this one. */
function requireGoingOn(loadFailure: unknown, status: number, { error }: Body, { custom_id }: Line): void {
  if (loadFailure !== undefined) throw loadFailure
  // A text may be too large for any memory: that is its answer.
  if (status !== 503 || error?.code === 'OUT_OF_MEMORY') return
  throw MillraceError.fromNative({
    code: error?.code,
    message: `the batch has ended at ${JSON.stringify(custom_id)}: ${error?.message}`,
    remedy: 'run the same command again: it goes on with the lines that have no answer',
  })
}

function answerOf({ custom_id }: Line, status_code: number, headers: Record<string, unknown>, body: object) {
  return {
    id: `batch_req_${randomUUID().replaceAll('-', '')}`,
    custom_id,
    response: { status_code, request_id: headers['x-request-id'], body },
    error: null,
  }
}

async function requireInput(path: string, output: string): Promise<void> {
  const refuse = (message: string, remedy: string, cause?: unknown) =>
    new MillraceError('INVALID_ARGUMENT', { message, remedy, cause })
  const remedy = 'pass the path of a file with a request a line'
  try {
    await access(path)
  } catch (cause) {
    throw refuse(`the input file ${path} cannot be opened: ${(cause as NodeJS.ErrnoException).code}`, remedy, cause)
  }
  const [from, to] = await Promise.all([path, output].map((file) => stat(file).catch(() => undefined)))
  if (from?.isDirectory()) throw refuse(`the input file ${path} is a folder`, remedy)
  if (from && to && from.dev === to.dev && from.ino === to.ino) {
    throw refuse(`${path} is the input and the output`, 'pass the path of another file for the output')
  }
}

async function* linesOf(path: string): AsyncGenerator<{ text: string; number: number }, void, undefined> {
  const stream = createReadStream(path, { encoding: 'utf8' })
  let number = 0
  for await (const text of createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })) {
    number++
    if (text.trim() !== '') yield { text, number }
  }
}

const wrong = (path: string, number: number, message: string) =>
  new MillraceError('INVALID_ARGUMENT', {
    message: `${path}, line ${number}: ${message}`,
    remedy: 'a line is {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": { ... }}',
  })

/** Throws INVALID_ARGUMENT. */
function parseLine(text: string, path: string, number: number): Line {
  let value: Partial<Record<'custom_id' | 'method' | 'url' | 'body', unknown>> | null
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw wrong(path, number, `expected JSON but ${(cause as Error).message}`)
  }
  const { custom_id, method = 'POST', url, body } = value ?? {}
  if (typeof custom_id !== 'string' || custom_id === '') throw wrong(path, number, 'expected a text for custom_id')
  if (method !== 'POST') throw wrong(path, number, "expected 'POST' for method")
  if (typeof url !== 'string' || !URLS.includes(url))
    throw wrong(path, number, `expected one of ${URLS.join(', ')} for url`)
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw wrong(path, number, 'expected an object for body')
  if ((body as { stream?: unknown }).stream)
    throw wrong(path, number, 'expected no stream: answers are lines of a file')
  return { custom_id, url, body: body as Record<string, unknown> }
}

async function readIds(path: string): Promise<Set<string>> {
  const ids = new Set<string>()
  try {
    for await (const { text, number } of linesOf(path)) {
      const { custom_id } = parseLine(text, path, number)
      if (ids.has(custom_id)) throw wrong(path, number, `custom_id ${JSON.stringify(custom_id)} is there twice`)
      ids.add(custom_id)
    }
  } catch (cause) {
    if (MillraceError.isInstance(cause)) throw cause
    const { message } = cause as Error
    throw new MillraceError('INVALID_ARGUMENT', { message, remedy: 'pass the path of a file of requests', cause })
  }
  return ids
}

/** So many at once. The first that fails ends it, once those under way have ended. */
async function forEachAtOnce<T>(
  items: AsyncIterable<T>,
  count: number,
  run: (item: T) => Promise<void>,
): Promise<void> {
  const iterator = items[Symbol.asyncIterator]()
  let failure: { error: unknown } | undefined
  // One reads at a time: an async generator answers in order.
  const worker = async () => {
    for (;;) {
      const { value, done } = await iterator.next()
      if (done || failure) return
      try {
        await run(value)
      } catch (error) {
        failure ??= { error }
      }
    }
  }
  await Promise.all(Array.from({ length: count }, worker))
  if (failure) throw failure.error
}

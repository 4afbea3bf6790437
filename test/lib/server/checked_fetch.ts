/**
 * Holds every answer that a test's servers give to fetch(), whichever client calls it, to OpenAI's published schema: bodies,
 * errors and each event of a stream, also of streams that are left early. A test fails with what was wrong.
 */
import { afterEach, expect } from 'vitest'
import type { Server } from '../../../lib/server/index.ts'
import { complaintsOf } from './openai_schema.ts'

/** Of a whole answer, and of an event; paths of other APIs have none. */
const SCHEMAS: [path: RegExp, whole: string | undefined, event?: string][] = [
  [/^\/v1\/chat\/completions$/, 'CreateChatCompletionResponse', 'CreateChatCompletionStreamResponse'],
  [/^\/v1\/completions$/, 'CreateCompletionResponse', 'CreateCompletionResponse'],
  [/^\/v1\/responses$/, 'Response', 'ResponseStreamEvent'],
  [/^\/v1\/embeddings$/, 'CreateEmbeddingResponse'],
  [/^\/v1\/models$/, 'ListModelsResponse'],
  [/^\/v1\/models\/.+/, 'Model'],
  [/^\/(?!v1\/messages)/, undefined],
]

const origins = new Set<string>()
const complaints: string[] = []
/** How many bodies and events there were, by schema. */
export const checked = new Map<string, number>()

export function checkAnswersOf(server: Server): void {
  origins.add(server.url)
}

afterEach(() => {
  expect(complaints.splice(0)).toEqual([])
})

function check(schema: string, value: unknown): void {
  checked.set(schema, (checked.get(schema) ?? 0) + 1)
  complaints.push(...complaintsOf(schema, asPublished(schema, value as Answer)))
}

/**
 * What the published schema leaves out of what OpenAI's API answers: chunks of a completion before the last, which have no
 * reason yet, the first token of an echo, before which nothing came, and vectors in base64.
 */
function asPublished(schema: string, value: Answer): unknown {
  const choices = value.choices?.map((choice) => {
    const { token_logprobs: logprobs, top_logprobs: top, ...rest } = choice.logprobs ?? {}
    const named = { token_logprobs: logprobs?.map((one) => one ?? 0), top_logprobs: top?.map((one) => one ?? {}) ?? [] }
    return {
      ...choice,
      finish_reason: choice.finish_reason ?? 'stop',
      logprobs: choice.logprobs ? { ...rest, ...named } : null,
    }
  })
  if (schema === 'CreateCompletionResponse') return { ...value, choices }
  if (schema !== 'CreateEmbeddingResponse') return value
  const data = value.data!.map((one) => (typeof one.embedding === 'string' ? { ...one, embedding: [] } : one))
  return { ...value, data }
}

interface Answer {
  choices?: { finish_reason: string | null; logprobs?: Legacy | null }[]
  data?: { embedding: unknown }[]
}

interface Legacy {
  token_logprobs?: (number | null)[]
  top_logprobs?: (object | null)[] | null
}

function checkEvent(schema: string, block: string): void {
  const data = /^data: (.*)$/m.exec(block)?.[1]
  if (data === undefined || data === '[DONE]') return
  const event = JSON.parse(data)
  if (event.error !== undefined && schema !== 'ResponseStreamEvent') check('ErrorResponse', event)
  else check(schema, event)
}

/** Passes the bytes on as they come, and the reader's leaving back. */
function checkedBody(body: ReadableStream<Uint8Array>, whole: string, event: string | undefined) {
  const decoder = new TextDecoder()
  let text = ''
  return body.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>(
      {
        transform(part, controller) {
          controller.enqueue(part)
          text += decoder.decode(part, { stream: true })
          if (event === undefined) return
          const blocks = text.split('\n\n')
          text = blocks.pop()!
          for (const block of blocks) checkEvent(event, block)
        },
        flush() {
          if (event === undefined) check(whole, JSON.parse(text))
        },
      },
      undefined,
      { highWaterMark: 0 },
    ),
  )
}

const plain = globalThis.fetch
globalThis.fetch = async (input, init) => {
  const response = await plain(input, init)
  const { url, status, headers, body } = response
  if (body === null || !origins.has(new URL(url).origin)) return response
  const [, whole, event] = SCHEMAS.find(([path]) => path.test(new URL(url).pathname)) ?? []
  const type = headers.get('content-type') ?? ''
  const isStream = type.startsWith('text/event-stream')
  if (!isStream && !type.startsWith('application/json')) return response
  const schema = status >= 400 ? 'ErrorResponse' : whole
  // Messages are Anthropic's, errors among them.
  if (schema === undefined || /^\/v1\/messages/.test(new URL(url).pathname)) return response
  return new Response(checkedBody(body, schema, isStream ? event : undefined), { status, headers })
}

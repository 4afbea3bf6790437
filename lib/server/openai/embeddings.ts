/** POST /v1/embeddings. */
import { z } from 'zod'
import { answerOptions } from '../../index.ts'
import type { Call } from '../context.ts'
import { flag, integer, optional, parseBody, text } from '../http/body.ts'
import { invalid } from '../http/problem.ts'

/** As OpenAI's. */
const MOST_INPUTS = 2048

const inputError = 'a text that is not empty, token ids, or a list of either'
const id = z.int({ error: inputError }).min(0, { error: inputError })
const filled = z.string({ error: inputError }).min(1, { error: inputError })
const ids = z.array(id, { error: inputError }).min(1, { error: inputError })

export const embeddingSchema = z.object({
  model: optional(text()),
  input: z.union([filled, ids, z.array(filled).min(1), z.array(ids).min(1)], { error: inputError }),
  encoding_format: optional(z.enum(['float', 'base64'], { error: "'float' or 'base64'" })),
  dimensions: optional(integer(1, 2 ** 31 - 1)),
  user: optional(text()),
  /** Ours. */
  pooling: optional(z.enum(['mean', 'last'], { error: "'mean' or 'last'" })),
  /** vLLM's. */
  add_special_tokens: optional(flag()),
  priority: optional(integer(-(2 ** 31) + 1, 2 ** 31 - 1)),
  queue_timeout_ms: optional(answerOptions.queueTimeoutMs.schema),
  deadline_ms: optional(answerOptions.deadlineMs.schema),
})

export async function embeddings(call: Call, body: unknown): Promise<object> {
  const request = parseBody(embeddingSchema, body, call.log)
  const { input, encoding_format: format = 'float', priority = 0, dimensions } = request
  const texts = typeof input === 'string' || typeof input[0] === 'number' ? [input as string | number[]] : input
  if (texts.length > MOST_INPUTS) {
    throw invalid(`expected at most ${MOST_INPUTS} texts for input but received ${texts.length}`, 'input')
  }
  return call.withModel(request.model, async (lease) => {
    const { model, name } = lease
    if (dimensions !== undefined && dimensions > model.spec.hidden) {
      throw invalid(`expected at most ${model.spec.hidden} for dimensions but received ${dimensions}`, 'dimensions')
    }
    const { embeddings: vectors, usage } = await call.embed(lease, texts as (string | number[])[], {
      pooling: request.pooling,
      dimensions,
      specialTokens: request.add_special_tokens,
      // 0 is never -0 here.
      priority: 0 - priority,
      queueTimeoutMs: request.queue_timeout_ms as number | undefined,
      deadlineMs: request.deadline_ms as number | undefined,
    })
    return {
      object: 'list',
      model: name,
      data: vectors.map((vector, index) => ({
        object: 'embedding',
        index,
        embedding: format === 'base64' ? base64Of(vector) : [...vector],
      })),
      usage: { prompt_tokens: usage.promptTokens, total_tokens: usage.promptTokens },
    }
  })
}

/** Little-endian float32, as this machine has them. */
const base64Of = ({ buffer, byteOffset, byteLength }: Float32Array) =>
  Buffer.from(buffer, byteOffset, byteLength).toString('base64')

/** Failures as HTTP tells them: a status, a type and a code, whichever API they are then worded for. */
import { type ErrorCode, MillraceError } from '../../index.ts'

export type ProblemType =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'permission_error'
  | 'not_found_error'
  | 'rate_limit_error'
  | 'timeout_error'
  | 'overloaded_error'
  | 'server_error'

export interface ProblemOptions {
  status: number
  type: ProblemType
  message: string
  code?: string | null
  /** The field of the request that is wrong. */
  param?: string | null
  retryAfterMs?: number | undefined
  cause?: unknown
}

export class Problem extends Error {
  readonly status: number
  readonly type: ProblemType
  readonly code: string | null
  readonly param: string | null
  readonly retryAfterMs: number | undefined

  constructor({ status, type, message, code = null, param = null, retryAfterMs, cause }: ProblemOptions) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'Problem'
    this.status = status
    this.type = type
    this.code = code
    this.param = param
    this.retryAfterMs = retryAfterMs
  }
}

export const invalid = (message: string, param: string | null = null, code: string | null = null) =>
  new Problem({ status: 400, type: 'invalid_request_error', message, param, code })

/** A field that this server knows and does not do. */
export const unsupported = (param: string, why: string) =>
  invalid(`${param} is not supported: ${why}`, param, 'unsupported_parameter')

export const modelNotFound = (name: string) =>
  new Problem({
    status: 404,
    type: 'not_found_error',
    message: `The model ${JSON.stringify(name.slice(0, 200))} does not exist here: GET /v1/models lists those that do`,
    param: 'model',
    code: 'model_not_found',
  })

/** Who asked has gone: nobody reads the answer. */
const CLIENT_CLOSED_REQUEST = 499

type Row = { status: number; type: ProblemType; code?: string }

/** Of the package's errors, those that are not the server's own fault. */
const KNOWN: Partial<Record<string, Row>> = {
  INVALID_ARGUMENT: { status: 400, type: 'invalid_request_error' },
  CONTEXT_OVERFLOW: { status: 400, type: 'invalid_request_error', code: 'context_length_exceeded' },
  CONSTRAINT_UNSUPPORTED: { status: 400, type: 'invalid_request_error' },
  CONSTRAINT_TOO_LARGE: { status: 400, type: 'invalid_request_error' },
  CONSTRAINT_INVALID: { status: 400, type: 'invalid_request_error' },
  CHAT_TEMPLATE_MISSING: { status: 400, type: 'invalid_request_error' },
  CHAT_TEMPLATE_INVALID: { status: 400, type: 'invalid_request_error' },
  CHAT_TEMPLATE_UNSUPPORTED: { status: 400, type: 'invalid_request_error' },
  QUEUE_FULL: { status: 429, type: 'rate_limit_error' },
  QUEUE_TIMEOUT: { status: 504, type: 'timeout_error' },
  DEADLINE_EXCEEDED: { status: 504, type: 'timeout_error' },
  GPU_LOST: { status: 503, type: 'overloaded_error' },
  MODEL_CLOSED: { status: 503, type: 'overloaded_error' },
  OUT_OF_MEMORY: { status: 503, type: 'overloaded_error' },
  ABORTED: { status: CLIENT_CLOSED_REQUEST, type: 'invalid_request_error' },
} satisfies Partial<Record<ErrorCode | `CONSTRAINT_${string}`, Row>>

/** fastify's own, such as FST_ERR_CTP_BODY_TOO_LARGE: their status and message are for the client, their codes are not. */
interface HttpError {
  statusCode: number
  message: string
  code?: string | null
}

const isHttpError = (error: unknown): error is HttpError =>
  error instanceof Error && typeof (error as Partial<HttpError>).statusCode === 'number'

/** Codes of fastify's own are nobody's outside. */
const codeOf = ({ statusCode, code = null }: HttpError) =>
  code?.startsWith('FST_') ? (HTTP_CODES[statusCode] ?? null) : code

const HTTP_CODES: Readonly<Record<number, string>> = { 413: 'request_too_large', 415: 'unsupported_media_type' }

/** What a request came to grief by. What is nobody's fault outside is told without details. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error
  if (MillraceError.isInstance(error)) {
    const row = KNOWN[error.code] ?? { status: 500, type: 'server_error' as const }
    const { code = error.code, ...rest } = row
    const remedy = row.status === 400 && !error.remedy.startsWith('pass ') ? `. ${sentence(error.remedy)}` : ''
    return new Problem({
      ...rest,
      code,
      message: row.status === 500 ? 'The server failed to answer' : `${error.message}${remedy}`,
      param: row.status === 400 ? paramOf(error.message) : null,
      retryAfterMs: error.retryAfterMs,
      cause: error,
    })
  }
  if (isHttpError(error) && error.statusCode >= 400 && error.statusCode < 500) {
    const { statusCode: status } = error
    const message = status === 415 ? `${error.message}: send JSON, with Content-Type: application/json` : error.message
    return new Problem({ status, type: 'invalid_request_error', message, code: codeOf(error), cause: error })
  }
  const message = 'The server failed to answer'
  return new Problem({ status: 500, type: 'server_error', message, code: 'INTERNAL', cause: error })
}

/** What a request is told of its model's load that failed: by the server's own settings and files, unless memory or the GPU was short. */
export function loadProblem(name: string, error: unknown): unknown {
  if (!MillraceError.isInstance(error)) return error
  const { status = 500 } = KNOWN[error.code] ?? {}
  if (status !== 400 && status !== 500) return error
  return new Problem({
    status: 500,
    type: 'server_error',
    code: 'MODEL_NOT_LOADED',
    message: `The model ${name} could not be loaded: the server's log says why`,
    cause: error,
  })
}

const sentence = (text: string) => text[0]!.toUpperCase() + text.slice(1)

/** 'expected a text for messages[0].content but received ...' names the field. */
const paramOf = (message: string) => / for ([A-Za-z_][\w.[\]]*) but received/.exec(message)?.[1] ?? null

/** As OpenAI's API words it. */
export const openaiError = ({ message, type, param, code }: Problem) => ({ error: { message, type, param, code } })

const ANTHROPIC_TYPES: Partial<Record<ProblemType, string>> = { server_error: 'api_error' }

/** As Anthropic's API words it. */
export function anthropicError({ message, type, status }: Problem) {
  const named = status === 413 ? 'request_too_large' : (ANTHROPIC_TYPES[type] ?? type)
  return { type: 'error' as const, error: { type: named, message } }
}

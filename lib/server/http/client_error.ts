/** Requests that are no HTTP, or come to no end: node's parser refuses them before there is a route. */
import type { Socket } from 'node:net'
import { openaiError, Problem, type ProblemOptions } from './problem.ts'

const refusal = (status: number, message: string, code: string | null = null): ProblemOptions => ({
  status,
  type: 'invalid_request_error',
  message,
  code,
})

const OTHER = refusal(400, 'The request is no HTTP that this server reads')
const KNOWN: Readonly<Record<string, ProblemOptions>> = {
  HPE_HEADER_OVERFLOW: refusal(431, 'The headers are too large', 'headers_too_large'),
  ERR_HTTP_REQUEST_TIMEOUT: refusal(408, 'The request took too long to come', 'request_timeout'),
}
const REASONS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  408: 'Request Timeout',
  431: 'Request Header Fields Too Large',
}

export function refuseClient({ code }: { code?: string }, socket: Socket): void {
  if (code === 'ECONNRESET' || socket.destroyed) return
  // An answer that has begun would be torn by another one within it.
  const answer = (socket as Socket & { _httpMessage?: { headersSent: boolean } | null })._httpMessage
  if (!socket.writable || answer?.headersSent) {
    socket.destroy()
    return
  }
  const problem = new Problem(KNOWN[code ?? ''] ?? OTHER)
  const body = JSON.stringify(openaiError(problem))
  const head = [
    `HTTP/1.1 ${problem.status} ${REASONS[problem.status]}`,
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ]
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`)
}

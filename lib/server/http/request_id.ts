import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'

/** The client's own, where it is one that can stand in a header and a log line. */
export function requestId({ headers }: Pick<IncomingMessage, 'headers'>): string {
  const given = headers['x-request-id']
  return typeof given === 'string' && /^[\w.:-]{1,128}$/.test(given) ? given : `req_${randomUUID().replaceAll('-', '')}`
}

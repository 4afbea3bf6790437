/** Keys of clients, compared in constant time. */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { Problem } from './problem.ts'

const digest = (text: string) => createHash('sha256').update(text).digest()

/** Throws a Problem of status 401. Without keys everybody is let in. */
export function makeKeyCheck(keys: readonly string[]): (request: FastifyRequest) => void {
  if (keys.length === 0) return () => {}
  const known = keys.map(digest)
  return ({ headers }) => {
    const given = /^Bearer +(.+)$/i.exec(headers.authorization ?? '')?.[1] ?? headers['x-api-key']
    if (typeof given === 'string') {
      const wanted = digest(given)
      // All of them, whichever it is.
      let matches = 0
      for (const key of known) matches += Number(timingSafeEqual(key, wanted))
      if (matches > 0) return
    }
    throw new Problem({
      status: 401,
      type: 'authentication_error',
      code: 'invalid_api_key',
      message:
        given === undefined
          ? 'Expected a key: Authorization: Bearer <key>, or X-Api-Key: <key>'
          : 'The key that was sent is not one of those that this server knows',
    })
  }
}

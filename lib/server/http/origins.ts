/** Pages of other origins may not use the server behind their reader's back. */
import type { FastifyInstance } from 'fastify'
import { Problem } from './problem.ts'

/**
 * Browsers send some requests of foreign pages without asking (a POST without a body, for one), and show their origin: these
 * are refused unless the origin is allowed.
 */
export function guardOrigins(app: FastifyInstance, allowed: boolean | readonly string[]): void {
  if (allowed === true) return
  const known = new Set(allowed === false ? [] : allowed)
  app.addHook('onRequest', async ({ headers, method }) => {
    const { origin, host } = headers
    if (origin === undefined || method === 'GET' || method === 'HEAD' || method === 'OPTIONS') return
    if (known.has(origin) || hostOf(origin) === host) return
    throw new Problem({
      status: 403,
      type: 'permission_error',
      code: 'origin_not_allowed',
      message: 'Pages of this origin may not use the server: name it in the option cors',
    })
  })
}

function hostOf(origin: string): string | undefined {
  try {
    return new URL(origin).host
  } catch {
    return undefined
  }
}

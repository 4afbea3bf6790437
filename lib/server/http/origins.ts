/** Pages of other origins may not use the server behind their reader's back. */
import { isIP } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { Problem } from './problem.ts'

/**
 * Browsers send some requests of foreign pages without asking (a POST without a body, for one), and show their origin: these
 * are refused unless the origin is allowed. `isPrivate`: the server is for this machine alone and asks for no key. Then a name
 * of the internet is no origin of its own either: whoever owns it can let it lead here, once his page is loaded.
 */
export function guardOrigins(app: FastifyInstance, allowed: boolean | readonly string[], isPrivate = false): void {
  if (allowed === true) return
  const known = new Set(allowed === false ? [] : allowed)
  app.addHook('onRequest', async ({ headers, method }) => {
    const { origin, host } = headers
    if (origin === undefined || method === 'GET' || method === 'HEAD' || method === 'OPTIONS') return
    if (known.has(origin) || (hostOf(origin) === host && !(isPrivate && isPublic(origin)))) return
    throw new Problem({
      status: 403,
      type: 'permission_error',
      code: 'origin_not_allowed',
      message: 'Pages of this origin may not use the server: name it in the option cors',
    })
  })
}

/** Over HTTPS it is a proxy's, which nobody leads here without its certificate. */
function isPublic(origin: string): boolean {
  const { protocol, hostname } = new URL(origin)
  if (protocol !== 'http:' || isIP(hostname.replace(/^\[|\]$/g, '')) !== 0) return false
  return hostname.includes('.') && !/\.(localhost|local|lan|internal|home\.arpa)\.?$/.test(hostname)
}

function hostOf(origin: string): string | undefined {
  try {
    return new URL(origin).host
  } catch {
    return undefined
  }
}

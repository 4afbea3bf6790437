/** millrace/server: models behind the APIs that existing clients speak. */
import type { ServerOptions } from './options.ts'
import { millraceServer as plugin } from './plugin.ts'

export type { ServedModel, ServeOptions, ServerOptions } from './options.ts'
export { type Server, serve } from './serve.ts'

/**
 * The plugin for a fastify application of one's own. Its type names nothing of fastify, which those who only call serve()
 * do not have.
 */
// biome-ignore lint/suspicious/noExplicitAny: a FastifyInstance, of whatever version is there
export const millraceServer: (app: any, options: ServerOptions) => Promise<void> = plugin

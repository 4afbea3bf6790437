/** millrace/server: models behind the APIs that existing clients speak. */
export type { ServedModel, ServeOptions, ServerOptions } from './options.ts'
export { millraceServer } from './plugin.ts'
export { type Server, serve } from './serve.ts'

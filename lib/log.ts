/** What the library has to say goes to the application's logger, and nowhere without one. */

/** As pino has it: fields first, then a sentence. */
export interface Logger {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

const LEVELS = ['debug', 'info', 'warn', 'error'] as const

export function isLogger(value: unknown): value is Logger {
  return LEVELS.every((level) => typeof (value as Record<string, unknown> | undefined)?.[level] === 'function')
}

const silent: Logger = { debug() {}, info() {}, warn() {}, error() {} }

/** The logger, or one that says nothing. What a logger throws is the logger's own affair: no request ends by it. */
export function makeLog(logger: Logger | undefined): Logger {
  if (!logger) return silent
  const guarded = (level: (typeof LEVELS)[number]) => (fields: object, message: string) => {
    try {
      logger[level](fields, message)
    } catch {}
  }
  return { debug: guarded('debug'), info: guarded('info'), warn: guarded('warn'), error: guarded('error') }
}

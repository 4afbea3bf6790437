/** Options of serve() and of the plugin; a config file has the same. */
import { z } from 'zod'
import { type LoadOptions, MillraceError, type Model, parseBytes } from '../index.ts'
import { explain } from './http/body.ts'
import { abortSignal } from './signal.ts'

/** A folder or GGUF file, one with options of its own, or a model that is loaded already and stays its owner's. */
export type ServedModel = string | Model | ({ path: string } & Omit<LoadOptions, 'signal'>)

export interface ServerOptions {
  /** By the names that requests use. */
  models: Readonly<Record<string, ServedModel>>
  /** Options of load() for every model; its own rule over them. */
  load?: Omit<LoadOptions, 'signal'> | undefined
  /** Load a model when a request first names it. Default false: all at start. */
  lazy?: boolean | undefined
  /** System RAM for all models: bytes, '64GiB', or '80%' of what this process may use. Default: '90%'. */
  ramBudget?: number | string | undefined
  /** Milliseconds after which a model that waits for room comes before new requests of those that serve. Default 10,000. */
  maxWaitMs?: number | undefined
  /** One or several; requests then have to bring one of them. Default: none, everybody is let in. */
  apiKey?: string | readonly string[] | undefined
  /** Milliseconds of silence after which a stream says `: ping`. Default 15,000. */
  pingMs?: number | undefined
  /** Milliseconds that the reader of a stream may take nothing, before it is given up. Default 60,000. */
  stallMs?: number | undefined
  /** Bytes of a request's body at most. Default 32 MiB. */
  bodyLimit?: number | undefined
  /** Log bodies of requests, prompts among them. Default false. */
  logPrompts?: boolean | undefined
  /** The page at /. Default true. */
  page?: boolean | undefined
}

export interface ServeOptions extends ServerOptions {
  /** Default '127.0.0.1'. */
  host?: string | undefined
  /** 0 chooses a free one. Default 8080. */
  port?: number | undefined
  /** Origins whose pages may use the API, such as 'https://app.example'; true, or '*' among them: all. Default: none. */
  cors?: boolean | readonly string[] | undefined
  /** Milliseconds that requests have left when the server is closed. Default 30,000. */
  drainMs?: number | undefined
  /** 'silent', 'error', 'warn', 'info', 'debug'. Default 'info'. */
  logLevel?: LogLevel | undefined
  /** Ends the loads of the start: serve() rejects with ABORTED then. One that listens is ended by close(). */
  signal?: AbortSignal | undefined
}

export const LOG_LEVELS = ['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

const MAX_MS = 2 ** 31 - 1
const ms = () => {
  const error = `milliseconds from 1 to ${MAX_MS}`
  return z.int({ error }).min(1, { error }).max(MAX_MS, { error })
}
const flag = () => z.boolean({ error: 'true or false' })
const key = z.string({ error: 'a text' }).min(1, { error: 'a key that is not empty' })

/** Options of load() are checked by load(). */
const loadOptions = z.custom<Omit<LoadOptions, 'signal'>>(
  (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
  { error: 'an object of options of load()' },
)
const modelError = "a path, an object such as { path: 'models/demo', contextLength: 4096 } or a loaded Model"
const model = z.custom<ServedModel>(
  (value) =>
    (typeof value === 'string' && value !== '') ||
    isModel(value) ||
    (typeof value === 'object' && value !== null && typeof (value as { path?: unknown }).path === 'string'),
  { error: modelError },
)

/** By what it does: it may be of another copy of the package. */
export const isModel = (value: unknown): value is Model =>
  typeof (value as Model)?.generate === 'function' && typeof (value as Model).chat === 'function'

const sizeError = "bytes, a size such as '64GiB' or a share such as '80%'"
const serverShape = {
  models: z
    .custom<Record<string, ServedModel>>((value) => !Object.hasOwn(Object(value), '__proto__'), {
      error: "names that an object may have, not '__proto__'",
    })
    .pipe(
      z
        .record(
          z.string().regex(/^(?!.*(^|\/)\.\.?(\/|$))[\w.:@+-][\w.:@+/-]{0,199}$/, {
            error: 'a name of letters, digits and . _ - / : @ +',
          }),
          model,
          {
            error: "an object such as { demo: 'models/demo' }",
          },
        )
        .refine((models) => Object.keys(models).length > 0, { error: 'at least one model' }),
    ),
  load: loadOptions.optional(),
  lazy: flag().optional(),
  ramBudget: z
    .union(
      [z.int().min(1), z.string().refine((text) => parseBytes(text) !== undefined || shareOf(text) !== undefined)],
      {
        error: sizeError,
      },
    )
    .optional(),
  maxWaitMs: ms().optional(),
  apiKey: z.union([key, z.array(key)], { error: 'a key or a list of keys' }).optional(),
  pingMs: ms().optional(),
  stallMs: ms().optional(),
  bodyLimit: z
    .int({ error: 'bytes' })
    .min(1024, { error: '1024 bytes at least' })
    .max(2 ** 30)
    .optional(),
  logPrompts: flag().optional(),
  page: flag().optional(),
}
export const serverSchema = z.strictObject(serverShape)

const ORIGIN_ERROR = "an origin such as 'https://app.example', or '*'"

export const serveSchema = z.strictObject({
  ...serverShape,
  host: z.string({ error: 'a host name or an address' }).min(1).optional(),
  port: z
    .int({ error: 'a port from 0 to 65535' })
    .min(0, { error: 'a port from 0 to 65535' })
    .max(65535, { error: 'a port from 0 to 65535' })
    .optional(),
  cors: z
    .union([flag(), z.array(z.string().refine(isOrigin, { error: ORIGIN_ERROR }))], {
      error: 'true, false or a list of origins',
    })
    .optional(),
  drainMs: ms().or(z.literal(0)).optional(),
  signal: abortSignal.optional(),
  logLevel: z.enum(LOG_LEVELS, { error: LOG_LEVELS.map((level) => `'${level}'`).join(', ') }).optional(),
})

/** As browsers send it: no path, not even a slash. */
function isOrigin(text: string): boolean {
  return text === '*' || (URL.canParse(text) && new URL(text).origin === text)
}

/** Throws INVALID_ARGUMENT. */
export function checkOptions<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> {
  const outcome = schema.safeParse(value)
  if (outcome.success) return outcome.data
  const issue = outcome.error.issues[0]!
  const message =
    issue.code === 'unrecognized_keys'
      ? `unknown option '${issue.keys[0]}' of serve()`
      : explain(issue, value, 'options').message
  throw new MillraceError('INVALID_ARGUMENT', { message })
}

const shareOf = (text: string) => {
  const share = Number(/^(\d+(?:\.\d+)?)\s*%$/.exec(text.trim())?.[1] ?? Number.NaN) / 100
  return share > 0 && share <= 1 ? share : undefined
}

/** `memoryBytes`: what this process may use. */
export function ramBudgetBytes(budget: ServerOptions['ramBudget'], memoryBytes: number): number {
  if (typeof budget === 'number') return budget
  const text = budget ?? '90%'
  return parseBytes(text) ?? Math.floor((shareOf(text) ?? 0.9) * memoryBytes)
}

/** Bodies of requests: wrong fields are refused by name, unknown ones told to the log and ignored. */
import { z } from 'zod'
import { invalid } from './problem.ts'

export interface DebugLog {
  debug(fields: object, message: string): void
}

/** Clients send null for what they leave out. */
export const optional = <Schema extends z.ZodType>(schema: Schema) =>
  z.preprocess((value) => value ?? undefined, schema.optional())

export const text = (error = 'a text') => z.string({ error })
export const flag = () => z.boolean({ error: 'true or false' })
export const integer = (min: number, max: number) => {
  const error = `an integer from ${min} to ${max}`
  return z.int({ error }).min(min, { error }).max(max, { error })
}
export const list = <Schema extends z.ZodType>(item: Schema, error: string) => z.array(item, { error })
export const record = (error = 'an object') => z.record(z.string(), z.unknown(), { error })

/** Throws a Problem that names the field. */
export function parseBody<Shape extends z.ZodRawShape>(
  schema: z.ZodObject<Shape>,
  body: unknown,
  log: DebugLog,
): z.output<z.ZodObject<Shape>> {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw invalid('expected the body to be a JSON object (Content-Type: application/json)')
  }
  if (isDeeper(body, MAX_DEPTH)) throw invalid(`expected a body of at most ${MAX_DEPTH} levels`)
  const outcome = schema.safeParse(body)
  if (!outcome.success) {
    const { message, param } = explain(outcome.error.issues[0]!, body, 'the body')
    throw invalid(message, param)
  }
  const unknown = Object.keys(body).filter((name) => !(name in schema.shape))
  if (unknown.length > 0) log.debug({ unknown: unknown.slice(0, 20) }, 'fields that are not known are ignored')
  return outcome.data
}

/** What goes through it afterwards calls itself a level. */
const MAX_DEPTH = 128

function isDeeper(body: object, most: number): boolean {
  let level: object[] = [body]
  for (let depth = 1; level.length > 0; depth++) {
    if (depth > most) return true
    level = level.flatMap((value) =>
      Object.values(value).filter((inner) => typeof inner === 'object' && inner !== null),
    )
  }
  return false
}

/** 'expected X for Y but received Z', and Y. `whole` names the value itself. */
export function explain(issue: z.core.$ZodIssue, value: unknown, whole: string): { message: string; param: string } {
  const { path, message } = deepest(issue)
  const param = pathName(path) || whole
  const expected = message.replace(/^Invalid input: expected /, '').replace(/^Invalid input$/, 'another value')
  const received = path.reduce<unknown>((inner, part) => (inner as Record<PropertyKey, unknown>)?.[part], value)
  return { message: `expected ${expected} for ${param} but received ${describe(received)}`, param }
}

/** Of a union that matched nothing, the complaint that went furthest, if the union says nothing itself. */
function deepest(issue: z.core.$ZodIssue): { path: PropertyKey[]; message: string } {
  if (issue.code !== 'invalid_union' || issue.message !== 'Invalid input') return issue
  const inner = issue.errors.flat().map(deepest)
  const best = inner.reduce<(typeof inner)[number] | undefined>(
    (a, b) => (a === undefined || b.path.length > a.path.length ? b : a),
    undefined,
  )
  return best ? { path: [...issue.path, ...best.path], message: best.message } : issue
}

function pathName(path: readonly PropertyKey[]): string {
  const name = path.map((part, index) =>
    typeof part === 'number' ? `[${part}]` : `${index === 0 ? '' : '.'}${String(part)}`,
  )
  return name.join('')
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (typeof value === 'object' && value !== null) return 'an object'
  const shown = JSON.stringify(value)
  return shown.length > 60 ? `${shown.slice(0, 57)}...` : shown
}

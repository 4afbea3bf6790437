/** How options become checked values, and the one place where wrong ones become INVALID_ARGUMENT. */
import { z } from 'zod'
import { MillraceError } from '../errors.ts'

/** Of a context or of an answer, at most. */
export const MAX_TOKENS = 2 ** 27

export const integer = (min: number, max: number) => {
  const error = `an integer ${range(min, max)}`
  return z.int({ error }).min(min, { error }).max(max, { error })
}
export const number = (min: number, max: number) => {
  const error = `a number ${range(min, max)}`
  return z.number({ error }).min(min, { error }).max(max, { error })
}
export const boolean = () => z.boolean({ error: 'true or false' })
export const signal = () =>
  z.custom<AbortSignal>(
    (value) => typeof (value as AbortSignal)?.aborted === 'boolean' && 'addEventListener' in (value as AbortSignal),
    { error: 'an AbortSignal' },
  )

function range(min: number, max: number): string {
  if (max === Number.MAX_SAFE_INTEGER) return min === 0 ? 'not below 0' : `of at least ${min}`
  return `from ${min} to ${max}`
}

/**
 * Checks what a caller handed over. `subject` names the object in messages, e.g. 'options' of generate.
 *
 * Throws INVALID_ARGUMENT: `expected X for Y but received Z of type T`, or for an unknown option the likely intended.
 */
export function validate<Schema extends z.ZodType>(schema: Schema, value: unknown, subject: string): z.output<Schema> {
  const outcome = schema.safeParse(value, { reportInput: true })
  if (outcome.success) return outcome.data
  const issue = outcome.error.issues[0]!
  if (issue.code === 'unrecognized_keys') {
    const known = Object.keys((schema as unknown as { shape?: object }).shape ?? {})
    const unknown = issue.keys[0]!
    const likely = nearest(unknown, known)
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `unknown option '${unknown}' in ${subject}${likely === undefined ? '' : `, did you mean '${likely}'?`}`,
      remedy: `known options: ${known.join(', ')}`,
    })
  }
  const name =
    issue.path.length === 0 ? subject : pathName(Array.isArray(value) ? [subject, ...issue.path] : issue.path)
  // The schemas here say what they expect; what is left are zod's own words, such as of the outermost object.
  const expected = issue.path.length === 0 && isOwnWording(issue) ? 'an object' : issue.message.replace(ZOD_WORDING, '')
  throw invalidArgument(expected, name, at(value, issue.path))
}

const ZOD_WORDING = /^Invalid input: expected /
const isOwnWording = (issue: { message: string }) => ZOD_WORDING.test(issue.message)

/** The uniform complaint about one argument. */
export function invalidArgument(expected: string, name: string, received: unknown, remedy?: string): MillraceError {
  return new MillraceError('INVALID_ARGUMENT', {
    message: `expected ${expected} for ${name} but received ${describe(received)}`,
    remedy: remedy ?? `pass ${expected.replace(/,$/, '')} as ${name}`,
  })
}

/** '256MiB' -> 268435456; undefined if the text is no size. Units are B, KB to TB and KiB to TiB. */
export function parseBytes(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B)\s*$/i.exec(text)
  if (!match) return undefined
  const unit = match[2]!.toLowerCase()
  const base = unit.includes('i') ? 1024 : 1000
  const bytes = Math.floor(Number(match[1]) * base ** ['b', 'k', 'm', 'g', 't'].indexOf(unit[0]!))
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined
}

/** '80%' -> 0.8; undefined if the text is no share above 0 and up to 1. */
export function parsePercent(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*%\s*$/.exec(text)
  const share = match ? Number(match[1]) / 100 : 0
  return share > 0 && share <= 1 ? share : undefined
}

/** The candidate that a misspelt word most likely stands for, if one is close enough. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const plain = (text: string) => text.toLowerCase().replace(/[^a-z0-9]/g, '')
  let best: string | undefined
  let bestDistance = Number.POSITIVE_INFINITY
  for (const candidate of candidates) {
    const distance = editDistance(plain(word), plain(candidate))
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance]
  }
  return best !== undefined && bestDistance <= Math.max(1, Math.floor(best.length / 3)) ? best : undefined
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)))
    }
    row = next
  }
  return row[b.length]!
}

function pathName(path: readonly PropertyKey[]): string {
  return path
    .map((part, index) => (typeof part === 'number' ? `[${part}]` : `${index === 0 ? '' : '.'}${String(part)}`))
    .join('')
}

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((inner, part) => (inner as Record<PropertyKey, unknown> | undefined)?.[part], value)
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'null'
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : `an array of ${value.length}`
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object') return `an object of type ${value.constructor?.name ?? 'Object'}`
  const text = typeof value === 'string' ? `'${value.length > 60 ? `${value.slice(0, 57)}...` : value}'` : String(value)
  return `${text} of type ${typeof value}`
}

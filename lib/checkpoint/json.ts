/** Reading the JSON files of a checkpoint, with complaints that name file, field, what was expected and found. */
import { readFile, stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { z } from 'zod'
import { type ErrorCode, MillraceError } from '../errors.ts'

/** Far beyond any published file; keeps a wrong file from being read into memory. */
const MAX_JSON_BYTES = 256 * 1024 * 1024

/** A file's text without a byte order mark; undefined if there is no such file. Throws `code` where it cannot be read. */
export async function readText(path: string, code: ErrorCode = 'CHECKPOINT_INVALID'): Promise<string | undefined> {
  try {
    const { size } = await stat(path)
    if (size > MAX_JSON_BYTES) {
      throw new MillraceError(code, {
        message: `${path}: expected at most ${MAX_JSON_BYTES} bytes, found ${size}`,
      })
    }
    return (await readFile(path, 'utf8')).replace(/^\uFEFF/, '')
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined
    if (MillraceError.isInstance(error)) throw error
    throw new MillraceError(code, {
      message: `${path}: could not be read: ${(error as Error).message}`,
      remedy: 'check the permissions of the file',
      cause: error,
    })
  }
}

/** A file's JSON object; undefined if there is no such file. */
export async function readJson(
  path: string,
  code: ErrorCode = 'CHECKPOINT_INVALID',
): Promise<Record<string, unknown> | undefined> {
  const text = await readText(path, code)
  if (text === undefined) return undefined
  let value: unknown
  try {
    value = parseJson(text)
  } catch (cause) {
    throw new MillraceError(code, {
      message: `${path}: expected JSON, found what does not parse: ${(cause as Error).message}`,
      cause,
    })
  }
  if (!isObject(value)) {
    throw new MillraceError(code, {
      message: `${path}: expected a JSON object, found ${Array.isArray(value) ? 'an array' : String(value)}`,
    })
  }
  return value
}

/** What Python's json module writes for a float that JSON has no word for, and what transformers 5 writes instead of it. */
const NON_FINITE: Readonly<Record<string, number>> = {
  NaN: Number.NaN,
  Infinity: Number.POSITIVE_INFINITY,
  '-Infinity': Number.NEGATIVE_INFINITY,
}
const FLOAT_TAG = '__float__'
const TEXT_OR_NON_FINITE = /"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/gs

/** JSON as Python writes and reads it: with NaN and infinities, bare or tagged. Throws SyntaxError. */
export function parseJson(text: string): unknown {
  let standard = text
  try {
    const value = JSON.parse(text)
    if (!text.includes(FLOAT_TAG)) return value
  } catch (cause) {
    standard = text.replace(TEXT_OR_NON_FINITE, (found) =>
      found.startsWith('"') ? found : `{"${FLOAT_TAG}":"${found}"}`,
    )
    if (standard === text) throw cause
  }
  return JSON.parse(standard, (_, value) => untag(value))
}

function untag(value: unknown): unknown {
  if (!isObject(value) || Object.keys(value).length !== 1) return value
  const name = value[FLOAT_TAG]
  return typeof name === 'string' && Object.hasOwn(NON_FINITE, name) ? NON_FINITE[name] : value
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Checks a JSON object of a checkpoint; throws CHECKPOINT_INVALID naming the first wrong field. */
export function checkFields<Schema extends z.ZodType>(schema: Schema, value: unknown, path: string): z.output<Schema> {
  const outcome = schema.safeParse(value)
  if (outcome.success) return outcome.data
  const issue = outcome.error.issues[0]!
  const field = issue.path.join('.')
  const found = issue.path.reduce<unknown>((inner, part) => (inner as never)?.[part], value)
  throw new MillraceError('CHECKPOINT_INVALID', {
    message: `${basename(path)}: field '${field}': expected ${issue.message}, found ${show(found)}`,
    remedy: `check that ${basename(path)} belongs to this checkpoint`,
  })
}

/** A found value, short enough for a sentence. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing'
  const text = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? String(value))
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}

export const fieldInteger = (min: number, max = 2 ** 31 - 1) => {
  const error = `an integer from ${min} to ${max}`
  return z.int({ error }).min(min, { error }).max(max, { error })
}
export const fieldNumber = (above: number) => {
  const error = `a number above ${above}`
  return z.number({ error }).gt(above, { error })
}
export const fieldText = () => z.string({ error: 'a text' })
export const fieldBoolean = () => z.boolean({ error: 'true or false' })

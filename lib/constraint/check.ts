/** A caller's constraint -> what is compiled of it, and what its answers are read as. */
import { z } from 'zod'
import { MillraceError } from '../errors.ts'
import { invalidArgument } from '../options/validate.ts'
import { unsupported } from './problems.ts'
import type { Json } from './schema/nodes.ts'
import type { Body } from './task.ts'
import type { Constraint } from './types.ts'

const KINDS = ['schema', 'regex', 'choice', 'grammar', 'json'] as const

export interface CheckedConstraint {
  body: Body
  /** The answer's value; undefined of an answer that is none, and of constraints that are no JSON. */
  read?: (text: string) => unknown
}

/** Throws INVALID_ARGUMENT, and CONSTRAINT_UNSUPPORTED of a zod schema that no JSON schema stands for. */
export function checkConstraint(constraint: Constraint, name = 'constraint'): CheckedConstraint {
  if (typeof constraint !== 'object' || constraint === null || Array.isArray(constraint)) {
    throw invalidArgument(`an object with one of ${KINDS.join(', ')}`, name, constraint)
  }
  const given = constraint as unknown as Record<string, unknown>
  const kinds = KINDS.filter((kind) => given[kind] !== undefined)
  const [kind] = kinds
  if (kind === undefined || kinds.length > 1) {
    throw invalidArgument(
      `exactly one of ${KINDS.join(', ')}`,
      name,
      kinds.length > 1 ? kinds.join(' and ') : undefined,
    )
  }
  const isJson = kind === 'schema' || kind === 'json'
  for (const key of Object.keys(given)) {
    if (key === kind || given[key] === undefined || (isJson && key === 'whitespace')) continue
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `unknown option '${key}' in ${name}`,
      remedy: `known options: ${isJson ? `${kind}, whitespace` : kind}`,
    })
  }
  const { whitespace } = given
  if (whitespace !== undefined && whitespace !== 'compact' && whitespace !== 'flexible') {
    throw invalidArgument("'compact' or 'flexible'", `${name}.whitespace`, whitespace)
  }
  const value = given[kind]
  const flexible = whitespace === 'flexible'
  const of = (expected: string) => invalidArgument(expected, `${name}.${kind}`, value)
  switch (kind) {
    case 'schema':
      return checkSchema(value, flexible, of)
    case 'json':
      if (value !== true) throw of('true')
      return { body: { type: 'schema', schema: true, flexible }, read: parse }
    case 'regex':
      if (value instanceof RegExp) return { body: { type: 'regex', source: value.source, flags: value.flags } }
      if (typeof value !== 'string') throw of('a text or a RegExp')
      return { body: { type: 'regex', source: value, flags: '' } }
    case 'choice': {
      const isChoice = Array.isArray(value) && value.length > 0 && value.every((text) => typeof text === 'string')
      if (!isChoice) throw of('an array of at least one text')
      return { body: { type: 'choice', texts: value } }
    }
    case 'grammar':
      if (typeof value !== 'string') throw of('a grammar as a text')
      return { body: { type: 'grammar', source: value } }
  }
}

const isZod = (value: object): value is z.ZodType => '_zod' in value

/** JSON schemas that zod has made carry the mark of schemas as well, where no walk over their keys meets it. */
const isOfAnotherLibrary = (value: object) =>
  '~standard' in value && !isZod(value) && Object.getOwnPropertyDescriptor(value, '~standard')?.enumerable !== false

function checkSchema(value: unknown, flexible: boolean, of: (expected: string) => Error): CheckedConstraint {
  if (typeof value === 'boolean') return { body: { type: 'schema', schema: value, flexible }, read: parse }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw of('a zod schema or a JSON schema')
  if (isOfAnotherLibrary(value)) throw of('a schema of zod 4 or a JSON schema; others make one of theirs')
  if (!isZod(value)) return { body: { type: 'schema', schema: plainJson(value, of), flexible }, read: parse }
  const read = (text: string) => {
    const outcome = parseByZod(value, text)
    return outcome.success ? outcome.data : undefined
  }
  return { body: { type: 'schema', schema: ofZod(value), flexible }, read }
}

/** Throws INVALID_ARGUMENT where the schema's own functions throw, or are asynchronous. */
function parseByZod(schema: z.ZodType, text: string) {
  try {
    return schema.safeParse(parse(text))
  } catch (cause) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `the zod schema failed to read an answer: ${(cause as Error)?.message ?? cause}`,
      remedy:
        'pass a schema whose transforms and refinements neither throw nor wait, and do the rest with result.object',
      cause,
    })
  }
}

/** What it reads, and nothing beside: objects have no other keys than those that are named, unless it asks for them. */
function ofZod(schema: z.ZodType): Json {
  try {
    return z.toJSONSchema(schema, {
      io: 'input',
      override: ({ zodSchema, jsonSchema }) => {
        if (zodSchema._zod.def.type === 'object') jsonSchema.additionalProperties ??= false
      },
    }) as Json
  } catch (cause) {
    throw unsupported(`the zod schema (${(cause as Error).message})`, 'use what JSON has, or pass a JSON schema')
  }
}

/** A copy that is JSON and nothing else. */
function plainJson(value: object, of: (expected: string) => Error): Json {
  try {
    return JSON.parse(JSON.stringify(value)) as Json
  } catch {
    throw of('a JSON schema without cycles')
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

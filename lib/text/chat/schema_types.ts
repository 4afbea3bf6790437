/** What types of values a schema lets be: by a short look, which resolves references within its own document. */
import type { Json, JsonObject } from '../../constraint/schema/nodes.ts'

const ALL = ['null', 'boolean', 'integer', 'number', 'string', 'array', 'object'] as const
type Type = (typeof ALL)[number]
export type Types = ReadonlySet<Type>

export const EVERY_TYPE: Types = new Set(ALL)
const MAX_DEPTH = 8

type Schema = Json | undefined

const isObject = (value: Schema): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Integers are numbers; of a type that says 'number' both are meant. */
export function typeOfJson(value: unknown): Type {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'array'
  if (typeof value === 'number') return Number.isInteger(value) ? 'integer' : 'number'
  return typeof value === 'boolean' || typeof value === 'string' ? (typeof value as Type) : 'object'
}

/** The part of a document that a local reference means; undefined of others. */
export function target(reference: unknown, document: JsonObject): Schema {
  if (typeof reference !== 'string' || !/^#(\/|$)/.test(reference)) return undefined
  let at: Schema = document
  for (const part of decoded(reference).split('/').slice(1)) {
    const key = part.replaceAll('~1', '/').replaceAll('~0', '~')
    at = typeof at === 'object' && at !== null && Object.hasOwn(at, key) ? (at as JsonObject)[key] : undefined
  }
  return at
}

function decoded(reference: string): string {
  try {
    return decodeURIComponent(reference)
  } catch {
    return reference
  }
}

export function typesOf(schema: Schema, document: JsonObject, depth = 0): Types {
  if (schema === false) return new Set()
  if (!isObject(schema) || depth > MAX_DEPTH) return EVERY_TYPE
  const of = (part: Schema) => typesOf(part, document, depth + 1)
  let out = EVERY_TYPE
  const narrow = (types: Iterable<Type>) => {
    const set = new Set(types)
    out = new Set([...out].filter((type) => set.has(type)))
  }
  if (schema.type !== undefined) narrow(named(schema))
  if (schema.const !== undefined) narrow([typeOfJson(schema.const)])
  if (Array.isArray(schema.enum)) narrow(schema.enum.map(typeOfJson))
  const referred = target(schema.$ref, document)
  if (referred !== undefined) narrow(of(referred))
  if (Array.isArray(schema.allOf)) for (const part of schema.allOf) narrow(of(part))
  for (const parts of [schema.anyOf, schema.oneOf]) {
    if (Array.isArray(parts)) narrow(parts.flatMap((part) => [...of(part)]))
  }
  return out
}

function named({ type, nullable }: JsonObject): Type[] {
  const names = [type].flat() as string[]
  if (names.includes('any')) return [...ALL]
  const all = nullable === true ? [...names, 'null'] : names
  return ALL.filter((name) => all.includes(name) || (name === 'integer' && all.includes('number')))
}

/** The arguments that a tool's schema names, by itself and by what it refers to or puts together. */
export interface Arguments {
  properties: Map<string, Json>
  required: Set<string>
  /** What arguments of other names may be; undefined where the schema does not say. */
  rest: Schema
}

export function argumentsOf(parameters: JsonObject): Arguments {
  const out: Arguments = { properties: new Map(), required: new Set(), rest: undefined }
  const read = (schema: Schema, depth: number) => {
    if (!isObject(schema) || depth > MAX_DEPTH) return
    read(target(schema.$ref, parameters), depth + 1)
    if (Array.isArray(schema.allOf)) for (const part of schema.allOf) read(part, depth + 1)
    const { properties, required, additionalProperties } = schema
    if (isObject(properties)) {
      for (const [name, value] of Object.entries(properties)) {
        const known = out.properties.get(name)
        out.properties.set(name, known === undefined ? value : { allOf: [known, value] })
      }
    }
    if (Array.isArray(required)) for (const name of required) if (typeof name === 'string') out.required.add(name)
    if (additionalProperties !== undefined) out.rest = additionalProperties
  }
  read(parameters, 0)
  for (const name of out.required) if (!out.properties.has(name)) out.properties.set(name, out.rest ?? true)
  return out
}

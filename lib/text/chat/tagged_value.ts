/** Values between tags, which are texts of any kind -> JSON. */
import type { Json, JsonObject } from '../../constraint/schema/nodes.ts'
import type { TaggedCalls } from './format.ts'
import { argumentsOf, type Types, target, typeOfJson, typesOf } from './schema_types.ts'
import type { Tool } from './types.ts'
import { looseJson } from './values.ts'

/** What a tool's schema says of an argument. */
export interface ArgumentSchema {
  types: Types
  /** Texts among the values that it lists. */
  texts: readonly string[]
}

/** `type`: as the tag says it, where tags do; `schema`: undefined where nothing is known of the argument. */
export function taggedValue(
  written: string,
  { keyClose, valueClose, type, textWrap }: TaggedCalls,
  known: { type: string; schema: ArgumentSchema | undefined },
): string {
  let text = written
  // Line ends that belong to the tags.
  if (/\s$/.test(type?.close ?? keyClose)) text = text.replace(/^\n/, '')
  if (valueClose.startsWith('\n')) text = text.replace(/\n$/, '')
  if (textWrap && text.startsWith(textWrap.open) && text.endsWith(textWrap.close)) {
    return JSON.stringify(text.slice(textWrap.open.length, text.length - textWrap.close.length))
  }
  if (type) return known.type === type.text ? JSON.stringify(text) : (looseJson(text) ?? JSON.stringify(text))
  const { schema } = known
  const mayBeText = schema === undefined || schema.types.has('string')
  if (schema?.texts.includes(text)) return JSON.stringify(text)
  const json = mayBeText && schema?.types.size === 1 ? undefined : looseJson(text)
  if (json === undefined || (mayBeText && !isOther(json, schema))) return JSON.stringify(text)
  return json
}

/** JSON of a value that is no text and that the schema lets be: a text of two quotes is one with quotes. */
function isOther(json: string, schema: ArgumentSchema | undefined): boolean {
  if (json.startsWith('"')) return false
  return schema === undefined || schema.types.has(typeOfJson(JSON.parse(json)))
}

export function argumentSchema(tools: readonly Tool[], name: string, key: string): ArgumentSchema | undefined {
  const tool = tools.find((one) => one.function.name === name)
  const parameters = (tool?.function.parameters ?? {}) as JsonObject
  const { properties, rest } = argumentsOf(parameters)
  const schema = properties.get(key) ?? rest
  if (typeof schema !== 'object' || schema === null || Object.keys(schema).length === 0) return undefined
  return { types: typesOf(schema, parameters), texts: listedTexts(schema, parameters) }
}

function listedTexts(schema: Json, document: JsonObject): string[] {
  const { const: only, enum: listed, $ref } = schema as JsonObject
  const values = [only, ...(Array.isArray(listed) ? listed : [])]
  const referred = target($ref, document)
  const others = typeof referred === 'object' && referred !== null ? ((referred as JsonObject).enum ?? []) : []
  return [...values, ...(Array.isArray(others) ? others : [])].filter((value) => typeof value === 'string')
}

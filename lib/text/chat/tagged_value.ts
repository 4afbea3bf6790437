/** Values between tags, which are texts of any kind -> JSON. */
import type { TaggedCalls } from './format.ts'
import type { Tool } from './types.ts'
import { looseJson } from './values.ts'

/** `type`: as the tag says it, where tags do; `schemaType`: as the tool's schema has it. */
export function taggedValue(
  written: string,
  { keyClose, valueClose, type, textWrap }: TaggedCalls,
  known: { type: string; schemaType: string | undefined },
): string {
  let text = written
  // Line ends that belong to the tags.
  if (/\s$/.test(type?.close ?? keyClose)) text = text.replace(/^\n/, '')
  if (valueClose.startsWith('\n')) text = text.replace(/\n$/, '')
  if (textWrap && text.startsWith(textWrap.open) && text.endsWith(textWrap.close)) {
    return JSON.stringify(text.slice(textWrap.open.length, text.length - textWrap.close.length))
  }
  if (type) return known.type === type.text ? JSON.stringify(text) : (looseJson(text) ?? JSON.stringify(text))
  const wanted = known.schemaType
  if (wanted === 'string') return JSON.stringify(text)
  const json = looseJson(text)
  if (json === undefined || (wanted === undefined && json.startsWith('"'))) return JSON.stringify(text)
  return json
}

/** The type of an argument in its tool's schema, if that has one alone. */
export function schemaType(tools: readonly Tool[], name: string, key: string): string | undefined {
  const tool = tools.find((one) => one.function.name === name)
  const properties = tool?.function.parameters?.properties as Record<string, { type?: unknown }> | undefined
  const property = properties && Object.hasOwn(properties, key) ? properties[key] : undefined
  return typeof property?.type === 'string' ? property.type : undefined
}

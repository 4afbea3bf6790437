/** The keywords of JSON Schema, and what values they have. */
import { invalid, unsupported } from '../problems.ts'
import type { Json, JsonObject } from './nodes.ts'

const TYPES = ['null', 'boolean', 'number', 'string', 'array', 'object'] as const
export type TypeName = (typeof TYPES)[number]

/** Keywords that are held to, and those that say nothing of what is valid. */
const KNOWN = new Set([
  ...['type', 'enum', 'const', 'allOf', 'anyOf', 'oneOf', 'not', 'if', 'then', 'else', '$ref', '$defs', 'definitions'],
  ...['minLength', 'maxLength', 'pattern', 'format'],
  ...['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'],
  ...['items', 'prefixItems', 'additionalItems', 'minItems', 'maxItems', 'uniqueItems', 'contains', 'minContains'],
  ...['properties', 'patternProperties', 'additionalProperties', 'unevaluatedProperties', 'required', 'propertyNames'],
  ...['minProperties', 'maxProperties', 'dependencies', 'dependentRequired', 'dependentSchemas'],
])

/** Those that do, and are not held to; and of earlier drafts. */
const REFUSED = new Set([
  ...['unevaluatedItems', 'maxContains', '$dynamicRef', '$recursiveRef'],
  ...['divisibleBy', 'extends', 'disallow', 'minimumCanEqual', 'maximumCanEqual'],
])

const COUNTS = /^(min|max)(Length|Items|Properties|Contains)$/

/** Throws CONSTRAINT_INVALID of a value that the keyword cannot have, CONSTRAINT_UNSUPPORTED of what is not held to. */
export function checkKeyword(keyword: string, value: Json, schema: JsonObject): void {
  if (REFUSED.has(keyword)) throw unsupported(`the keyword '${keyword}' of JSON schemas`)
  if (!KNOWN.has(keyword)) return
  const refuse = (expected: string) => {
    throw invalid(`a JSON schema has ${JSON.stringify(value).slice(0, 60)} as ${keyword}: expected ${expected}`)
  }
  if (COUNTS.test(keyword)) {
    if (typeof value !== 'number' || value < 0 || !Number.isInteger(value)) refuse('an integer of at least 0')
  }
  switch (keyword) {
    case 'type':
      for (const name of [value].flat()) {
        if (typeof name !== 'string' || ![...TYPES, 'integer', 'any'].includes(name)) refuse('names of types')
      }
      return
    case 'enum':
      if (!Array.isArray(value)) refuse('an array of values')
      return
    case 'multipleOf':
      if (typeof value !== 'number' || value <= 0) refuse('a number above 0')
      return
    case 'minimum':
    case 'maximum':
      if (typeof value !== 'number') refuse('a number')
      return
    case 'exclusiveMinimum':
    case 'exclusiveMaximum':
      if (typeof value !== 'number' && typeof value !== 'boolean') refuse('a number')
      return
    case 'pattern':
    case 'format':
      if (typeof value !== 'string') refuse('a text')
      return
    case 'required':
      if (!Array.isArray(value) || value.some((name) => typeof name !== 'string')) refuse('an array of names')
      return
    case 'allOf':
    case 'anyOf':
    case 'oneOf':
    case 'prefixItems':
      if (!Array.isArray(value)) refuse('an array of schemas')
      return
    case 'properties':
    case 'patternProperties':
    case 'dependencies':
    case 'dependentRequired':
    case 'dependentSchemas':
      if (typeof value !== 'object' || value === null || Array.isArray(value)) refuse('an object')
      if (Object.values(value as JsonObject).some((one) => keyword === 'dependencies' && typeof one === 'string')) {
        throw unsupported("a text within the keyword 'dependencies' of JSON schemas", 'write an array of names')
      }
      return
    case 'minContains':
      if ((value as number) > 1 && schema.contains !== undefined) throw unsupported("the keyword 'minContains' above 1")
      return
  }
}

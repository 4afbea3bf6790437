/** OpenAI's published schema: in MILLRACE_SPECS, or in ../shared/specs. Without it validations are skipped, with a word. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { Ajv, type ValidateFunction } from 'ajv'
import { expect } from 'vitest'
import { ROOT } from '../../built.ts'

/** A file of the folder of published specifications. */
export function findSpec(file: string): string | undefined {
  const places = [process.env.MILLRACE_SPECS, join(ROOT, '..', 'shared', 'specs')]
  const found = places
    .filter((place) => place !== undefined)
    .map((place) => join(place, file))
    .find((path) => existsSync(path))
  if (found === undefined) {
    process.stderr.write(`validations by ${file} are skipped: set MILLRACE_SPECS to the folder that has it\n`)
  }
  return found
}

let ajv: Ajv | undefined
const compiled = new Map<string, ValidateFunction>()

const path = findSpec('openai-openapi.json.gz')
export const hasSchema = path !== undefined

/** OpenAPI's `nullable` is not JSON Schema's. */
function withNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withNulls)
  if (typeof value !== 'object' || value === null) return value
  const { nullable, ...rest } = Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [name, withNulls(inner)]),
  ) as Record<string, unknown>
  return nullable === true ? { anyOf: [rest, { type: 'null' }] } : rest
}

function validator(name: string): ValidateFunction {
  let validate = compiled.get(name)
  if (!validate) {
    if (!ajv) {
      const document = withNulls(JSON.parse(gunzipSync(readFileSync(path!)).toString())) as object
      ajv = new Ajv({ strict: false, validateFormats: false, validateSchema: false, allErrors: false })
      ajv.addSchema({ components: (document as { components: object }).components }, 'openai')
    }
    validate = ajv.compile({ $ref: `openai#/components/schemas/${name}` })
    compiled.set(name, validate)
  }
  return validate
}

/** What is wrong with a value of this schema; nothing where the schema is not here. */
export function complaintsOf(name: string, value: unknown): string[] {
  if (!hasSchema) return []
  const validate = validator(name)
  if (validate(value)) return []
  return [`${name}: ${JSON.stringify(validate.errors)} of ${JSON.stringify(value).slice(0, 2000)}`]
}

/** Fails with what is wrong. */
export function expectValid(name: string, value: unknown): void {
  expect(complaintsOf(name, value)).toEqual([])
}

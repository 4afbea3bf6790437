/** Random schemas with most keywords that are held to, and values near them. */

/** The same numbers from the same seed: mulberry32. */
export function randomNumbers(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

export type Schema = boolean | { [keyword: string]: unknown }

const TYPES = ['null', 'boolean', 'number', 'integer', 'string', 'array', 'object']
const KEYS = ['a', 'b', 'c', 'ab', 'é', 'x-y', 'zz']
const TEXTS = ['', 'a', 'ab', 'abc', '😀', '😀a', 'é"\\\n', '10', 'A', 'a\u2028b', '\u0000', 'zz top']
const PATTERNS = ['^a', 'b$', '^[a-c]+$', '^\\d+$', '😀', '^.{1,3}$', '[^a]', '^(?!a)', '\\w\\s', '^\\p{L}+$', 'a|^$']
const NUMBERS = [0, 1, -1, 2, 3, 1.5, -2.5, 10, 100, 0.1, 1e-7, 12345678901, 7, -0.5, 6]
const STEPS = [1, 2, 3, 0.5, 10, 2.5]

/** Levels of schemas, and of values, within each other. */
const DEEPEST = 3

export class Random {
  readonly #next: () => number

  constructor(seed: number) {
    this.#next = randomNumbers(seed)
  }

  below = (count: number) => Math.floor(this.#next() * count)
  chance = (share: number) => this.#next() < share
  pick = <T>(list: readonly T[]): T => list[this.below(list.length)]!
  some = <T>(count: number, make: () => T): T[] => Array.from({ length: count }, make)

  value(depth = 0): unknown {
    switch (this.below(depth > 2 ? 5 : 7)) {
      case 0:
        return null
      case 1:
        return this.chance(0.5)
      case 2:
      case 3:
        return this.pick(NUMBERS)
      case 4:
        return this.pick(TEXTS)
      case 5:
        return this.some(this.below(4), () => this.value(depth + 1))
      default:
        return Object.fromEntries(this.some(this.below(4), () => [this.pick(KEYS), this.value(depth + 1)]))
    }
  }

  schema(depth = 0): Schema {
    if (this.chance(0.06)) return this.chance(0.7)
    const out: { [keyword: string]: unknown } = {}
    if (this.chance(0.5)) out.type = this.pick(TYPES)
    else if (this.chance(0.3)) out.type = [...new Set(this.some(2, () => this.pick(TYPES)))]
    const keywords = [...this.#flat(), ...(depth < DEEPEST ? this.#nested(depth + 1) : [])]
    for (let count = 1 + this.below(3); count > 0; count--) {
      const [keyword, make] = this.pick(keywords)
      out[keyword] = make()
    }
    if (depth === 0) out.$defs = { p: this.schema(1 + this.below(2)), q: this.schema(2) }
    return out
  }

  #flat(): [keyword: string, make: () => unknown][] {
    const number = () => this.pick(NUMBERS)
    const upTo = (count: number) => () => this.below(count)
    return [
      ['enum', () => this.some(1 + this.below(4), () => this.value(1))],
      ['const', () => this.value(1)],
      ['minLength', upTo(4)],
      ['maxLength', upTo(5)],
      ['pattern', () => this.pick(PATTERNS)],
      ['minimum', number],
      ['maximum', number],
      ['exclusiveMinimum', number],
      ['exclusiveMaximum', number],
      ['multipleOf', () => this.pick(STEPS)],
      ['minItems', upTo(3)],
      ['maxItems', upTo(4)],
      ['minProperties', upTo(3)],
      ['maxProperties', upTo(4)],
      ['required', () => [...new Set(this.some(2, () => this.pick(KEYS)))]],
      ['dependentRequired', () => ({ [this.pick(KEYS)]: [this.pick(KEYS)] })],
    ]
  }

  #nested(depth: number): [keyword: string, make: () => unknown][] {
    const own = () => this.schema(depth)
    const two = () => this.some(2, own)
    const properties = () => Object.fromEntries(this.some(1 + this.below(3), () => [this.pick(KEYS), own()]))
    return [
      ['properties', properties],
      ['properties', properties],
      ['additionalProperties', () => (this.chance(0.5) ? false : own())],
      ['patternProperties', () => ({ [this.pick(PATTERNS)]: own() })],
      ['propertyNames', own],
      ['dependentSchemas', () => ({ [this.pick(KEYS)]: own() })],
      ['items', own],
      ['prefixItems', () => this.some(1 + this.below(2), own)],
      ['contains', own],
      ['allOf', two],
      ['anyOf', two],
      ['oneOf', two],
      ['not', own],
      ['if', own],
      ['then', own],
      ['else', own],
      ['$ref', () => this.pick(['#/$defs/p', '#/$defs/q', '#'])],
    ]
  }

  /** A value that often fulfils a schema, or nearly. */
  near(schema: Schema, root: Schema, depth = 0): unknown {
    if (depth > 6 || typeof schema === 'boolean' || this.chance(0.1)) return this.value(depth)
    const one = (part: unknown) => this.near((part ?? true) as Schema, root, depth + 1)
    if (schema.const !== undefined && this.chance(0.8)) return schema.const
    if (schema.enum !== undefined && this.chance(0.8)) return this.pick(schema.enum as unknown[])
    if (schema.$ref !== undefined && this.chance(0.6)) {
      const defs = (root as { $defs: Record<string, Schema> }).$defs
      return one(schema.$ref === '#' ? root : defs[String(schema.$ref).at(-1)!])
    }
    for (const keyword of ['allOf', 'anyOf', 'oneOf']) {
      if (schema[keyword] !== undefined && this.chance(0.4)) return one(this.pick(schema[keyword] as Schema[]))
    }
    const structured = ['array', 'object', 'object', schema.pattern === undefined ? 'null' : 'string']
    switch (this.pick(schema.type === undefined ? ['string', 'number', ...structured] : [schema.type].flat())) {
      case 'null':
        return null
      case 'boolean':
        return this.chance(0.5)
      case 'integer':
      case 'number':
        return this.chance(0.4) ? this.below(12) - 3 : this.pick(NUMBERS)
      case 'string':
        return this.pick(TEXTS)
      case 'array': {
        const places = (schema.prefixItems ?? []) as Schema[]
        const rest = schema.items ?? schema.contains
        return this.some(Math.max((schema.minItems as number) ?? 0, this.below(4)), () => rest).map((item, place) =>
          one(places[place] ?? item),
        )
      }
      default:
        return this.#object(schema, one)
    }
  }

  #object(schema: { [keyword: string]: unknown }, one: (part: unknown) => unknown): object {
    const out: Record<string, unknown> = {}
    const required = (schema.required ?? []) as string[]
    for (const [name, part] of Object.entries((schema.properties ?? {}) as object)) {
      if (required.includes(name) || this.chance(0.6)) out[name] = one(part)
    }
    const rest = schema.additionalProperties
    for (const name of required) if (!(name in out) && this.chance(0.9)) out[name] = one(rest)
    if (this.chance(0.4)) out[this.pick([...KEYS, '10', 'A'])] = one(rest)
    const [matched] = Object.values((schema.patternProperties ?? {}) as object)
    if (matched !== undefined && this.chance(0.5)) out[this.pick(KEYS)] = one(matched)
    return out
  }
}

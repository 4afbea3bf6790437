/** A JSON schema's parts, each once, and what its keywords say, in one form for all drafts. */
import { invalid, unsupported } from '../problems.ts'
import { checkKeyword, type TypeName } from './keywords.ts'

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }
export type JsonObject = { [key: string]: Json }

/** A part of a schema: true, false, or keywords. */
export interface Node {
  readonly id: number
  readonly schema: boolean | JsonObject
  /** Of $id: what references within are relative to. */
  readonly base: string
  /** Of a part that stands for one value: that. */
  readonly value?: Json
  /** Undefined of what says nothing of types. */
  types?: { names: ReadonlySet<TypeName>; integer: boolean } | undefined
}

/** A node that holds, or one that does not. */
export interface Literal {
  readonly node: Node
  readonly negative: boolean
}

const BOOLEANS = [true, false] as const

export class Nodes {
  readonly root: Node
  readonly TRUE: Node
  readonly FALSE: Node
  readonly #bySchema = new Map<object, Node>()
  readonly #byValue = new Map<string, Node>()
  readonly #byUri = new Map<string, Node>()
  readonly #checked = new Set<Node>()
  #next = 0

  constructor(schema: Json) {
    ;[this.TRUE, this.FALSE] = BOOLEANS.map((value) => this.#make(value, '')) as [Node, Node]
    this.root = this.node(schema, '', '')
    this.#index(this.root, '')
  }

  #make(schema: boolean | JsonObject, base: string, value?: Json): Node {
    return { id: this.#next++, schema, base, ...(value === undefined ? {} : { value }) }
  }

  /** The part that a keyword has as its value. */
  node(schema: Json | undefined, base: string, where: string): Node {
    if (schema === true) return this.TRUE
    if (schema === false) return this.FALSE
    if (typeof schema !== 'object' || schema === null || Array.isArray(schema)) {
      throw invalid(
        `a JSON schema has ${JSON.stringify(schema)?.slice(0, 40)} where a schema belongs${where && `: ${where}`}`,
      )
    }
    const known = this.#bySchema.get(schema)
    if (known) return known
    const node = this.#make(modern(schema), baseOf(schema, base))
    this.#bySchema.set(schema, node)
    return node
  }

  of(parent: Node, keyword: string, schema: Json | undefined): Node {
    return this.node(schema, parent.base, keyword)
  }

  /** What a value alone fulfils. */
  constant(value: Json): Node {
    const key = canonical(value)
    let node = this.#byValue.get(key)
    if (!node) {
      node = this.#make(structureOf(value), '', value)
      this.#byValue.set(key, node)
    }
    return node
  }

  /** A part of a schema's own making. */
  made(key: string, schema: JsonObject): Node {
    let node = this.#byValue.get(`made ${key}`)
    if (!node) {
      node = this.#make(schema, '')
      this.#byValue.set(`made ${key}`, node)
    }
    return node
  }

  /** Looks at a node's keywords once; throws of what is not supported. */
  check(node: Node): JsonObject {
    const schema = node.schema as JsonObject
    if (this.#checked.has(node)) return schema
    for (const [keyword, value] of Object.entries(schema)) {
      checkKeyword(keyword, value, schema)
    }
    node.types = typesOf(schema)
    this.#checked.add(node)
    return schema
  }

  /** Notes where $id and $anchor name parts; values of enum and const are none. */
  #index(node: Node, parentBase: string): void {
    const open: [schema: Json, base: string][] = [[node.schema as Json, parentBase]]
    const met = new Set<object>()
    for (let next = open.pop(); next; next = open.pop()) {
      const [schema, outer] = next
      if (typeof schema !== 'object' || schema === null || met.has(schema)) continue
      met.add(schema)
      if (Array.isArray(schema)) {
        for (const item of schema) open.push([item, outer])
        continue
      }
      const base = baseOf(schema, outer)
      const own = idOf(schema)
      if (own !== undefined) this.#name(base, schema, base)
      for (const anchor of [schema.$anchor, schema.$dynamicAnchor]) {
        if (typeof anchor === 'string') this.#name(`${base}#${anchor}`, schema, base)
      }
      for (const [keyword, value] of Object.entries(schema)) {
        if (keyword !== 'enum' && keyword !== 'const' && keyword !== 'default' && keyword !== 'examples') {
          open.push([value, base])
        }
      }
    }
  }

  #name(uri: string, schema: JsonObject, base: string): void {
    let node = this.#bySchema.get(schema)
    if (!node) {
      node = this.#make(modern(schema), base)
      this.#bySchema.set(schema, node)
    }
    if (!this.#byUri.has(uri)) this.#byUri.set(uri, node)
  }

  /** What a node's $ref refers to. */
  target(node: Node): Node {
    const { $ref: reference } = node.schema as JsonObject
    if (typeof reference !== 'string') throw invalid('a JSON schema has a $ref that is no text')
    const refuse = () =>
      unsupported(`the reference '${reference}' of a JSON schema`, 'bring what it refers to into $defs')
    const uri = resolve(node.base, reference)
    const known = this.#byUri.get(uri) ?? this.#byUri.get(uri.replace(/#$/, ''))
    if (known) return known
    const [document = '', fragment = ''] = uri.split('#')
    const rootBase = baseOf(this.root.schema === true || this.root.schema === false ? {} : this.root.schema, '')
    const start = this.#byUri.get(document) ?? (document === '' || document === rootBase ? this.root : undefined)
    if (!start) throw refuse()
    if (fragment !== '' && !fragment.startsWith('/')) throw refuse()
    let at: Json | undefined = start.schema as Json
    let base = start.base
    let path: string
    try {
      path = decodeURIComponent(fragment)
    } catch {
      throw refuse()
    }
    for (const part of path.split('/').slice(1)) {
      const key = part.replaceAll('~1', '/').replaceAll('~0', '~')
      if (typeof at !== 'object' || at === null || !Object.hasOwn(at, key)) {
        throw invalid(`a JSON schema refers to '${reference}', which is not there`)
      }
      at = (at as JsonObject)[key]
      if (typeof at === 'object' && at !== null && !Array.isArray(at)) base = baseOf(at, base)
    }
    return this.node(at, base, '$ref')
  }
}

/**
 * What draft 3 said otherwise: schemas among the types, and each property for itself that it is required. And OpenAPI 3.0:
 * null beside the type.
 */
function modern(schema: JsonObject): JsonObject {
  const { type, properties, nullable, allOf = [] } = schema
  const out: JsonObject = { ...schema }
  if (nullable === true && type !== undefined) out.type = [type, 'null'].flat()
  const types = [out.type ?? []].flat()
  if (types.some((name) => typeof name === 'object')) {
    const names = types.filter((name) => typeof name === 'string')
    const schemas = types.filter((name) => typeof name === 'object')
    delete out.type
    out.allOf = [
      ...(Array.isArray(allOf) ? allOf : []),
      { anyOf: [...(names.length > 0 ? [{ type: names }] : []), ...schemas] },
    ]
  }
  if (typeof out.required === 'boolean') delete out.required
  if (typeof properties === 'object' && properties !== null && !Array.isArray(properties)) {
    const isRequired = (value: Json | undefined) =>
      typeof value === 'object' && value !== null && !Array.isArray(value) && value.required === true
    const required = Object.keys(properties).filter((name) => isRequired(properties[name]))
    if (required.length > 0) out.required = [...(Array.isArray(out.required) ? out.required : []), ...required]
  }
  return out
}

function idOf(schema: JsonObject): string | undefined {
  const id = schema.$id ?? schema.id
  return typeof id === 'string' ? id : undefined
}

function baseOf(schema: JsonObject, outer: string): string {
  const id = idOf(schema)
  return id === undefined ? outer : resolve(outer, id).replace(/#$/, '')
}

function resolve(base: string, reference: string): string {
  if (reference.startsWith('#')) return base.split('#')[0] + reference
  try {
    return new URL(reference, base === '' ? 'millrace:/' : base).href.replace(/^millrace:\/*/, '')
  } catch {
    return reference
  }
}

function typesOf(schema: JsonObject): Node['types'] {
  const { type } = schema
  if (type === undefined) return undefined
  const names = [type].flat() as string[]
  const set = new Set<TypeName>(names.filter((name) => name !== 'integer' && name !== 'any') as TypeName[])
  if (names.includes('any')) return undefined
  const integer = names.includes('integer') && !set.has('number')
  if (names.includes('integer')) set.add('number')
  return { names: set, integer }
}

/** Equal of equal values, whatever the order of keys. */
export function canonical(value: Json): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value === 0 ? 0 : value)
  const keys = Object.keys(value).sort()
  return `{${keys.map((key) => `${JSON.stringify(key)}:${canonical(value[key]!)}`).join(',')}}`
}

/** A schema that a value alone fulfils; of arrays and objects in terms of what is in them. */
function structureOf(value: Json): JsonObject {
  if (Array.isArray(value)) {
    return {
      type: 'array',
      prefixItems: value.map((item) => ({ const: item })),
      minItems: value.length,
      maxItems: value.length,
    }
  }
  if (typeof value === 'object' && value !== null) {
    const properties: JsonObject = Object.create(null)
    for (const [key, item] of Object.entries(value)) properties[key] = { const: item }
    return { type: 'object', properties, required: Object.keys(value), additionalProperties: false }
  }
  return { const: value }
}

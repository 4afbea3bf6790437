/**
 * What a schema says of arrays and objects: alternatives without any logic left in them. allOf, anyOf, oneOf, not and
 * if are multiplied out; what must not hold becomes what must, keyword by keyword.
 */
import { type Meter, tooLarge, unsupported } from '../problems.ts'
import type { Json, JsonObject, Literal, Node, Nodes } from './nodes.ts'

/** What some keywords say of members, by name. */
export interface MemberSpec {
  named: ReadonlyMap<string, readonly Literal[]>
  patterns: readonly { source: string; value: readonly Literal[] }[]
  /** Of names that are neither; undefined: anything. */
  rest: readonly Literal[] | undefined
}

/** At least one member must be so. */
export interface MemberWitness {
  /** Which name: one that has the pattern; one that is not named in a spec and has none of its patterns; one that this holds of. */
  name: { pattern: string } | { unlike: MemberSpec } | { literal: Literal }
  value: readonly Literal[]
}

export interface ObjectShape {
  type: 'object'
  required: Set<string>
  forbidden: Set<string>
  specs: MemberSpec[]
  names: Literal[]
  minimum: number
  maximum: number
  implications: [name: string, required: readonly string[]][]
  witnesses: MemberWitness[]
}

/** What one keyword says of places. */
export interface PlaceSpec {
  places: readonly (readonly Literal[])[]
  rest: readonly Literal[] | undefined
}

export interface ArrayShape {
  type: 'array'
  specs: PlaceSpec[]
  minimum: number
  maximum: number
  /** At least one item, from a place on, is so. */
  witnesses: { from: number; value: readonly Literal[] }[]
  unique: boolean
}

export type Shape = ObjectShape | ArrayShape

const INFINITY = Number.POSITIVE_INFINITY
const MAX_SHAPES = 3000

const emptyObject = (): ObjectShape => ({
  type: 'object',
  required: new Set(),
  forbidden: new Set(),
  specs: [],
  names: [],
  minimum: 0,
  maximum: INFINITY,
  implications: [],
  witnesses: [],
})

const emptyArray = (): ArrayShape => ({
  type: 'array',
  specs: [],
  minimum: 0,
  maximum: INFINITY,
  witnesses: [],
  unique: false,
})

function copy<S extends Shape>(shape: S): S {
  if (shape.type === 'array') {
    return { ...shape, specs: [...shape.specs], witnesses: [...shape.witnesses] }
  }
  const { required, forbidden, specs, names, implications, witnesses } = shape
  return {
    ...shape,
    required: new Set(required),
    forbidden: new Set(forbidden),
    specs: [...specs],
    names: [...names],
    implications: [...implications],
    witnesses: [...witnesses],
  }
}

export const holds = (node: Node): Literal => ({ node, negative: false })
export const fails = (node: Node): Literal => ({ node, negative: true })
const turned = ({ node, negative }: Literal): Literal => ({ node, negative: !negative })

/** A literal's number; its opposite's differs in the lowest bit. */
export const numberOf = ({ node, negative }: Literal) => 2 * node.id + (negative ? 1 : 0)

/** A shape in the making: what it is so far, and what is still to be read. */
interface Draft<S extends Shape> {
  shape: S
  read: Set<number>
  /** Keywords are read before what branches, so that it finds more to contradict. */
  open: Literal[]
  branches: Branch[]
}

/** One of these lists must be read. Which, is known late: oneOf looks at what else holds. */
type Branch = (draft: Draft<Shape>) => Literal[][]

export class Shapes {
  readonly #nodes: Nodes
  readonly #meter: Meter
  /** Whether no value is like that, as far as a short look can tell. */
  readonly #surelyEmpty: (shape: Shape) => boolean

  constructor(nodes: Nodes, meter: Meter, surelyEmpty: (shape: Shape) => boolean) {
    this.#nodes = nodes
    this.#meter = meter
    this.#surelyEmpty = surelyEmpty
  }

  objects = (literals: readonly Literal[]) => this.#expand(literals, emptyObject())
  arrays = (literals: readonly Literal[]) => this.#expand(literals, emptyArray())

  #expand<S extends Shape>(literals: readonly Literal[], shape: S, read = new Set<number>()): S[] {
    const out: S[] = []
    const drafts: Draft<S>[] = [{ shape, read, open: [...literals], branches: [] }]
    for (let draft = drafts.pop(); draft; draft = drafts.pop()) {
      this.#meter.spend(20)
      if (!this.#read(draft)) continue
      const branch = draft.branches.pop()
      if (!branch) {
        out.push(draft.shape)
        if (out.length > MAX_SHAPES) throw tooLarge(`more than ${MAX_SHAPES} alternatives`)
        continue
      }
      const ways = branch(draft as unknown as Draft<Shape>)
      for (const way of ways.toReversed()) {
        this.#meter.spend(20 + draft.read.size)
        drafts.push({ shape: copy(draft.shape), read: new Set(draft.read), open: way, branches: [...draft.branches] })
      }
    }
    return out
  }

  /** Reads all that is open. False: it contradicts itself. */
  #read<S extends Shape>(draft: Draft<S>): boolean {
    const { read, open } = draft
    for (let literal = open.pop(); literal; literal = open.pop()) {
      const number = numberOf(literal)
      if (read.has(number)) continue
      if (read.has(number ^ 1)) return false
      read.add(number)
      this.#meter.spend(20)
      const { schema } = literal.node
      if (typeof schema === 'boolean') {
        if (schema === literal.negative) return false
        continue
      }
      const isLeft = literal.negative
        ? this.#readNegative(draft, literal.node)
        : this.#readPositive(draft, literal.node)
      if (!isLeft) return false
    }
    return true
  }

  #list(node: Node, keyword: string): Node[] {
    return ((node.schema as JsonObject)[keyword] as Json[]).map((part) => this.#nodes.of(node, keyword, part))
  }

  #readPositive<S extends Shape>({ shape, open, branches }: Draft<S>, node: Node): boolean {
    const schema = this.#nodes.check(node)
    if (node.types && !node.types.names.has(shape.type)) return false
    if (node.value === undefined) {
      for (const values of [
        schema.enum as Json[] | undefined,
        schema.const === undefined ? undefined : [schema.const],
      ]) {
        if (values === undefined) continue
        const own = values
          .filter((value) => typeOf(value) === shape.type)
          .map((value) => holds(this.#nodes.constant(value)))
        if (own.length === 0) return false
        if (own.length === 1) open.push(own[0]!)
        else branches.push(() => own.map((literal) => [literal]))
      }
    }
    if (shape.type === 'object') this.#objectKeywords(shape, node, schema, branches)
    else this.#arrayKeywords(shape, node, schema)
    if (schema.$ref !== undefined) open.push(holds(this.#nodes.target(node)))
    if (schema.not !== undefined) open.push(fails(this.#nodes.of(node, 'not', schema.not)))
    if (schema.allOf !== undefined) for (const part of this.#list(node, 'allOf')) open.push(holds(part))
    if (schema.anyOf !== undefined) {
      const parts = this.#list(node, 'anyOf')
      branches.push(() => parts.map((part) => [holds(part)]))
    }
    if (schema.if !== undefined && (schema.then !== undefined || schema.else !== undefined)) {
      const condition = this.#nodes.of(node, 'if', schema.if)
      const then = schema.then === undefined ? [] : [holds(this.#nodes.of(node, 'then', schema.then))]
      const otherwise = schema.else === undefined ? [] : [holds(this.#nodes.of(node, 'else', schema.else))]
      branches.push(() => [
        [holds(condition), ...then],
        [fails(condition), ...otherwise],
      ])
    }
    if (schema.oneOf !== undefined) {
      const parts = this.#list(node, 'oneOf')
      branches.unshift((draft) => this.#exactlyOne(draft, parts))
    }
    return true
  }

  /** Each of the parts, without those others that could hold beside it. */
  #exactlyOne(draft: Draft<Shape>, parts: readonly Node[]): Literal[][] {
    const possible = parts.filter((part) => this.#mayBe(part, draft.shape.type))
    const together = new Map<number, boolean>()
    const mayBoth = (i: number, j: number) => {
      const key = Math.min(i, j) * possible.length + Math.max(i, j)
      let answer = together.get(key)
      if (answer === undefined) {
        const shapes = this.#expand([holds(possible[i]!), holds(possible[j]!)], copy(draft.shape), new Set(draft.read))
        answer = shapes.some((shape) => !this.#surelyEmpty(shape))
        together.set(key, answer)
      }
      return answer
    }
    return possible.map((part, i) => [
      holds(part),
      ...possible.flatMap((other, j) => (j !== i && mayBoth(i, j) ? [fails(other)] : [])),
    ])
  }

  /** A short look at whether a node can hold of values of a type. */
  #mayBe(node: Node, type: 'array' | 'object', depth = 0): boolean {
    if (typeof node.schema === 'boolean') return node.schema
    const schema = this.#nodes.check(node)
    if (node.types && !node.types.names.has(type)) return false
    if (schema.const !== undefined && typeOf(schema.const) !== type) return false
    if (schema.enum !== undefined && !(schema.enum as Json[]).some((value) => typeOf(value) === type)) return false
    if (depth < 8) {
      if (schema.$ref !== undefined && !this.#mayBe(this.#nodes.target(node), type, depth + 1)) return false
      if (schema.allOf !== undefined && this.#list(node, 'allOf').some((part) => !this.#mayBe(part, type, depth + 1)))
        return false
      for (const keyword of ['anyOf', 'oneOf']) {
        if (schema[keyword] === undefined) continue
        if (!this.#list(node, keyword).some((part) => this.#mayBe(part, type, depth + 1))) return false
      }
    }
    return true
  }

  /** One of the keywords does not hold. */
  #readNegative<S extends Shape>({ shape, open, branches }: Draft<S>, node: Node): boolean {
    const schema = this.#nodes.check(node)
    // It says that there are no such values at all.
    if (node.types && !node.types.names.has(shape.type)) return true
    const ways: Literal[][] = []
    if (node.value === undefined) {
      for (const values of [
        schema.enum as Json[] | undefined,
        schema.const === undefined ? undefined : [schema.const],
      ]) {
        if (values === undefined) continue
        ways.push(
          values.filter((value) => typeOf(value) === shape.type).map((value) => fails(this.#nodes.constant(value))),
        )
      }
    }
    if (schema.$ref !== undefined) ways.push([fails(this.#nodes.target(node))])
    if (schema.not !== undefined) ways.push([holds(this.#nodes.of(node, 'not', schema.not))])
    if (schema.allOf !== undefined) ways.push(...this.#list(node, 'allOf').map((part) => [fails(part)]))
    if (schema.anyOf !== undefined) ways.push(this.#list(node, 'anyOf').map(fails))
    if (schema.oneOf !== undefined) {
      const parts = this.#list(node, 'oneOf').filter((part) => this.#mayBe(part, shape.type))
      ways.push(parts.map(fails))
      parts.forEach((part, i) => {
        for (const other of parts.slice(i + 1)) ways.push([holds(part), holds(other)])
      })
    }
    if (schema.if !== undefined && (schema.then !== undefined || schema.else !== undefined)) {
      const condition = this.#nodes.of(node, 'if', schema.if)
      if (schema.then !== undefined) ways.push([holds(condition), fails(this.#nodes.of(node, 'then', schema.then))])
      if (schema.else !== undefined) ways.push([fails(condition), fails(this.#nodes.of(node, 'else', schema.else))])
    }
    // A keyword that does not hold is a small schema of its own.
    if (shape.type === 'object') ways.push(...this.#objectOpposites(node, schema))
    else ways.push(...this.#arrayOpposites(node, schema).map((literal) => [literal]))
    if (ways.length === 0) return false
    if (ways.length === 1) open.push(...ways[0]!)
    else branches.unshift(() => ways)
    return true
  }

  // ---- Objects

  #objectKeywords(shape: ObjectShape, node: Node, schema: JsonObject, branches: Branch[]): void {
    const { required, minProperties = 0, maxProperties = INFINITY, propertyNames } = schema
    for (const name of (required ?? []) as string[]) shape.required.add(name)
    shape.minimum = Math.max(shape.minimum, minProperties as number)
    shape.maximum = Math.min(shape.maximum, maxProperties as number)
    if (propertyNames !== undefined) shape.names.push(holds(this.#nodes.of(node, 'propertyNames', propertyNames)))
    const spec = this.#memberSpec(node, schema)
    if (spec) shape.specs.push(spec)
    const opposite = OPPOSITES.get(node)
    if (opposite) opposite(shape)
    for (const keyword of ['dependencies', 'dependentRequired', 'dependentSchemas']) {
      for (const [name, value] of Object.entries((schema[keyword] ?? {}) as JsonObject)) {
        if (Array.isArray(value)) {
          shape.implications.push([name, value as string[]])
          continue
        }
        const part = this.#nodes.of(node, keyword, value)
        branches.push(() => [[this.#without(name)], [this.#with(name), holds(part)]])
      }
    }
  }

  #memberSpec(node: Node, schema: JsonObject): MemberSpec | undefined {
    const { properties, patternProperties, additionalProperties } = schema
    if (properties === undefined && patternProperties === undefined && additionalProperties === undefined)
      return undefined
    const of = (keyword: string, value: Json) => [holds(this.#nodes.of(node, keyword, value))]
    return {
      named: new Map(
        Object.entries((properties ?? {}) as JsonObject).map(([name, value]) => [name, of('properties', value)]),
      ),
      patterns: Object.entries((patternProperties ?? {}) as JsonObject).map(([source, value]) => ({
        source,
        value: of('patternProperties', value),
      })),
      rest: additionalProperties === undefined ? undefined : of('additionalProperties', additionalProperties),
    }
  }

  #with(name: string): Literal {
    return holds(this.#nodes.made(`with ${name}`, { required: [name] }))
  }

  #without(name: string): Literal {
    return holds(
      this.#nodes.made(`without ${name}`, { properties: Object.assign(Object.create(null), { [name]: false }) }),
    )
  }

  #opposite(node: Node, what: string, change: (shape: ObjectShape) => void): Literal {
    const made = this.#nodes.made(`${node.id} ${what}`, {})
    OPPOSITES.set(made, change)
    return holds(made)
  }

  /** Ways in which a keyword may not hold. */
  #objectOpposites(node: Node, schema: JsonObject): Literal[][] {
    const { required, minProperties = 0, maxProperties = INFINITY, propertyNames } = schema
    const out = ((required ?? []) as string[]).map((name) => [this.#without(name)])
    if ((minProperties as number) > 0) {
      out.push([
        holds(this.#nodes.made(`at most ${minProperties} - 1`, { maxProperties: (minProperties as number) - 1 })),
      ])
    }
    if (maxProperties !== INFINITY) {
      out.push([
        holds(this.#nodes.made(`at least ${maxProperties} + 1`, { minProperties: (maxProperties as number) + 1 })),
      ])
    }
    if (propertyNames !== undefined) {
      const literal = fails(this.#nodes.of(node, 'propertyNames', propertyNames))
      out.push([this.#opposite(node, 'names', (shape) => shape.witnesses.push({ name: { literal }, value: [] }))])
    }
    const spec = this.#memberSpec(node, schema)
    if (spec) {
      for (const [name, value] of spec.named) {
        if (isTrue(value)) continue
        out.push([
          this.#opposite(node, `named ${name}`, (shape) => {
            shape.required.add(name)
            shape.specs.push({ named: new Map([[name, value.map(turned)]]), patterns: [], rest: undefined })
          }),
        ])
      }
      for (const { source, value } of spec.patterns) {
        if (isTrue(value)) continue
        const witness = { name: { pattern: source }, value: value.map(turned) }
        out.push([this.#opposite(node, `pattern ${source}`, (shape) => shape.witnesses.push(witness))])
      }
      if (spec.rest && !isTrue(spec.rest)) {
        const witness = { name: { unlike: spec }, value: spec.rest.map(turned) }
        out.push([this.#opposite(node, 'rest', (shape) => shape.witnesses.push(witness))])
      }
    }
    for (const keyword of ['dependencies', 'dependentRequired', 'dependentSchemas']) {
      for (const [name, value] of Object.entries((schema[keyword] ?? {}) as JsonObject)) {
        if (Array.isArray(value)) {
          for (const other of value as string[]) {
            out.push([
              this.#opposite(node, `${name} without ${other}`, (shape) => {
                shape.required.add(name)
                shape.forbidden.add(other)
              }),
            ])
          }
        } else {
          out.push([this.#with(name), fails(this.#nodes.of(node, keyword, value))])
        }
      }
    }
    return out
  }

  // ---- Arrays

  #placeSpec(node: Node, schema: JsonObject): PlaceSpec | undefined {
    const { items, prefixItems, additionalItems } = schema
    const of = (keyword: string, value: Json) => [holds(this.#nodes.of(node, keyword, value))]
    const tuple = Array.isArray(items) ? 'items' : prefixItems === undefined ? undefined : 'prefixItems'
    if (tuple === undefined) return items === undefined ? undefined : { places: [], rest: of('items', items) }
    const [keyword, rest] =
      tuple === 'items' ? (['additionalItems', additionalItems] as const) : (['items', items] as const)
    return {
      places: (schema[tuple] as Json[]).map((value) => of(tuple, value)),
      rest: rest === undefined ? undefined : of(keyword, rest),
    }
  }

  #arrayKeywords(shape: ArrayShape, node: Node, schema: JsonObject): void {
    const { minItems = 0, maxItems = INFINITY, contains, minContains = 1, uniqueItems } = schema
    shape.minimum = Math.max(shape.minimum, minItems as number)
    shape.maximum = Math.min(shape.maximum, maxItems as number)
    if (uniqueItems === true) shape.unique = true
    const spec = this.#placeSpec(node, schema)
    if (spec) shape.specs.push(spec)
    if (contains !== undefined && (minContains as number) > 0) {
      shape.witnesses.push({ from: 0, value: [holds(this.#nodes.of(node, 'contains', contains))] })
    }
    ARRAY_OPPOSITES.get(node)?.(shape)
  }

  #arrayOpposites(node: Node, schema: JsonObject): Literal[] {
    const { minItems = 0, maxItems = INFINITY, contains, minContains = 1, uniqueItems } = schema
    const out: Literal[] = []
    const opposite = (what: string, change: (shape: ArrayShape) => void) => {
      const made = this.#nodes.made(`${node.id} ${what}`, {})
      ARRAY_OPPOSITES.set(made, change)
      out.push(holds(made))
    }
    if (uniqueItems === true) throw unsupported("the keyword 'uniqueItems' of JSON schemas within not or oneOf")
    if ((minItems as number) > 0)
      out.push(holds(this.#nodes.made(`short ${minItems}`, { maxItems: (minItems as number) - 1 })))
    if (maxItems !== INFINITY)
      out.push(holds(this.#nodes.made(`long ${maxItems}`, { minItems: (maxItems as number) + 1 })))
    const spec = this.#placeSpec(node, schema)
    spec?.places.forEach((value, place) => {
      if (isTrue(value)) return
      opposite(`place ${place}`, (shape) => {
        shape.minimum = Math.max(shape.minimum, place + 1)
        shape.specs.push({ places: [...Array.from({ length: place }, () => []), value.map(turned)], rest: undefined })
      })
    })
    if (spec?.rest && !isTrue(spec.rest)) {
      const witness = { from: spec.places.length, value: spec.rest.map(turned) }
      opposite('rest', (shape) => shape.witnesses.push(witness))
    }
    if (contains !== undefined && (minContains as number) > 0) {
      const value = [fails(this.#nodes.of(node, 'contains', contains))]
      opposite('contains', (shape) => shape.specs.push({ places: [], rest: value }))
    }
    return out
  }
}

/** What nodes of our own making change that no keyword could. */
const OPPOSITES = new WeakMap<Node, (shape: ObjectShape) => void>()
const ARRAY_OPPOSITES = new WeakMap<Node, (shape: ArrayShape) => void>()

const isTrue = (literals: readonly Literal[]) =>
  literals.every(
    ({ node, negative }) =>
      !negative && (node.schema === true || (typeof node.schema === 'object' && Object.keys(node.schema).length === 0)),
  )

const typeOf = (value: Json): string => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value)

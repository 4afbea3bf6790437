/**
 * A schema's logic multiplied out into shapes: allOf, anyOf, oneOf, not and if become alternatives; what must not hold
 * becomes what must, keyword by keyword.
 */
import { type Meter, tooLarge } from '../problems.ts'
import { ArrayKeywords } from './array_keywords.ts'
import type { Json, JsonObject, Literal, Node, Nodes } from './nodes.ts'
import { ObjectKeywords } from './object_keywords.ts'
import { copy, type Draft, emptyArray, emptyObject, fails, holds, numberOf, type Shape, typeOf } from './shapes.ts'

const MAX_SHAPES = 3000

export class Shapes {
  readonly #nodes: Nodes
  readonly #meter: Meter
  /** Whether no value is like that, as far as a short look can tell. */
  readonly #surelyEmpty: (shape: Shape) => boolean
  readonly #ofObjects: ObjectKeywords
  readonly #ofArrays: ArrayKeywords

  constructor(nodes: Nodes, meter: Meter, surelyEmpty: (shape: Shape) => boolean) {
    this.#nodes = nodes
    this.#meter = meter
    this.#surelyEmpty = surelyEmpty
    this.#ofObjects = new ObjectKeywords(nodes)
    this.#ofArrays = new ArrayKeywords(nodes)
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
        // What is open is used up, and the same ways are taken by every alternative of another branch.
        const open = [...way]
        drafts.push({ shape: copy(draft.shape), read: new Set(draft.read), open, branches: [...draft.branches] })
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
    if (shape.type === 'object') this.#ofObjects.read(shape, node, schema, branches)
    else this.#ofArrays.read(shape, node, schema)
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
    if (shape.type === 'object') ways.push(...this.#ofObjects.opposites(node, schema))
    else ways.push(...this.#ofArrays.opposites(node, schema).map((literal) => [literal]))
    if (ways.length === 0) return false
    if (ways.length === 1) open.push(...ways[0]!)
    else branches.unshift(() => ways)
    return true
  }
}

/** The keywords of objects, and what it takes that one of them does not hold. */
import type { Json, JsonObject, Literal, Node, Nodes } from './nodes.ts'
import { type Branch, fails, holds, isTrue, type MemberSpec, type ObjectShape, turned } from './shapes.ts'
import { unevaluated } from './unevaluated.ts'

const INFINITY = Number.POSITIVE_INFINITY

/** What nodes of our own making change that no keyword could. */
const OPPOSITES = new WeakMap<Node, (shape: ObjectShape) => void>()

export class ObjectKeywords {
  readonly #nodes: Nodes

  constructor(nodes: Nodes) {
    this.#nodes = nodes
  }

  /** Puts what a node says of objects into a shape. */
  read(shape: ObjectShape, node: Node, schema: JsonObject, branches: Branch[]): void {
    const { required, minProperties = 0, maxProperties = INFINITY, propertyNames } = schema
    for (const name of (required ?? []) as string[]) shape.required.add(name)
    shape.minimum = Math.max(shape.minimum, minProperties as number)
    shape.maximum = Math.min(shape.maximum, maxProperties as number)
    if (propertyNames !== undefined) shape.names.push(holds(this.#nodes.of(node, 'propertyNames', propertyNames)))
    shape.specs.push(...this.#specs(node, schema))
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

  #specs(node: Node, schema: JsonObject): MemberSpec[] {
    const specs = [this.#memberSpec(node, schema), unevaluated(this.#nodes, node, schema)]
    return specs.filter((spec) => spec !== undefined)
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
  opposites(node: Node, schema: JsonObject): Literal[][] {
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
    this.#specs(node, schema).forEach((spec, index) => {
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
        out.push([this.#opposite(node, `rest ${index}`, (shape) => shape.witnesses.push(witness))])
      }
    })
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
}

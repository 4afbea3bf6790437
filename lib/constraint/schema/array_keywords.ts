/** The keywords of arrays, and what it takes that one of them does not hold. */
import { unsupported } from '../problems.ts'
import type { Json, JsonObject, Literal, Node, Nodes } from './nodes.ts'
import { type ArrayShape, fails, holds, isTrue, type PlaceSpec, turned } from './shapes.ts'

const INFINITY = Number.POSITIVE_INFINITY

/** What nodes of our own making change that no keyword could. */
const OPPOSITES = new WeakMap<Node, (shape: ArrayShape) => void>()

export class ArrayKeywords {
  readonly #nodes: Nodes

  constructor(nodes: Nodes) {
    this.#nodes = nodes
  }

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

  /** Puts what a node says of arrays into a shape. */
  read(shape: ArrayShape, node: Node, schema: JsonObject): void {
    const { minItems = 0, maxItems = INFINITY, contains, minContains = 1, uniqueItems } = schema
    shape.minimum = Math.max(shape.minimum, minItems as number)
    shape.maximum = Math.min(shape.maximum, maxItems as number)
    if (uniqueItems === true) shape.unique = true
    const spec = this.#placeSpec(node, schema)
    if (spec) shape.specs.push(spec)
    if (contains !== undefined && (minContains as number) > 0) {
      shape.witnesses.push({ from: 0, value: [holds(this.#nodes.of(node, 'contains', contains))] })
    }
    OPPOSITES.get(node)?.(shape)
  }

  /** Ways in which a keyword may not hold. */
  opposites(node: Node, schema: JsonObject): Literal[] {
    const { minItems = 0, maxItems = INFINITY, contains, minContains = 1, uniqueItems } = schema
    const out: Literal[] = []
    const opposite = (what: string, change: (shape: ArrayShape) => void) => {
      const made = this.#nodes.made(`${node.id} ${what}`, {})
      OPPOSITES.set(made, change)
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

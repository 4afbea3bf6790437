/** What a schema says of arrays and objects: alternatives without any logic left in them. */
import type { Json, Literal, Node } from './nodes.ts'

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

export const emptyObject = (): ObjectShape => ({
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

export const emptyArray = (): ArrayShape => ({
  type: 'array',
  specs: [],
  minimum: 0,
  maximum: INFINITY,
  witnesses: [],
  unique: false,
})

export function copy<S extends Shape>(shape: S): S {
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
export const turned = ({ node, negative }: Literal): Literal => ({ node, negative: !negative })

/** A literal's number; its opposite's differs in the lowest bit. */
export const numberOf = ({ node, negative }: Literal) => 2 * node.id + (negative ? 1 : 0)

/** A shape in the making: what it is so far, and what is still to be read. */
export interface Draft<S extends Shape> {
  shape: S
  read: Set<number>
  /** Keywords are read before what branches, so that it finds more to contradict. */
  open: Literal[]
  branches: Branch[]
}

/** One of these lists must be read. Which, is known late: oneOf looks at what else holds. */
export type Branch = (draft: Draft<Shape>) => Literal[][]

/** Says nothing. */
export const isTrue = (literals: readonly Literal[]) =>
  literals.every(
    ({ node, negative }) =>
      !negative && (node.schema === true || (typeof node.schema === 'object' && Object.keys(node.schema).length === 0)),
  )

export const typeOf = (value: Json): string => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value)

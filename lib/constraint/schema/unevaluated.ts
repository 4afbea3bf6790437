/** unevaluatedProperties: members that no keyword beside it names, nor one of what allOf and $ref put there. */
import { unsupported } from '../problems.ts'
import type { Json, JsonObject, Node, Nodes } from './nodes.ts'
import { holds, type MemberSpec } from './shapes.ts'

const NAMING = ['properties', 'patternProperties', 'additionalProperties', 'unevaluatedProperties']
/** What of these names members depends on which of them hold. */
const BRANCHES = ['anyOf', 'oneOf', 'if', 'then', 'else', 'dependentSchemas', 'dependencies']

interface Evaluated {
  names: Set<string>
  patterns: Set<string>
  /** All members are. */
  all: boolean
}

/** undefined where it says nothing. Throws CONSTRAINT_UNSUPPORTED where alternatives name members. */
export function unevaluated(nodes: Nodes, node: Node, schema: JsonObject): MemberSpec | undefined {
  const { unevaluatedProperties } = schema
  if (unevaluatedProperties === undefined) return undefined
  const found: Evaluated = { names: new Set(), patterns: new Set(), all: false }
  const met = new Set<Node>()
  const read = (part: Node) => {
    if (met.has(part) || typeof part.schema === 'boolean') return
    met.add(part)
    const own = nodes.check(part)
    for (const name of Object.keys((own.properties ?? {}) as JsonObject)) found.names.add(name)
    for (const source of Object.keys((own.patternProperties ?? {}) as JsonObject)) found.patterns.add(source)
    found.all ||= own.additionalProperties !== undefined || (part !== node && own.unevaluatedProperties !== undefined)
    if (own.$ref !== undefined) read(nodes.target(part))
    for (const other of (own.allOf ?? []) as Json[]) read(nodes.of(part, 'allOf', other))
    for (const keyword of BRANCHES) {
      if (own[keyword] !== undefined && names(own[keyword])) {
        throw unsupported(`the keyword 'unevaluatedProperties' of JSON schemas beside '${keyword}' with properties`)
      }
    }
  }
  read(node)
  if (found.all) return undefined
  return {
    named: new Map([...found.names].map((name) => [name, []])),
    patterns: [...found.patterns].map((source) => ({ source, value: [] })),
    rest: [holds(nodes.of(node, 'unevaluatedProperties', unevaluatedProperties))],
  }
}

/** A reference may name members, too. */
function names(value: Json | undefined): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (Array.isArray(value)) return value.some(names)
  return Object.entries(value).some(([key, one]) => NAMING.includes(key) || key === '$ref' || names(one))
}

/** A JSON schema -> rules. */
import type { Meter } from '../problems.ts'
import type { RuleSet } from '../rules.ts'
import type { Body } from '../task.ts'
import { planArray } from './array_plan.ts'
import { Contradictions } from './contradictions.ts'
import { Emitter } from './emit.ts'
import { Shapes } from './expand.ts'
import { Nodes } from './nodes.ts'
import { ObjectPlanner } from './object_plan.ts'
import { Possible } from './possible.ts'
import { ScalarRules } from './scalar_rules.ts'
import { Scalars } from './scalars.ts'
import { holds } from './shapes.ts'
import { type Value, Values } from './values.ts'

type SchemaBody = Pick<Extract<Body, { type: 'schema' }>, 'schema' | 'exponents'>

export class SchemaCompiler {
  readonly #nodes: Nodes
  readonly #scalars: Scalars
  readonly #contradictions: Contradictions
  readonly #shapes: Shapes
  readonly #values: Values
  readonly #objects: ObjectPlanner
  readonly #possible: Possible
  readonly #emitter: Emitter

  constructor({ schema, exponents = false }: SchemaBody, rules: RuleSet, meter: Meter) {
    this.#nodes = new Nodes(schema)
    this.#scalars = new Scalars(this.#nodes, meter)
    this.#contradictions = new Contradictions(this.#scalars)
    this.#shapes = new Shapes(this.#nodes, meter, (shape) => this.#contradictions.contradicts(shape))
    this.#contradictions.shapes = this.#shapes
    this.#values = new Values(meter)
    this.#objects = new ObjectPlanner(this.#scalars, this.#values, meter)
    const scalarRules = new ScalarRules(this.#scalars, rules, exponents, meter)
    this.#possible = new Possible(this.#values, scalarRules, meter)
    this.#emitter = new Emitter(this.#values, this.#possible, scalarRules, rules, meter)
  }

  /** The rule of the schema's values; undefined if there are none. */
  compile(): number | undefined {
    const { list } = this.#values
    const root = this.#values.of([holds(this.#nodes.root)])
    // Planning one meets others.
    for (let at = 0; at < list.length; at++) this.#plan(list[at]!)
    this.#possible.find()
    return list[root]!.isPossible ? this.#emitter.emit(root) : undefined
  }

  #plan(value: Value): void {
    const { literals } = value
    value.texts = this.#scalars.texts(literals)
    value.numbers = this.#scalars.numbers(literals)
    const [no, yes] = this.#scalars.booleans(literals)
    if (this.#scalars.mayBeNull(literals)) value.constants.push('null')
    if (yes) value.constants.push('true')
    if (no) value.constants.push('false')
    for (const shape of this.#shapes.objects(literals)) {
      if (!this.#contradictions.contradicts(shape)) value.objects.push(this.#objects.plan(shape))
    }
    for (const shape of this.#shapes.arrays(literals)) {
      if (!this.#contradictions.contradicts(shape)) value.arrays.push(planArray(shape, this.#values))
    }
  }
}

/**
 * Puts a program together: values by name, units with their operations, and beside every weight the name of its tensor.
 * What an architecture computes is then a few calls (decoder.ts has those that most share).
 */
import type {
  Activation,
  HeadOrder,
  KvClass,
  LinearShape,
  Op,
  Program,
  ProgramUnit,
  RopeSpec,
  RowRange,
  VectorSource,
} from '../binding.ts'

/** One of the matrices of a linear: `<module>.weight` or what a quantised one has in its place. */
export interface LinearPart {
  module: string
  /** Output features. */
  n: number
  bias?: boolean
  heads?: HeadOrder | undefined
  rows?: RowRange | undefined
  /** A router's: whatever is made of other floats, it stays. */
  stays?: boolean
  /** Of an expert: tensors of all experts, of which files have the first that there is where they do not have `module`. */
  stacks?: readonly ExpertStack[] | undefined
}

/** A tensor of all experts: `<module>.weight`, or `<module>` itself, or what a quantised one has in its place. */
export interface ExpertStack {
  module: string
  index: number
  rows?: RowRange
  /** Of floats: input features come before output features. */
  transposed?: boolean
}

/** The matrices of one expert. */
export interface ExpertParts {
  gate: LinearPart
  up: LinearPart
  down: LinearPart
}

/** Names of what a unit's weights are made of, in the order of the program's. */
export interface UnitNames {
  vectors: VectorSource[]
  linears: LinearPart[][]
}

export interface NamedProgram {
  program: Program
  units: UnitNames[]
  /** Modules of the embedding tables. */
  tables: string[]
}

export interface NormOptions {
  begin?: number
  /** Of a group; the whole row where it is left out. */
  width?: number
  groups?: number
  epsilon?: number
  /** LayerNorm in place of RMSNorm. */
  mean?: boolean
  /** To be added to `out`. */
  add?: boolean
  plusOne?: boolean
  heads?: HeadOrder | undefined
}

export type AttendOp = Extract<Op, { op: 'attend' }>
export type ExpertsOp = Extract<Op, { op: 'experts' }>

export class ProgramBuilder {
  readonly #program: Program
  readonly #names: UnitNames[] = []
  readonly #tables: string[] = []
  readonly #values = new Map<string, number>()
  readonly #kv: (KvClass & { key: string })[] = []
  readonly #epsilon: number

  constructor({
    vocab,
    hidden,
    maxPosition,
    epsilon,
  }: { vocab: number; hidden: number; maxPosition: number; epsilon: number }) {
    this.#program = { vocab, maxPosition, values: [], logits: 0, tables: [], embed: [], units: [], kv: [], ropes: [] }
    this.#epsilon = epsilon
    this.value('residual', hidden)
    this.#program.logits = this.value('logits', vocab)
  }

  get epsilon(): number {
    return this.#epsilon
  }

  /** The value of that name and width, made where there is none yet. */
  value(name: string, width: number): number {
    const key = `${name} ${width}`
    const known = this.#values.get(key)
    if (known !== undefined) return known
    this.#values.set(key, this.#program.values.length)
    return this.#program.values.push(width) - 1
  }

  width(value: number): number {
    return this.#program.values[value]!
  }

  rope(spec: RopeSpec): number {
    const text = JSON.stringify(spec)
    const known = this.#program.ropes.findIndex((rope) => JSON.stringify(rope) === text)
    return known >= 0 ? known : this.#program.ropes.push(spec) - 1
  }

  /** A place for the keys and values of one more layer, among those that are kept alike. */
  kvLayer(kind: Omit<KvClass, 'layers'>): { kvClass: number; kvLayer: number } {
    const key = JSON.stringify([kind.window, kind.kvHeads, kind.headDim, kind.state ?? 0, kind.latent ?? false])
    let kvClass = this.#kv.findIndex((known) => known.key === key)
    if (kvClass < 0) kvClass = this.#kv.push({ ...kind, layers: 0, key }) - 1
    return { kvClass, kvLayer: this.#kv[kvClass]!.layers++ }
  }

  table(module: string, width: number): number {
    this.#tables.push(module)
    return this.#program.tables.push(width) - 1
  }

  embed(module: string, scale = 1): void {
    const table = this.table(module, this.width(0))
    this.#program.embed.push({ op: 'gather', table, out: 0, ...(scale === 1 ? {} : { scale }) })
  }

  unit(name: string, layer: number, head = false): UnitBuilder {
    const unit: ProgramUnit = { name, layer, head, ops: [], vectors: [], linears: [] }
    const names: UnitNames = { vectors: [], linears: [] }
    this.#program.units.push(unit)
    this.#names.push(names)
    return new UnitBuilder(this, unit, names)
  }

  finish(): NamedProgram {
    this.#program.kv = this.#kv.map(({ key: _, ...kind }) => kind)
    return { program: this.#program, units: this.#names, tables: this.#tables }
  }
}

export class UnitBuilder {
  readonly #of: ProgramBuilder
  readonly #unit: ProgramUnit
  readonly #names: UnitNames

  constructor(of: ProgramBuilder, unit: ProgramUnit, names: UnitNames) {
    this.#of = of
    this.#unit = unit
    this.#names = names
  }

  op(op: Op): void {
    this.#unit.ops.push(op)
  }

  vector(tensor: string, width: number, plusOne = false, heads?: HeadOrder): number {
    this.#names.vectors.push({ tensor, ...(plusOne ? { plusOne } : {}), ...(heads ? { heads } : {}) })
    return this.#unit.vectors.push(width) - 1
  }

  vectorOf(source: VectorSource, width: number): number {
    this.#names.vectors.push(source)
    return this.#unit.vectors.push(width) - 1
  }

  /** `tensor`: the weights' name; undefined where there are none. */
  norm(from: number, to: number, tensor: string | undefined, options: NormOptions = {}): void {
    const {
      begin,
      width = this.#of.width(from),
      groups,
      mean,
      add,
      plusOne,
      heads,
      epsilon = this.#of.epsilon,
    } = options
    this.op({
      op: 'norm',
      in: from,
      out: to,
      ...(begin ? { begin } : {}),
      width,
      ...(groups ? { groups } : {}),
      ...(tensor === undefined ? {} : { weight: this.vector(tensor, width, plusOne, heads) }),
      epsilon,
      ...(mean ? { mean } : {}),
      ...(add ? { add } : {}),
    })
  }

  linear(from: number, to: number, parts: LinearPart[], { add = false } = {}): void {
    this.op({
      op: 'linear',
      in: from,
      out: to,
      linear: this.#weights(this.#of.width(from), parts),
      ...(add ? { add } : {}),
    })
  }

  glu(from: number, to: number, gate: LinearPart, up: LinearPart, activation: Activation): void {
    this.op({ op: 'glu', in: from, out: to, linear: this.#weights(this.#of.width(from), [gate, up], true), activation })
  }

  /** `up`: what makes keys and values of latents. */
  latent(op: Omit<Extract<Op, { op: 'latent' }>, 'op' | 'linear'>, up: LinearPart): void {
    this.op({ op: 'latent', ...op, linear: this.#weights(op.rank, [up]) })
  }

  /** `to`: the weighted sum of the experts that `routes` names. */
  experts(
    from: number,
    routes: number,
    to: number,
    experts: readonly ExpertParts[],
    options: Pick<ExpertsOp, 'activation' | 'alpha' | 'limit'>,
  ): void {
    const linear = this.#unit.linears.length
    for (const { gate, up, down } of experts) {
      this.#weights(this.#of.width(from), [gate, up], true)
      this.#weights(gate.n, [down])
    }
    this.op({ op: 'experts', in: from, routes, out: to, linear, experts: experts.length, ...options })
  }

  /** The residual stream += scale * a linear of `from`. */
  project(from: number, part: LinearPart, scale = 1): void {
    if (scale === 1) {
      this.linear(from, 0, [part], { add: true })
      return
    }
    const projected = this.#of.value('projected', part.n)
    this.linear(from, projected, [part])
    this.op({ op: 'add', in: projected, out: 0, scale })
  }

  #weights(k: number, parts: LinearPart[], glu = false): number {
    this.#names.linears.push(parts)
    const shape: LinearShape = { k, parts: parts.map(({ n }) => n), ...(glu ? { glu } : {}) }
    return this.#unit.linears.push(shape) - 1
  }
}

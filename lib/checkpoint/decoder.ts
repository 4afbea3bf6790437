/**
 * The program of a decoder as most are: layers of attention and a gated feed-forward around a residual stream. An
 * architecture says in a DecoderShape what it does otherwise.
 */
import type { Activation, HeadOrder, RopeSpec, RowRange } from '../binding.ts'
import { buildDeltaNet, type DeltaNetShape } from './delta_net.ts'
import { buildLatent, type LatentShape } from './latent.ts'
import { buildMixture, type MixtureShape } from './mixture.ts'
import { type AttendOp, type LinearPart, type NamedProgram, ProgramBuilder, type UnitBuilder } from './program.ts'

/** Names of modules within a layer. */
export interface LayerModules {
  query: string
  key: string
  value: string
  output: string
  gate: string
  up: string
  down: string
  queryNorm: string
  keyNorm: string
}

export const MODULES: LayerModules = {
  query: 'self_attn.q_proj',
  key: 'self_attn.k_proj',
  value: 'self_attn.v_proj',
  output: 'self_attn.o_proj',
  gate: 'mlp.gate_proj',
  up: 'mlp.up_proj',
  down: 'mlp.down_proj',
  queryNorm: 'self_attn.q_norm',
  keyNorm: 'self_attn.k_norm',
}

export type BiasedPart = 'query' | 'key' | 'value' | 'output' | 'gate' | 'up' | 'down'

export interface LayerShape {
  heads: number
  kvHeads: number
  headDim: number
  intermediate: number
  activation: Activation
  /** Positions that a row sees; 0: all before it. */
  window: number
  rope: RopeSpec
  /** The rotation pairs neighbours; query and key come in that order. */
  interleaved?: boolean
  /** Of scores; left out: 1 / sqrt(headDim). */
  scale?: number
  /** Of scores: cap * tanh(score / cap). */
  cap?: number
  biases: readonly BiasedPart[]
  /** Norms of query and key: of each head, or of all heads together. */
  headNorms: 'none' | 'heads' | 'whole'
  /** Of the query, by position: times 1 + growth * log(1 + floor(position / period)). */
  queryGrowth?: { growth: number; period: number }
  /** A norm without weights of each value head. */
  valueNorm?: boolean
  /** Values are the keys as they are before their norm and rotation. */
  keyIsValue?: boolean
  /** The layer whose keys and values it reads, having none of its own. */
  sharesKv?: number
  /** Name of a score for each query head that joins those of the positions and has no value. */
  sinks?: string
  /** In the place of attention. */
  deltaNet?: DeltaNetShape
  latent?: LatentShape
  /** Of every head the query projection has a gate of what it attends to as well, behind its query. */
  outputGate?: boolean
  /** In the place of the feed-forward. */
  mixture?: MixtureShape
  /** One matrix that holds query, key and value, or gate and up, one after the other. */
  fused?: { qkv?: string; gateUp?: string }
}

/** Names within a layer of the norms that it has: before each half, and of what each half adds. */
export interface LayerNorms {
  beforeAttention?: string
  afterAttention?: string
  beforeFeedForward?: string
  afterFeedForward?: string
}

export interface DecoderShape {
  vocab: number
  hidden: number
  layers: number
  maxPosition: number
  epsilon: number
  layer: (index: number) => LayerShape
  norms: LayerNorms
  /** Attention and feed-forward of a layer read the same normed rows. */
  parallel?: boolean
  /** Norms' weights are stored as what is added to 1. */
  plusOne?: boolean
  /** LayerNorm in place of RMSNorm, but for norms of heads. */
  layerNorm?: boolean
  /** Norms have no weights, but for those of heads. */
  bareNorms?: boolean
  embeddingScale?: number
  /** Of what each half adds. */
  residualScale?: number
  logitScale?: number
  /** cap * tanh(logit / cap) */
  logitCap?: number
  /** Of each layer's own embedding, which its rows are gated by; 0: none. */
  perLayerInput?: number
  /** Name within a layer of a number that its output is multiplied by. */
  layerScalar?: string
  /** Before the names of everything but the head: 'model'. */
  prefix?: string
  modules?: Partial<LayerModules>
}

export const HEAD = 'lm_head'
export const EMBEDDING = 'embed_tokens'

export function buildDecoder(shape: DecoderShape): NamedProgram {
  const { vocab, hidden, layers, maxPosition, epsilon, prefix = 'model' } = shape
  const builder = new ProgramBuilder({ vocab, hidden, maxPosition, epsilon })
  builder.embed(`${prefix}.${EMBEDDING}`, shape.embeddingScale)
  if (shape.perLayerInput) buildPerLayerInputs(builder, shape, shape.perLayerInput)
  const places = new Map<number, KvPlace>()
  for (let index = 0; index < layers; index++) {
    const layer = new DecoderLayer(builder, shape, index, places)
    if (shape.parallel) {
      const unit = builder.unit(`layer ${index}`, index)
      const normed = layer.norm(unit, shape.norms.beforeAttention)
      layer.attention(unit, normed)
      layer.feedForward(unit, normed)
    } else {
      const attention = builder.unit(`${layer.mixer} ${index}`, index)
      layer.attention(attention, layer.norm(attention, shape.norms.beforeAttention))
      const feedForward = builder.unit(`feed-forward ${index}`, index)
      layer.feedForward(feedForward, layer.norm(feedForward, shape.norms.beforeFeedForward))
      layer.finish(feedForward)
    }
  }
  buildHead(builder, shape)
  return builder.finish()
}

/** Every layer's embedding of the token, and what the residual stream says to it, one after the other. */
function buildPerLayerInputs(builder: ProgramBuilder, shape: DecoderShape, width: number): void {
  const { hidden, layers, prefix = 'model', plusOne = false } = shape
  const all = layers * width
  const unit = builder.unit('per-layer inputs', 0)
  const [tokens, inputs] = [builder.value('per-layer tokens', all), builder.value('per-layer inputs', all)]
  const table = builder.table(`${prefix}.${EMBEDDING}_per_layer`, all)
  unit.op({ op: 'gather', table, out: tokens, scale: Math.sqrt(width) })
  unit.linear(0, inputs, [{ module: `${prefix}.per_layer_model_projection`, n: all }])
  unit.op({ op: 'scale', value: inputs, width: all, factor: 1 / Math.sqrt(hidden) })
  unit.norm(inputs, inputs, `${prefix}.per_layer_projection_norm.weight`, { width, groups: layers, plusOne })
  unit.op({ op: 'add', in: tokens, out: inputs })
  unit.op({ op: 'scale', value: inputs, width: all, factor: Math.SQRT1_2 })
}

type KvPlace = Pick<AttendOp, 'kvClass' | 'kvLayer'>

export function buildHead(builder: ProgramBuilder, shape: DecoderShape): void {
  const { vocab, hidden, layers, prefix = 'model' } = shape
  const unit = builder.unit('head', layers - 1, true)
  const normed = builder.value('normed', hidden)
  const logits = builder.value('logits', vocab)
  const { plusOne = false, layerNorm: mean = false, bareNorms, logitScale, logitCap } = shape
  unit.norm(0, normed, bareNorms ? undefined : `${prefix}.norm.weight`, { plusOne, mean })
  unit.linear(normed, logits, [{ module: HEAD, n: vocab }])
  if (logitScale === undefined && logitCap === undefined) return
  unit.op({
    op: 'scale',
    value: logits,
    width: vocab,
    ...(logitScale === undefined ? {} : { factor: logitScale }),
    ...(logitCap === undefined ? {} : { cap: logitCap }),
  })
}

/** The halves of one layer. */
export class DecoderLayer {
  readonly #builder: ProgramBuilder
  readonly #model: DecoderShape
  readonly #shape: LayerShape
  readonly #prefix: string
  readonly #modules: LayerModules
  readonly #index: number
  readonly #places: Map<number, KvPlace>

  /** `places`: of the keys and values of layers before it. */
  constructor(builder: ProgramBuilder, model: DecoderShape, index: number, places: Map<number, KvPlace>) {
    this.#index = index
    this.#places = places
    this.#builder = builder
    this.#model = model
    this.#shape = model.layer(index)
    this.#prefix = `${model.prefix ?? 'model'}.layers.${index}`
    this.#modules = { ...MODULES, ...model.modules }
  }

  /** The normed residual stream, or the stream itself where there is no norm. */
  norm(unit: UnitBuilder, name: string | undefined): number {
    if (name === undefined) return 0
    const normed = this.#builder.value('normed', this.#model.hidden)
    const { plusOne = false, layerNorm: mean = false } = this.#model
    unit.norm(0, normed, this.#normWeight(name), { plusOne, mean })
    return normed
  }

  /** What mixes positions. */
  get mixer(): string {
    return this.#shape.deltaNet ? 'delta-net' : 'attention'
  }

  attention(unit: UnitBuilder, from: number): void {
    const { deltaNet } = this.#shape
    if (deltaNet) {
      const read = buildDeltaNet(this.#builder, unit, from, this.#prefix, deltaNet)
      const output = this.#named(`${deltaNet.module}.out_proj`, this.#model.hidden)
      this.#add(unit, read, output, this.#model.norms.afterAttention)
      return
    }
    if (this.#shape.latent) {
      const attended = buildLatent(this.#builder, unit, from, this.#prefix, this.#shape, this.#shape.latent)
      this.#add(unit, attended, this.#part('output', this.#model.hidden), this.#model.norms.afterAttention)
      return
    }
    const { heads, kvHeads, headDim, window, rope, scale, cap, queryGrowth, sharesKv, sinks } = this.#shape
    const [queries, keys] = [heads * headDim, kvHeads * headDim]
    const readsOnly = sharesKv !== undefined
    const qkv = readsOnly ? this.#builder.value('query', queries) : this.#builder.value('qkv', queries + 2 * keys)
    const attended = this.#builder.value('attended', queries)
    unit.linear(from, qkv, this.#qkv(queries, keys).slice(0, readsOnly ? 1 : 3))
    this.#headNorms(unit, qkv, queries, keys)
    // A rotation keeps lengths: a query may grow before it.
    if (queryGrowth) unit.op({ op: 'scale', value: qkv, width: queries, ...queryGrowth })
    const place = readsOnly ? this.#places.get(sharesKv)! : this.#builder.kvLayer({ window, kvHeads, headDim })
    this.#places.set(this.#index, place)
    unit.op({
      op: 'attend',
      qkv,
      out: attended,
      heads,
      kvHeads,
      headDim,
      ...place,
      rope: this.#builder.rope(rope),
      ...(scale === undefined ? {} : { scale }),
      ...(cap === undefined ? {} : { cap }),
      ...(sinks === undefined ? {} : { sinks: unit.vector(`${this.#prefix}.${sinks}`, heads) }),
      ...(readsOnly ? { readsOnly } : {}),
    })
    const gated = this.#outputGate(unit, from, attended, queries)
    this.#add(unit, gated, this.#part('output', this.#model.hidden), this.#model.norms.afterAttention)
  }

  /** Of what was attended to, where there is a gate. */
  #outputGate(unit: UnitBuilder, from: number, attended: number, queries: number): number {
    if (!this.#shape.outputGate) return attended
    const [gates, gated] = [this.#builder.value('output gate', queries), this.#builder.value('gated', queries)]
    unit.linear(from, gates, [{ ...this.#part('query', queries), rows: this.#queryRows(1, queries)! }])
    unit.op({ op: 'gate', in: gates, by: attended, begin: 0, out: gated, activation: 'sigmoid' })
    return gated
  }

  /** Of the query projection those of queries (0) or of their gates (1), where it has both. */
  #queryRows(which: 0 | 1, queries: number): RowRange | undefined {
    const { outputGate, headDim } = this.#shape
    if (!outputGate) return undefined
    return { begin: which * headDim, of: 2 * queries, step: 2 * headDim, run: headDim }
  }

  feedForward(unit: UnitBuilder, from: number): void {
    const { intermediate, activation, fused, mixture } = this.#shape
    if (mixture) {
      const mixed = buildMixture(this.#builder, unit, from, this.#prefix, mixture, this.#model.hidden)
      this.#addValue(unit, mixed, this.#model.norms.afterFeedForward)
      return
    }
    const activated = this.#builder.value('activated', intermediate)
    const both = fused?.gateUp
    const half = (part: 'gate' | 'up', at: number): LinearPart =>
      both === undefined
        ? this.#part(part, intermediate)
        : { ...this.#named(both, intermediate), rows: { begin: at * intermediate, of: 2 * intermediate } }
    unit.glu(from, activated, half('gate', 0), half('up', 1), activation)
    this.#add(unit, activated, this.#part('down', this.#model.hidden), this.#model.norms.afterFeedForward)
  }

  /** What comes after both halves. */
  finish(unit: UnitBuilder): void {
    const { hidden, perLayerInput: width, layerScalar, layers, plusOne = false } = this.#model
    if (width) {
      const [gate, gated] = [this.#builder.value('gate', width), this.#builder.value('gated', width)]
      const projected = this.#builder.value('projected', hidden)
      const by = this.#builder.value('per-layer inputs', layers * width)
      unit.linear(0, gate, [this.#named('per_layer_input_gate', width)])
      unit.op({ op: 'gate', in: gate, by, begin: this.#index * width, out: gated, activation: this.#shape.activation })
      unit.linear(gated, projected, [this.#named('per_layer_projection', hidden)])
      unit.norm(projected, 0, `${this.#prefix}.post_per_layer_input_norm.weight`, { plusOne, add: true })
    }
    if (layerScalar === undefined) return
    const weight = unit.vector(`${this.#prefix}.${layerScalar}`, 1)
    unit.op({ op: 'scale', value: 0, width: hidden, weight })
  }

  #normWeight(name: string): string | undefined {
    return this.#model.bareNorms ? undefined : `${this.#prefix}.${name}.weight`
  }

  #named(module: string, n: number): LinearPart {
    return { module: `${this.#prefix}.${module}`, n }
  }

  #part(part: BiasedPart, n: number): LinearPart {
    return { ...this.#named(this.#modules[part], n), bias: this.#shape.biases.includes(part) }
  }

  #qkv(queries: number, keys: number): LinearPart[] {
    const { keyIsValue = false, fused, biases } = this.#shape
    const heads = this.#headOrder()
    const of = queries + 2 * keys
    const rows = (begin: number) => ({ begin, of })
    const all = fused?.qkv
    if (all === undefined) {
      return [
        { ...this.#part('query', queries), heads, rows: this.#queryRows(0, queries) },
        { ...this.#part('key', keys), heads },
        this.#part(keyIsValue ? 'key' : 'value', keys),
      ]
    }
    const bias = biases.includes('query')
    return [
      { ...this.#named(all, queries), bias, heads, rows: rows(0) },
      { ...this.#named(all, keys), bias, heads, rows: rows(queries) },
      { ...this.#named(all, keys), bias, rows: rows(queries + keys) },
    ]
  }

  /** Of the rows of query and key, where it is not that of the kernels. */
  #headOrder(): HeadOrder | undefined {
    const { headDim, rope, interleaved = false } = this.#shape
    const whole = rope.rotary === headDim || rope.span !== undefined
    const inOrder = rope.rotary === 0 || (!interleaved && whole)
    return inOrder ? undefined : { headDim, rotary: rope.rotary, interleaved }
  }

  #headNorms(unit: UnitBuilder, qkv: number, queries: number, keys: number): void {
    const { headNorms, heads, kvHeads, headDim, valueNorm, sharesKv } = this.#shape
    if (headNorms === 'none') return
    const whole = headNorms === 'whole'
    const { plusOne = false } = this.#model
    const order = this.#headOrder()
    const weight = (name: string) => `${this.#prefix}.${name}.weight`
    unit.norm(qkv, qkv, weight(this.#modules.queryNorm), {
      width: whole ? queries : headDim,
      groups: whole ? 1 : heads,
      plusOne,
      heads: order,
    })
    if (sharesKv !== undefined) return
    unit.norm(qkv, qkv, weight(this.#modules.keyNorm), {
      begin: queries,
      width: whole ? keys : headDim,
      groups: whole ? 1 : kvHeads,
      plusOne,
      heads: order,
    })
    if (valueNorm) unit.norm(qkv, qkv, undefined, { begin: queries + keys, width: headDim, groups: kvHeads })
  }

  /** A linear's result, normed or scaled, to the residual stream. */
  #add(unit: UnitBuilder, from: number, part: LinearPart, norm: string | undefined): void {
    if (norm === undefined) {
      unit.project(from, part, this.#model.residualScale)
      return
    }
    const projected = this.#builder.value('projected', this.#model.hidden)
    unit.linear(from, projected, [part])
    this.#addValue(unit, projected, norm)
  }

  #addValue(unit: UnitBuilder, value: number, norm: string | undefined): void {
    const { plusOne = false, layerNorm: mean = false, residualScale: scale = 1 } = this.#model
    if (norm !== undefined) {
      const add = scale === 1
      unit.norm(value, add ? 0 : value, this.#normWeight(norm), { plusOne, mean, add })
      if (add) return
    }
    unit.op({ op: 'add', in: value, out: 0, ...(scale === 1 ? {} : { scale }) })
  }
}

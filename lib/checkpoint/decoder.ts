/**
 * The program of a decoder as most are: layers of attention and a gated feed-forward around a residual stream. An
 * architecture says in a DecoderShape what it does otherwise.
 */
import type { Activation, HeadOrder, RopeSpec } from '../binding.ts'
import { type LinearPart, type NamedProgram, ProgramBuilder, type UnitBuilder } from './program.ts'

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
  embeddingScale?: number
  /** Of what each half adds. */
  residualScale?: number
  logitScale?: number
  /** cap * tanh(logit / cap) */
  logitCap?: number
  /** Before the names of everything but the head: 'model'. */
  prefix?: string
  /** The embedding table is the head too. */
  modules?: Partial<LayerModules>
}

export const HEAD = 'lm_head'
export const EMBEDDING = 'embed_tokens'

export function buildDecoder(shape: DecoderShape): NamedProgram {
  const { vocab, hidden, layers, maxPosition, epsilon, prefix = 'model' } = shape
  const builder = new ProgramBuilder({ vocab, hidden, maxPosition, epsilon })
  builder.embed(`${prefix}.${EMBEDDING}`, shape.embeddingScale)
  for (let index = 0; index < layers; index++) {
    const layer = new DecoderLayer(builder, shape, index)
    if (shape.parallel) {
      const unit = builder.unit(`layer ${index}`, index)
      const normed = layer.norm(unit, shape.norms.beforeAttention)
      layer.attention(unit, normed)
      layer.feedForward(unit, normed)
    } else {
      const attention = builder.unit(`attention ${index}`, index)
      layer.attention(attention, layer.norm(attention, shape.norms.beforeAttention))
      const feedForward = builder.unit(`feed-forward ${index}`, index)
      layer.feedForward(feedForward, layer.norm(feedForward, shape.norms.beforeFeedForward))
    }
  }
  buildHead(builder, shape)
  return builder.finish()
}

export function buildHead(builder: ProgramBuilder, shape: DecoderShape): void {
  const { vocab, hidden, layers, prefix = 'model' } = shape
  const unit = builder.unit('head', layers - 1, true)
  const normed = builder.value('normed', hidden)
  const logits = builder.value('logits', vocab)
  const { plusOne = false, layerNorm: mean = false, logitScale, logitCap } = shape
  unit.norm(0, normed, `${prefix}.norm.weight`, { plusOne, mean })
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

  constructor(builder: ProgramBuilder, model: DecoderShape, index: number) {
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
    unit.norm(0, normed, `${this.#prefix}.${name}.weight`, { plusOne, mean })
    return normed
  }

  attention(unit: UnitBuilder, from: number): void {
    const { heads, kvHeads, headDim, window, rope, scale, cap, queryGrowth } = this.#shape
    const [queries, keys] = [heads * headDim, kvHeads * headDim]
    const qkv = this.#builder.value('qkv', queries + 2 * keys)
    const attended = this.#builder.value('attended', queries)
    unit.linear(from, qkv, this.#qkv(queries, keys))
    this.#headNorms(unit, qkv, queries, keys)
    // A rotation keeps lengths: a query may grow before it.
    if (queryGrowth) unit.op({ op: 'scale', value: qkv, width: queries, ...queryGrowth })
    unit.op({
      op: 'attend',
      qkv,
      out: attended,
      heads,
      kvHeads,
      headDim,
      ...this.#builder.kvLayer({ window, kvHeads, headDim }),
      rope: this.#builder.rope(rope),
      ...(scale === undefined ? {} : { scale }),
      ...(cap === undefined ? {} : { cap }),
    })
    this.#add(unit, attended, this.#part('output', this.#model.hidden), this.#model.norms.afterAttention)
  }

  feedForward(unit: UnitBuilder, from: number): void {
    const { intermediate, activation, fused } = this.#shape
    const activated = this.#builder.value('activated', intermediate)
    const both = fused?.gateUp
    const half = (part: 'gate' | 'up', at: number): LinearPart =>
      both === undefined
        ? this.#part(part, intermediate)
        : { ...this.#named(both, intermediate), rows: { begin: at * intermediate, of: 2 * intermediate } }
    unit.glu(from, activated, half('gate', 0), half('up', 1), activation)
    this.#add(unit, activated, this.#part('down', this.#model.hidden), this.#model.norms.afterFeedForward)
  }

  #named(module: string, n: number): LinearPart {
    return { module: `${this.#prefix}.${module}`, n }
  }

  #part(part: BiasedPart, n: number): LinearPart {
    return { ...this.#named(this.#modules[part], n), bias: this.#shape.biases.includes(part) }
  }

  #qkv(queries: number, keys: number): LinearPart[] {
    const { headDim, rope, interleaved = false, fused, biases } = this.#shape
    const inOrder = rope.rotary === 0 || (!interleaved && rope.rotary === headDim)
    const heads: HeadOrder | undefined = inOrder ? undefined : { headDim, rotary: rope.rotary, interleaved }
    const of = queries + 2 * keys
    const rows = (begin: number) => ({ begin, of })
    const all = fused?.qkv
    if (all === undefined) {
      return [
        { ...this.#part('query', queries), heads },
        { ...this.#part('key', keys), heads },
        this.#part('value', keys),
      ]
    }
    const bias = biases.includes('query')
    return [
      { ...this.#named(all, queries), bias, heads, rows: rows(0) },
      { ...this.#named(all, keys), bias, heads, rows: rows(queries) },
      { ...this.#named(all, keys), bias, rows: rows(queries + keys) },
    ]
  }

  #headNorms(unit: UnitBuilder, qkv: number, queries: number, keys: number): void {
    const { headNorms, heads, kvHeads, headDim } = this.#shape
    if (headNorms === 'none') return
    const whole = headNorms === 'whole'
    const { plusOne = false } = this.#model
    const weight = (name: string) => `${this.#prefix}.${name}.weight`
    unit.norm(qkv, qkv, weight(this.#modules.queryNorm), {
      width: whole ? queries : headDim,
      groups: whole ? 1 : heads,
      plusOne,
    })
    unit.norm(qkv, qkv, weight(this.#modules.keyNorm), {
      begin: queries,
      width: whole ? keys : headDim,
      groups: whole ? 1 : kvHeads,
      plusOne,
    })
  }

  /** A linear's result, normed or scaled, to the residual stream. */
  #add(unit: UnitBuilder, from: number, part: LinearPart, norm: string | undefined): void {
    if (norm === undefined) {
      unit.project(from, part, this.#model.residualScale)
      return
    }
    const projected = this.#builder.value('projected', this.#model.hidden)
    unit.linear(from, projected, [part])
    const { plusOne = false, layerNorm: mean = false } = this.#model
    unit.norm(projected, 0, `${this.#prefix}.${norm}.weight`, { plusOne, mean, add: true })
  }
}

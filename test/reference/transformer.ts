/**
 * Llama, Mistral, Qwen2 and Qwen3 in float64, for the tests to compare with: readable rather than fast, and independent of the product's code.
 * Weights are held as float32, which is exact for every stored type (a nibble less its zero point times a half-precision
 * scale has at most 16 significant bits); all arithmetic on activations is float64.
 */
import { type CompressedTensorsConfig, type Config, gptqSettingsOf, readConfig, windowOf } from './config.ts'
import { numbers, readFolder, type Tensor, type Tensors } from './safetensors.ts'

export interface Matrix {
  /** Output features. */
  n: number
  /** Input features. */
  k: number
  /** [n, k], row-major. */
  weights: Float32Array
  /** [n]. */
  bias?: Float64Array
}

interface Layer {
  attentionNorm: Float64Array
  query: Matrix
  key: Matrix
  value: Matrix
  /** Qwen3's, of each head. */
  queryNorm?: Float64Array
  keyNorm?: Float64Array
  output: Matrix
  feedForwardNorm: Float64Array
  gate: Matrix
  up: Matrix
  down: Matrix
}

/** Keys and values of the positions so far, a row of kvHeads * headDim each. */
interface LayerCache {
  keys: Float64Array[]
  values: Float64Array[]
}

export class ReferenceModel {
  readonly config: Config
  readonly headDim: number
  private readonly tensors: Tensors
  private readonly layers = new Map<number, Layer>()
  private readonly embedding: Matrix
  private readonly finalNorm: Float64Array
  private readonly head: Matrix
  private readonly rotation: Rotation

  /** Reads a Hugging Face folder; layers are dequantised when first used. */
  constructor(dir: string) {
    this.config = readConfig(dir)
    this.headDim = this.config.head_dim ?? this.config.hidden_size / this.config.num_attention_heads
    this.tensors = readFolder(dir)
    const table = this.require('model.embed_tokens.weight')
    this.embedding = { n: table.shape[0]!, k: table.shape[1]!, weights: exactFloats(table) }
    this.finalNorm = numbers(this.require('model.norm.weight'))
    this.head = this.config.tie_word_embeddings ? this.embedding : this.linear('lm_head')
    this.rotation = {
      frequencies: ropeFrequencies(this.config, this.headDim),
      amplitude: ropeAmplitude(this.config),
    }
  }

  private require(name: string): Tensor {
    const found = this.tensors.get(name)
    if (!found) throw new Error(`no tensor ${name}`)
    return found
  }

  private linear(name: string): Matrix {
    return readLinear(this.tensors, this.config, name)
  }

  private layer(i: number): Layer {
    const known = this.layers.get(i)
    if (known) return known
    const at = `model.layers.${i}`
    const headNorm = (name: string) => numbers(this.require(`${at}.self_attn.${name}.weight`))
    const layer: Layer = {
      attentionNorm: numbers(this.require(`${at}.input_layernorm.weight`)),
      query: this.linear(`${at}.self_attn.q_proj`),
      key: this.linear(`${at}.self_attn.k_proj`),
      value: this.linear(`${at}.self_attn.v_proj`),
      ...(this.config.model_type === 'qwen3' ? { queryNorm: headNorm('q_norm'), keyNorm: headNorm('k_norm') } : {}),
      output: this.linear(`${at}.self_attn.o_proj`),
      feedForwardNorm: numbers(this.require(`${at}.post_attention_layernorm.weight`)),
      gate: this.linear(`${at}.mlp.gate_proj`),
      up: this.linear(`${at}.mlp.up_proj`),
      down: this.linear(`${at}.mlp.down_proj`),
    }
    this.layers.set(i, layer)
    return layer
  }

  /** A sequence to append tokens to. */
  sequence(): ReferenceSequence {
    return new ReferenceSequence(this)
  }

  emptyCaches(): LayerCache[] {
    return Array.from({ length: this.config.num_hidden_layers }, () => ({ keys: [], values: [] }))
  }

  /** Logits of every position, a row of the vocabulary each. */
  logits(tokens: readonly number[]): Float64Array[] {
    return this.sequence().append(tokens)
  }

  /** log p(tokens[i + 1] | tokens[0..i]), one fewer than tokens. */
  logprobs(tokens: readonly number[]): Float64Array {
    const rows = this.logits(tokens.slice(0, -1))
    return Float64Array.from(rows, (row, i) => logSoftmax(row)[tokens[i + 1]!]!)
  }

  /** The most likely continuation, and how far the best logit lay above the second at each token. */
  greedy(prompt: readonly number[], count: number): { tokens: number[]; margins: number[] } {
    const sequence = this.sequence()
    let row = sequence.append(prompt).at(-1)!
    const tokens: number[] = []
    const margins: number[] = []
    while (tokens.length < count) {
      const best = argmax(row)
      const second = row.reduce((most, x, i) => (i !== best && x > most ? x : most), -Infinity)
      tokens.push(best)
      margins.push(row[best]! - second)
      row = sequence.append([best])[0]!
    }
    return { tokens, margins }
  }

  /** What the head reads of every position, a row of `hidden_size` each. */
  hidden(tokens: readonly number[]): Float64Array[] {
    const caches = this.emptyCaches()
    return tokens.map((token, position) => this.hiddenStep(token, position, caches))
  }

  /** @internal one token at `position`, its keys and values appended to `caches`. */
  step(token: number, position: number, caches: LayerCache[]): Float64Array {
    return multiply(this.head, this.hiddenStep(token, position, caches))
  }

  private hiddenStep(token: number, position: number, caches: LayerCache[]): Float64Array {
    const { hidden_size: hidden, rms_norm_eps: epsilon, num_hidden_layers: layers } = this.config
    const row = this.embedding.weights.subarray(token * hidden, (token + 1) * hidden)
    if (row.length !== hidden) throw new Error(`token ${token} is not in the vocabulary`)
    let x = Float64Array.from(row)
    for (let i = 0; i < layers; i++) {
      const layer = this.layer(i)
      x = add(x, this.attention(layer, rmsNorm(x, layer.attentionNorm, epsilon), position, caches[i]!))
      const y = rmsNorm(x, layer.feedForwardNorm, epsilon)
      const gate = multiply(layer.gate, y)
      const up = multiply(layer.up, y)
      const activated = up.map((u, j) => u * silu(gate[j]!))
      x = add(x, multiply(layer.down, activated))
    }
    return rmsNorm(x, this.finalNorm, epsilon)
  }

  private attention(layer: Layer, x: Float64Array, position: number, cache: LayerCache): Float64Array {
    const { num_attention_heads: heads, num_key_value_heads: kvHeads } = this.config
    const d = this.headDim
    const turned = (all: Float64Array, norm: Float64Array | undefined) => {
      for (let at = 0; at < all.length; at += d) {
        const head = all.subarray(at, at + d)
        if (norm) head.set(rmsNorm(head, norm, this.config.rms_norm_eps))
        rotate(head, position, this.rotation)
      }
      return all
    }
    const query = turned(multiply(layer.query, x), layer.queryNorm)
    const key = turned(multiply(layer.key, x), layer.keyNorm)
    cache.keys.push(key)
    cache.values.push(multiply(layer.value, x))

    const first = Math.max(0, position + 1 - windowOf(this.config))
    const keys = cache.keys.slice(first)
    const values = cache.values.slice(first)
    const mixed = new Float64Array(heads * d)
    for (let h = 0; h < heads; h++) {
      // Query heads share a key and value head in runs of heads / kvHeads.
      const kvAt = Math.floor(h / (heads / kvHeads)) * d
      const scores = Float64Array.from(keys, (k) => {
        let sum = 0
        for (let i = 0; i < d; i++) sum += query[h * d + i]! * k[kvAt + i]!
        return sum / Math.sqrt(d)
      })
      const weights = logSoftmax(scores).map(Math.exp)
      values.forEach((v, p) => {
        const weight = weights[p]!
        for (let i = 0; i < d; i++) mixed[h * d + i] = mixed[h * d + i]! + weight * v[kvAt + i]!
      })
    }
    return multiply(layer.output, mixed)
  }
}

export class ReferenceSequence {
  private readonly model: ReferenceModel
  private readonly caches: LayerCache[]
  private position = 0

  constructor(model: ReferenceModel) {
    this.model = model
    this.caches = model.emptyCaches()
  }

  /** Logits of each of the tokens. */
  append(tokens: readonly number[]): Float64Array[] {
    return tokens.map((token) => this.model.step(token, this.position++, this.caches))
  }
}

/** A linear of a checkpoint, whatever its format. */
export function readLinear(tensors: Tensors, config: Config, name: string): Matrix {
  const bias = tensors.get(`${name}.bias`)
  const withBias = (matrix: Matrix): Matrix => (bias ? { ...matrix, bias: numbers(bias) } : matrix)
  const plain = tensors.get(`${name}.weight`)
  if (plain) return withBias({ n: plain.shape[0]!, k: plain.shape[1]!, weights: exactFloats(plain) })
  switch (config.quantization_config?.quant_method ?? 'gptq') {
    case 'awq':
      return withBias(readAwq(tensors, config, name))
    case 'compressed-tensors':
      return withBias(readCompressed(tensors, config, name))
    default:
      return withBias(readGptq(tensors, config, name))
  }
}

const nibble = (word: number, j: number): number => (word >>> (4 * j)) & 15

function required(tensors: Tensors, name: string): Tensor {
  const found = tensors.get(name)
  if (!found) throw new Error(`no tensor ${name}`)
  return found
}

/** W[n, k] = scale (q - zero), of what three functions say of row n and column k. */
function dequantise(n: number, k: number, scale: At, q: At, zero: At): Matrix {
  const weights = new Float32Array(n * k)
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < k; column++) {
      weights[row * k + column] = scale(row, column) * (q(row, column) - zero(row, column))
    }
  }
  return { n, k, weights }
}
type At = (row: number, column: number) => number

/**
 * GPTQ: W[k, n] = scale[g(k), n] * (q[k, n] - zero[g(k), n]); qweight int32 [K/8, N] with row 8r + j in nibble j, qzeros
 * int32 [groups, N/8] with column 8c + j in nibble j, scales [groups, N], g_idx [K].
 */
function readGptq(tensors: Tensors, config: Config, name: string): Matrix {
  const settings = config.quantization_config
  const own = settings && settings.quant_method !== 'awq' && settings.quant_method !== 'compressed-tensors' && settings
  if (!own) throw new Error(`${name} is neither plain nor GPTQ`)
  const qweight = required(tensors, `${name}.qweight`)
  const k = 8 * qweight.shape[0]!
  const n = qweight.shape[1]!
  const module = gptqSettingsOf(own, name)
  if (module === 'plain') throw new Error(`${name} is excluded, but not plain`)
  const groupSize = module.groupSize === -1 ? k : module.groupSize
  const order = tensors.get(`${name}.g_idx`)
  const groupOf = order ? numbers(order) : Float64Array.from({ length: k }, (_, i) => Math.floor(i / groupSize))

  const words = numbers(qweight)
  // Version 1 stores zero - 1, subtracted from a whole word at once: undone the same way, carries included.
  const offset = own.checkpoint_format === 'gptq_v2' ? 0 : 0x11111111
  const zeroWords = Int32Array.from(numbers(required(tensors, `${name}.qzeros`)), (word) => (word + offset) | 0)
  const scale = numbers(required(tensors, `${name}.scales`))
  return dequantise(
    n,
    k,
    (row, column) => scale[groupOf[column]! * n + row]!,
    (row, column) => nibble(words[Math.floor(column / 8) * n + row]!, column % 8),
    (row, column) => nibble(zeroWords[groupOf[column]! * (n / 8) + Math.floor(row / 8)]!, row % 8),
  )
}

/** AWQ GEMM: qweight int32 [K, N/8] and qzeros int32 [groups, N/8], nibble i of a word being column AWQ_ORDER[i]. */
function readAwq(tensors: Tensors, config: Config, name: string): Matrix {
  const qweight = required(tensors, `${name}.qweight`)
  const k = qweight.shape[0]!
  const n = 8 * qweight.shape[1]!
  const { group_size: said } = config.quantization_config as { group_size: number }
  const groupSize = said === -1 ? k : said
  const words = numbers(qweight)
  const zeroWords = numbers(required(tensors, `${name}.qzeros`))
  const scale = numbers(required(tensors, `${name}.scales`))
  const group = (column: number) => Math.floor(column / groupSize)
  const AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
  const at = (from: Float64Array, line: number, row: number) =>
    nibble(from[line * (n / 8) + Math.floor(row / 8)]!, AWQ_ORDER.indexOf(row % 8))
  return dequantise(
    n,
    k,
    (row, column) => scale[group(column) * n + row]!,
    (row, column) => at(words, column, row),
    (row, column) => at(zeroWords, group(column), row),
  )
}

/**
 * compressed-tensors pack-quantized: weight_packed int32 [N, K/8], values stored plus 8; weight_scale [N, groups];
 * weight_zero_point int32 [N/8, groups] packed along rows, plus 8 too; weight_g_idx [K].
 */
function readCompressed(tensors: Tensors, config: Config, name: string): Matrix {
  const [n, k] = numbers(required(tensors, `${name}.weight_shape`)) as unknown as [number, number]
  const words = numbers(required(tensors, `${name}.weight_packed`))
  const scales = required(tensors, `${name}.weight_scale`)
  const scale = numbers(scales)
  const groups = scales.shape[1]!
  const { weights } = (config.quantization_config as CompressedTensorsConfig).config_groups.group_0
  const groupSize = weights.strategy === 'channel' ? k : weights.group_size!
  const order = tensors.get(`${name}.weight_g_idx`)
  const groupOf = order ? numbers(order) : Float64Array.from({ length: k }, (_, i) => Math.floor(i / groupSize))
  const zeros = tensors.get(`${name}.weight_zero_point`)
  const zeroWords = zeros && numbers(zeros)
  return dequantise(
    n,
    k,
    (row, column) => scale[row * groups + groupOf[column]!]!,
    (row, column) => nibble(words[row * (k / 8) + Math.floor(column / 8)]!, column % 8) - 8,
    (row, column) => (zeroWords ? nibble(zeroWords[Math.floor(row / 8) * groups + groupOf[column]!]!, row % 8) - 8 : 0),
  )
}

function exactFloats(tensor: Tensor): Float32Array {
  if (tensor.dtype === 'F64') throw new Error('float64 weights are not held exactly')
  return Float32Array.from(numbers(tensor))
}

/**
 * Radians a position for each pair (i, i + headDim / 2). `linear` divides all by `factor`; `llama3` (Llama 3.1's)
 * divides those of long wavelengths, keeps those of short ones and blends in between; `yarn` does so by pairs;
 * `dynamic` enlarges theta as transformers does for a sequence of max_position_embeddings x factor tokens.
 */
export function ropeFrequencies(config: Config, headDim: number): Float64Array {
  const scaling = config.rope_scaling
  let theta = config.rope_theta
  if (scaling?.rope_type === 'dynamic') {
    const { max_position_embeddings: original } = config
    const length = original * scaling.factor
    theta *= ((scaling.factor * length) / original - (scaling.factor - 1)) ** (headDim / (headDim - 2))
  }
  return Float64Array.from({ length: headDim / 2 }, (_, i) => {
    const frequency = theta ** ((-2 * i) / headDim)
    if (!scaling || scaling.rope_type === 'dynamic') return frequency
    const { factor } = scaling
    if (scaling.rope_type === 'linear') return frequency / factor
    const original = scaling.original_max_position_embeddings
    if (scaling.rope_type === 'yarn') {
      // The pair, as a fraction, that turns so many times within the original context.
      const pair = (turns: number) => (headDim / 2) * (Math.log(original / (turns * 2 * Math.PI)) / Math.log(theta))
      const low = Math.max(0, Math.floor(pair(scaling.beta_fast ?? 32)))
      const high = Math.min(headDim - 1, Math.ceil(pair(scaling.beta_slow ?? 1)))
      const stretched = Math.min(1, Math.max(0, (i - low) / (high - low)))
      return (frequency / factor) * stretched + frequency * (1 - stretched)
    }
    const { low_freq_factor: low, high_freq_factor: high } = scaling
    // How often the pair turns within the original context: below `low` stretched, above `high` kept.
    const turns = (original * frequency) / (2 * Math.PI)
    const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)))
    return kept * frequency + ((1 - kept) * frequency) / factor
  })
}

/** What cosines and sines are multiplied by: YaRN's attention factor. */
export function ropeAmplitude({ rope_scaling: scaling }: Config): number {
  if (scaling?.rope_type !== 'yarn') return 1
  if (scaling.attention_factor !== undefined) return scaling.attention_factor
  const scale = (by: number) => 0.1 * by * Math.log(scaling.factor) + 1
  const { mscale, mscale_all_dim: ofAll } = scaling
  return mscale && ofAll ? scale(mscale) / scale(ofAll) : scale(1)
}

interface Rotation {
  frequencies: Float64Array
  amplitude: number
}

/** Rotates pairs (i, i + d / 2) of one head's vector in place. */
function rotate(x: Float64Array, position: number, { frequencies, amplitude }: Rotation): void {
  const half = frequencies.length
  for (let i = 0; i < half; i++) {
    const cosine = amplitude * Math.cos(position * frequencies[i]!)
    const sine = amplitude * Math.sin(position * frequencies[i]!)
    const a = x[i]!
    const b = x[i + half]!
    x[i] = a * cosine - b * sine
    x[i + half] = b * cosine + a * sine
  }
}

/** Four rows at once, each summed in the order of its columns: a sum alone would wait for its own additions. */
function multiply({ n, k, weights, bias }: Matrix, x: Float64Array): Float64Array {
  if (x.length !== k) throw new Error(`${x.length} features for a linear of ${k}`)
  const y = new Float64Array(n)
  let row = 0
  for (; row + 4 <= n; row += 4) {
    let [a, b, c, d] = [bias?.[row] ?? 0, bias?.[row + 1] ?? 0, bias?.[row + 2] ?? 0, bias?.[row + 3] ?? 0]
    for (let i = 0, at = row * k; i < k; i++, at++) {
      const xi = x[i]!
      a += weights[at]! * xi
      b += weights[at + k]! * xi
      c += weights[at + 2 * k]! * xi
      d += weights[at + 3 * k]! * xi
    }
    y[row] = a
    y[row + 1] = b
    y[row + 2] = c
    y[row + 3] = d
  }
  for (; row < n; row++) {
    let sum = bias?.[row] ?? 0
    for (let i = 0, at = row * k; i < k; i++, at++) sum += weights[at]! * x[i]!
    y[row] = sum
  }
  return y
}

function rmsNorm(x: Float64Array, weight: Float64Array, epsilon: number): Float64Array {
  const meanSquare = x.reduce((sum, v) => sum + v * v, 0) / x.length
  const scale = 1 / Math.sqrt(meanSquare + epsilon)
  return x.map((v, i) => v * scale * weight[i]!)
}

const add = (a: Float64Array, b: Float64Array): Float64Array<ArrayBuffer> => Float64Array.from(a, (v, i) => v + b[i]!)
const silu = (x: number): number => x / (1 + Math.exp(-x))

export function logSumExp(x: Float64Array): number {
  const most = x.reduce((a, b) => Math.max(a, b), -Infinity)
  return most + Math.log(x.reduce((sum, v) => sum + Math.exp(v - most), 0))
}

export function logSoftmax(x: Float64Array): Float64Array {
  const normaliser = logSumExp(x)
  return x.map((v) => v - normaliser)
}

/** Index of the greatest, the first among equals. */
export function argmax(x: Float64Array): number {
  return x.reduce((best, v, i) => (v > x[best]! ? i : best), 0)
}

/** ||a - b|| / ||b||, over all elements of both. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length || a.length === 0) throw new Error(`cannot compare ${a.length} values with ${b.length}`)
  let difference = 0
  let size = 0
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    size += b[i]! ** 2
  }
  return Math.sqrt(difference / size)
}

/**
 * Llama in float64, for the tests to compare with: readable rather than fast, and independent of the product's code.
 * Weights are held as float32, which is exact for every stored type (a nibble less its zero point times a half-precision
 * scale has at most 16 significant bits); all arithmetic on activations is float64.
 */
import { type Config, readConfig } from './config.ts'
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
  private readonly frequencies: Float64Array

  /** Reads a Hugging Face folder; layers are dequantised when first used. */
  constructor(dir: string) {
    this.config = readConfig(dir)
    this.headDim = this.config.head_dim ?? this.config.hidden_size / this.config.num_attention_heads
    this.tensors = readFolder(dir)
    const table = this.require('model.embed_tokens.weight')
    this.embedding = { n: table.shape[0]!, k: table.shape[1]!, weights: exactFloats(table) }
    this.finalNorm = numbers(this.require('model.norm.weight'))
    this.head = this.config.tie_word_embeddings ? this.embedding : this.linear('lm_head')
    this.frequencies = ropeFrequencies(this.config, this.headDim)
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
    const layer: Layer = {
      attentionNorm: numbers(this.require(`${at}.input_layernorm.weight`)),
      query: this.linear(`${at}.self_attn.q_proj`),
      key: this.linear(`${at}.self_attn.k_proj`),
      value: this.linear(`${at}.self_attn.v_proj`),
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

  /** @internal one token at `position`, its keys and values appended to `caches`. */
  step(token: number, position: number, caches: LayerCache[]): Float64Array {
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
    return multiply(this.head, rmsNorm(x, this.finalNorm, epsilon))
  }

  private attention(layer: Layer, x: Float64Array, position: number, cache: LayerCache): Float64Array {
    const { num_attention_heads: heads, num_key_value_heads: kvHeads } = this.config
    const d = this.headDim
    const query = multiply(layer.query, x)
    const key = multiply(layer.key, x)
    for (let h = 0; h < heads; h++) rotate(query.subarray(h * d, (h + 1) * d), position, this.frequencies)
    for (let h = 0; h < kvHeads; h++) rotate(key.subarray(h * d, (h + 1) * d), position, this.frequencies)
    cache.keys.push(key)
    cache.values.push(multiply(layer.value, x))

    const mixed = new Float64Array(heads * d)
    for (let h = 0; h < heads; h++) {
      // Query heads share a key and value head in runs of heads / kvHeads.
      const kvAt = Math.floor(h / (heads / kvHeads)) * d
      const scores = Float64Array.from(cache.keys, (k) => {
        let sum = 0
        for (let i = 0; i < d; i++) sum += query[h * d + i]! * k[kvAt + i]!
        return sum / Math.sqrt(d)
      })
      const weights = logSoftmax(scores).map(Math.exp)
      cache.values.forEach((v, p) => {
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
    this.caches = Array.from({ length: model.config.num_hidden_layers }, () => ({ keys: [], values: [] }))
  }

  /** Logits of each of the tokens. */
  append(tokens: readonly number[]): Float64Array[] {
    return tokens.map((token) => this.model.step(token, this.position++, this.caches))
  }
}

/**
 * A linear of a checkpoint. GPTQ: W[k, n] = scale[g(k), n] * (q[k, n] - zero[g(k), n]); qweight int32 [K/8, N] with
 * row 8r + j in nibble j, qzeros int32 [groups, N/8] with column 8c + j in nibble j, scales [groups, N], g_idx [K].
 */
export function readLinear(tensors: Tensors, config: Config, name: string): Matrix {
  const bias = tensors.get(`${name}.bias`)
  const withBias = (matrix: Matrix): Matrix => (bias ? { ...matrix, bias: numbers(bias) } : matrix)
  const plain = tensors.get(`${name}.weight`)
  if (plain) return withBias({ n: plain.shape[0]!, k: plain.shape[1]!, weights: exactFloats(plain) })

  const settings = config.quantization_config
  const qweight = tensors.get(`${name}.qweight`)
  const qzeros = tensors.get(`${name}.qzeros`)
  const scales = tensors.get(`${name}.scales`)
  if (!settings || !qweight || !qzeros || !scales) throw new Error(`${name} is neither plain nor GPTQ`)
  const k = 8 * qweight.shape[0]!
  const n = qweight.shape[1]!
  const groupSize = settings.group_size === -1 ? k : settings.group_size
  const order = tensors.get(`${name}.g_idx`)
  const groupOf = order ? numbers(order) : Float64Array.from({ length: k }, (_, i) => Math.floor(i / groupSize))

  const words = numbers(qweight)
  // Version 1 stores zero - 1, subtracted from a whole word at once: undone the same way, carries included.
  const offset = settings.checkpoint_format === 'gptq_v2' ? 0 : 0x11111111
  const zeroWords = Int32Array.from(numbers(qzeros), (word) => (word + offset) | 0)
  const scale = numbers(scales)
  const nibble = (word: number, j: number) => (word >>> (4 * j)) & 15
  const weights = new Float32Array(n * k)
  for (let row = 0; row < k; row++) {
    const group = groupOf[row]!
    for (let column = 0; column < n; column++) {
      const q = nibble(words[Math.floor(row / 8) * n + column]!, row % 8)
      const zero = nibble(zeroWords[group * (n / 8) + Math.floor(column / 8)]!, column % 8)
      weights[column * k + row] = scale[group * n + column]! * (q - zero)
    }
  }
  return withBias({ n, k, weights })
}

function exactFloats(tensor: Tensor): Float32Array {
  if (tensor.dtype === 'F64') throw new Error('float64 weights are not held exactly')
  return Float32Array.from(numbers(tensor))
}

/**
 * Radians a position for each pair (i, i + headDim / 2). `linear` divides all by `factor`; `llama3` (Llama 3.1's)
 * divides those of long wavelengths, keeps those of short ones and blends in between.
 */
export function ropeFrequencies(config: Config, headDim: number): Float64Array {
  const scaling = config.rope_scaling
  return Float64Array.from({ length: headDim / 2 }, (_, i) => {
    const frequency = config.rope_theta ** ((-2 * i) / headDim)
    if (!scaling) return frequency
    if (scaling.rope_type === 'linear') return frequency / scaling.factor
    const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = scaling
    // How often the pair turns within the original context: below `low` stretched, above `high` kept.
    const turns = (original * frequency) / (2 * Math.PI)
    const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)))
    return kept * frequency + ((1 - kept) * frequency) / factor
  })
}

/** Rotates pairs (i, i + d / 2) of one head's vector in place. */
function rotate(x: Float64Array, position: number, frequencies: Float64Array): void {
  const half = frequencies.length
  for (let i = 0; i < half; i++) {
    const angle = position * frequencies[i]!
    const a = x[i]!
    const b = x[i + half]!
    x[i] = a * Math.cos(angle) - b * Math.sin(angle)
    x[i + half] = b * Math.cos(angle) + a * Math.sin(angle)
  }
}

function multiply({ n, k, weights, bias }: Matrix, x: Float64Array): Float64Array {
  if (x.length !== k) throw new Error(`${x.length} features for a linear of ${k}`)
  const y = new Float64Array(n)
  for (let row = 0; row < n; row++) {
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

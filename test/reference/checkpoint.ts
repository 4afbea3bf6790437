/**
 * Writes Hugging Face folders of small random Llama models, quantised and plain, for tests. Weights are scaled so that
 * activations stay near 1 and logits have a standard deviation near 2: errors anywhere show in the logits.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Config, QuantisationConfig, RopeScaling } from './config.ts'
import { Random } from './random.ts'
import { type Dtype, type Tensors, tensor, writeFolder } from './safetensors.ts'

export interface ModelShape {
  /** At least 258: the byte tokens and two special ones. */
  vocab: number
  hidden: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  intermediate: number
  maxPosition: number
  rmsEpsilon?: number
  ropeTheta?: number
  ropeScaling?: RopeScaling
}

export interface GptqOptions {
  /** 1 stores zero - 1 (checkpoint_format gptq), 2 stores zero (gptq_v2). */
  version: 1 | 2
  /** Input features a group; -1 is one group of all. The last group may be short. */
  groupSize: number
  symmetric: boolean
  /**
   * g_idx: `absent` leaves the tensor out, `sequential` is k / group, `shared` is act-order with one permutation for
   * linears of the same input (as GPTQ makes it), `separate` is act-order with a permutation a linear.
   */
  order: 'absent' | 'sequential' | 'shared' | 'separate'
  /** Least zero point of asymmetric ones; default 0, whose version-1 export borrows from the neighbouring nibble. */
  leastZero?: number
  scaleDtype?: 'F16' | 'BF16'
  /** The head too; excludes `tied`. */
  head?: boolean
  /** Linears left plain, as named within a layer: 'mlp.down_proj'. */
  plain?: string[]
  /** Which file says it; default config.json. */
  saidIn?: 'config.json' | 'quantize_config.json'
}

export interface CheckpointOptions {
  seed: number
  shape: ModelShape
  /** Of everything that is not quantised; default F16. */
  dtype?: 'F16' | 'BF16' | 'F32'
  gptq?: GptqOptions
  tied?: boolean
  attentionBias?: boolean
  mlpBias?: boolean
  shards?: number
}

const LINEARS = ['q', 'k', 'v', 'o']
  .map((part) => `self_attn.${part}_proj`)
  .concat(['gate', 'up', 'down'].map((part) => `mlp.${part}_proj`))

const quantisedLinears = (gptq: GptqOptions): string[] => LINEARS.filter((name) => !gptq.plain?.includes(name))

const BOS = '<|begin|>'
const EOS = '<|end|>'

/** Writes config.json, tokenizer.json, tokenizer_config.json, generation_config.json and weights into `dir`. */
export function writeRandomCheckpoint(dir: string, options: CheckpointOptions): void {
  mkdirSync(dir, { recursive: true })
  const config = configOf(options)
  const json = (name: string, value: unknown) => writeFileSync(join(dir, name), `${JSON.stringify(value, null, 1)}\n`)
  if (options.gptq?.saidIn === 'quantize_config.json') {
    const { quantization_config: said, ...rest } = config
    json('config.json', rest)
    json('quantize_config.json', said)
  } else {
    json('config.json', config)
  }
  json('generation_config.json', { bos_token_id: config.bos_token_id, eos_token_id: config.eos_token_id })
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(byteTokenizer(options.shape.vocab)))
  json('tokenizer_config.json', {
    tokenizer_class: 'PreTrainedTokenizerFast',
    add_bos_token: true,
    bos_token: BOS,
    eos_token: EOS,
    model_max_length: options.shape.maxPosition,
    clean_up_tokenization_spaces: false,
    chat_template:
      "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}",
  })
  writeFolder(dir, randomTensors(options), options.shards ?? 1)
}

function configOf({ shape, dtype = 'F16', gptq, tied, attentionBias, mlpBias }: CheckpointOptions): Config {
  if (shape.vocab < 258) throw new Error(`vocab must be at least 258, not ${shape.vocab}`)
  if (gptq?.head && tied) throw new Error('a tied head is not quantised')
  const quantisation: QuantisationConfig | undefined = gptq && {
    ...(gptq.saidIn === 'quantize_config.json' ? {} : { quant_method: 'gptq' as const }),
    bits: 4,
    group_size: gptq.groupSize,
    sym: gptq.symmetric,
    desc_act: gptq.order === 'shared' || gptq.order === 'separate',
    checkpoint_format: gptq.version === 2 ? 'gptq_v2' : 'gptq',
    lm_head: gptq.head ?? false,
    ...(gptq.plain ? { modules_in_block_to_quantize: [quantisedLinears(gptq)] } : {}),
  }
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: shape.vocab,
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    hidden_act: 'silu',
    max_position_embeddings: shape.maxPosition,
    rms_norm_eps: shape.rmsEpsilon ?? 1e-5,
    rope_theta: shape.ropeTheta ?? 10000,
    rope_scaling: shape.ropeScaling ?? null,
    tie_word_embeddings: tied ?? false,
    attention_bias: attentionBias ?? false,
    mlp_bias: mlpBias ?? false,
    bos_token_id: 0,
    eos_token_id: 1,
    torch_dtype: { F16: 'float16', BF16: 'bfloat16', F32: 'float32' }[dtype],
    ...(quantisation ? { quantization_config: quantisation } : {}),
  } as Config
}

/** Byte-level BPE without merges: special tokens 0 and 1, a token a byte, then tokens that no text encodes to. */
function byteTokenizer(vocab: number): unknown {
  const special = (content: string, id: number) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })
  const tokens = [BOS, EOS, ...byteCharacters()]
  while (tokens.length < vocab) tokens.push(`<|${tokens.length}|>`)
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [special(BOS, 0), special(EOS, 1)],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: BOS, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 0 } }],
      special_tokens: { [BOS]: { id: BOS, ids: [0], tokens: [BOS] } },
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: [],
    },
  }
}

/** The printable character that stands for each byte in byte-level BPE (GPT-2's table). */
function byteCharacters(): string[] {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 255 && byte !== 173)
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++))
}

function randomTensors(options: CheckpointOptions): Tensors {
  const { shape, dtype = 'F16', gptq } = options
  const random = new Random(options.seed)
  const tensors: Tensors = new Map()

  const plain = (name: string, dims: number[], mean: number, deviation: number) => {
    const values = new Float64Array(dims.reduce((a, b) => a * b, 1))
    for (let i = 0; i < values.length; i++) values[i] = mean + deviation * random.normal()
    tensors.set(name, tensor(dtype, dims, values))
  }
  // With inputs near 1, outputs have a standard deviation near `gain`.
  const linear = (name: string, n: number, k: number, gain: number, bias: boolean, permutation?: number[]) => {
    const quantisable = name === 'lm_head' ? gptq?.head : gptq && quantisedLinears(gptq).some((q) => name.endsWith(q))
    if (gptq && quantisable) quantised(tensors, random, name, n, k, gain, gptq, permutation)
    else plain(`${name}.weight`, [n, k], 0, gain / Math.sqrt(k))
    if (bias) plain(`${name}.bias`, [n], 0, 0.3)
  }

  const queryWidth = shape.heads * shape.headDim
  const kvWidth = shape.kvHeads * shape.headDim
  // With a tied head, the rows that make logits of deviation 2 are the embedding's.
  const headDeviation = 2 / Math.sqrt(shape.hidden)
  plain('model.embed_tokens.weight', [shape.vocab, shape.hidden], 0, options.tied ? headDeviation : 1)
  for (let i = 0; i < shape.layers; i++) {
    const layer = `model.layers.${i}`
    const hiddenOrder = () => (gptq?.order === 'shared' ? random.permutation(shape.hidden) : undefined)
    plain(`${layer}.input_layernorm.weight`, [shape.hidden], 1, 0.2)
    const attentionOrder = hiddenOrder()
    const bias = options.attentionBias ?? false
    linear(`${layer}.self_attn.q_proj`, queryWidth, shape.hidden, 1.3, bias, attentionOrder)
    linear(`${layer}.self_attn.k_proj`, kvWidth, shape.hidden, 1.3, bias, attentionOrder)
    linear(`${layer}.self_attn.v_proj`, kvWidth, shape.hidden, 1, bias, attentionOrder)
    linear(`${layer}.self_attn.o_proj`, shape.hidden, queryWidth, 1, bias)
    plain(`${layer}.post_attention_layernorm.weight`, [shape.hidden], 1, 0.2)
    const feedForwardOrder = hiddenOrder()
    const mlpBias = options.mlpBias ?? false
    linear(`${layer}.mlp.gate_proj`, shape.intermediate, shape.hidden, 1.3, mlpBias, feedForwardOrder)
    linear(`${layer}.mlp.up_proj`, shape.intermediate, shape.hidden, 1.3, mlpBias, feedForwardOrder)
    linear(`${layer}.mlp.down_proj`, shape.hidden, shape.intermediate, 1, mlpBias)
  }
  plain('model.norm.weight', [shape.hidden], 1, 0.2)
  if (!options.tied) linear('lm_head', shape.vocab, shape.hidden, 2, false)
  return tensors
}

/** qweight, qzeros, scales and g_idx of one linear of N = n output and K = k input features. */
function quantised(
  tensors: Tensors,
  random: Random,
  name: string,
  n: number,
  k: number,
  gain: number,
  options: GptqOptions,
  sharedPermutation: number[] | undefined,
): void {
  if (k % 8 !== 0 || n % 8 !== 0) throw new Error(`${name}: ${n} x ${k} does not pack into words of eight`)
  const groupSize = options.groupSize === -1 ? k : options.groupSize
  const groups = Math.ceil(k / groupSize)

  const nibbles = new Uint8Array(k * n)
  for (let i = 0; i < nibbles.length; i++) nibbles[i] = random.integer(0, 15)
  tensors.set(`${name}.qweight`, tensor('I32', [k / 8, n], packRows(nibbles, k, n)))

  const zeros = new Uint8Array(groups * n)
  const least = options.leastZero ?? 0
  // Most near the middle, as of real weights; some anywhere.
  const zero = () => (random.uniform() < 0.1 ? random.integer(least, 15) : random.integer(6, 9))
  for (let i = 0; i < zeros.length; i++) zeros[i] = options.symmetric ? 8 : zero()
  const words = packColumns(zeros, groups, n)
  // Version 1 subtracts one from every nibble of a word at once.
  if (options.version === 1) for (let i = 0; i < words.length; i++) words[i] = words[i]! - 0x11111111
  tensors.set(`${name}.qzeros`, tensor('I32', [groups, n / 8], words))

  // Nibbles less their zero points have a standard deviation near 5.
  const scales = Float64Array.from({ length: groups * n }, () => (gain / Math.sqrt(k) / 5) * (0.5 + random.uniform()))
  const scaleDtype: Dtype = options.scaleDtype ?? 'F16'
  tensors.set(`${name}.scales`, tensor(scaleDtype, [groups, n], scales))

  if (options.order === 'absent') return
  const groupOf = new Int32Array(k)
  const permutation = options.order === 'sequential' ? undefined : (sharedPermutation ?? random.permutation(k))
  for (let i = 0; i < k; i++) groupOf[permutation?.[i] ?? i] = Math.floor(i / groupSize)
  tensors.set(`${name}.g_idx`, tensor('I32', [k], groupOf))
}

/** Nibble j of word [r, c] is row 8r + j. */
function packRows(nibbles: Uint8Array, rows: number, columns: number): Int32Array {
  const words = new Int32Array((rows / 8) * columns)
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const at = Math.floor(r / 8) * columns + c
      words[at] = words[at]! | (nibbles[r * columns + c]! << (4 * (r % 8)))
    }
  }
  return words
}

/** Nibble j of word [r, c] is column 8c + j. */
function packColumns(nibbles: Uint8Array, rows: number, columns: number): Int32Array {
  const words = new Int32Array(rows * (columns / 8))
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const at = r * (columns / 8) + Math.floor(c / 8)
      words[at] = words[at]! | (nibbles[r * columns + c]! << (4 * (c % 8)))
    }
  }
  return words
}

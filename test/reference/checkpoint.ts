/**
 * Writes Hugging Face folders of small random models of the supported architectures, quantised and plain, for tests. Weights are scaled so that
 * activations stay near 1 and logits have a standard deviation near 2: errors anywhere show in the logits.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Config, type GptqConfig, gptqSettingsOf, type QuantisationConfig, type RopeScaling } from './config.ts'
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
  /** GPTQModel's rules. What they exclude is written plain. */
  dynamic?: GptqConfig['dynamic']
  /** Which file says it; default config.json. */
  saidIn?: 'config.json' | 'quantize_config.json'
}

export interface AwqOptions {
  groupSize: number
  /** Without, all zero points are 8, and qzeros says so. */
  zeroPoint: boolean
  scaleDtype?: 'F16' | 'BF16'
  head?: boolean
  /** Linears left plain, as named within a layer; modules_to_not_convert says so. */
  plain?: string[] | undefined
  saidIn?: 'config.json' | 'quant_config.json'
}

export interface CompressedTensorsOptions {
  /** -1: strategy `channel`. */
  groupSize: number
  symmetric: boolean
  /** `group` writes weight_g_idx, `weight` is written like none. */
  actOrder?: 'group' | 'weight' | undefined
  scaleDtype?: 'F16' | 'BF16'
  head?: boolean
  /** Entries of `ignore` besides lm_head: names, or `re:` and a pattern; they are written plain. */
  ignore?: string[]
}

export type ArchitectureName = 'llama' | 'mistral' | 'qwen2' | 'qwen3'

export interface CheckpointOptions {
  seed: number
  shape: ModelShape
  /** Of everything that is not quantised; default F16. */
  dtype?: 'F16' | 'BF16' | 'F32'
  architecture?: ArchitectureName
  /** Of all layers: mistral, qwen2, qwen3. */
  slidingWindow?: number
  gptq?: GptqOptions
  awq?: AwqOptions
  compressed?: CompressedTensorsOptions
  tied?: boolean
  /** Of llama (all four) and qwen3; qwen2 always has those of query, key and value. */
  attentionBias?: boolean
  mlpBias?: boolean
  shards?: number
}

const LINEARS = ['q', 'k', 'v', 'o']
  .map((part) => `self_attn.${part}_proj`)
  .concat(['gate', 'up', 'down'].map((part) => `mlp.${part}_proj`))

const CLASSES = {
  llama: 'LlamaForCausalLM',
  mistral: 'MistralForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
}

const quantisedLinears = (plain: string[] | undefined): string[] => LINEARS.filter((name) => !plain?.includes(name))

const BOS = '<|begin|>'
const EOS = '<|end|>'

/** Writes config.json, tokenizer.json, tokenizer_config.json, generation_config.json and weights into `dir`. */
export function writeRandomCheckpoint(dir: string, options: CheckpointOptions): void {
  mkdirSync(dir, { recursive: true })
  const config = configOf(options)
  const json = (name: string, value: unknown) => writeFileSync(join(dir, name), `${JSON.stringify(value, null, 1)}\n`)
  const { quantization_config: said, ...rest } = config
  if (options.gptq?.saidIn === 'quantize_config.json') {
    json('config.json', rest)
    json('quantize_config.json', said)
  } else if (options.awq?.saidIn === 'quant_config.json') {
    json('config.json', rest)
    const { groupSize, zeroPoint } = options.awq
    json('quant_config.json', { zero_point: zeroPoint, q_group_size: groupSize, w_bit: 4, version: 'GEMM' })
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

function configOf(options: CheckpointOptions): Config {
  const { shape, dtype = 'F16', architecture = 'llama', slidingWindow, gptq, tied, attentionBias, mlpBias } = options
  if (shape.vocab < 258) throw new Error(`vocab must be at least 258, not ${shape.vocab}`)
  if ((gptq ?? options.awq ?? options.compressed)?.head && tied) throw new Error('a tied head is not quantised')
  const quantisation = quantisationOf(options)
  const qwenWindow = {
    use_sliding_window: slidingWindow !== undefined,
    sliding_window: slidingWindow ?? null,
    max_window_layers: slidingWindow === undefined ? shape.layers : 0,
  }
  const own: Record<ArchitectureName, Partial<Config>> = {
    llama: { attention_bias: attentionBias ?? false, mlp_bias: mlpBias ?? false },
    mistral: { sliding_window: slidingWindow ?? null },
    qwen2: qwenWindow,
    qwen3: { attention_bias: attentionBias ?? false, ...qwenWindow },
  }
  return {
    architectures: [CLASSES[architecture]],
    model_type: architecture,
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
    ...own[architecture],
    bos_token_id: 0,
    eos_token_id: 1,
    torch_dtype: { F16: 'float16', BF16: 'bfloat16', F32: 'float32' }[dtype],
    ...(quantisation ? { quantization_config: quantisation } : {}),
  } as Config
}

function quantisationOf({ gptq, awq, compressed }: CheckpointOptions): QuantisationConfig | undefined {
  if (gptq) {
    return {
      ...(gptq.saidIn === 'quantize_config.json' ? {} : { quant_method: 'gptq' as const }),
      bits: 4,
      group_size: gptq.groupSize,
      sym: gptq.symmetric,
      desc_act: gptq.order === 'shared' || gptq.order === 'separate',
      checkpoint_format: gptq.version === 2 ? 'gptq_v2' : 'gptq',
      lm_head: gptq.head ?? false,
      ...(gptq.plain ? { modules_in_block_to_quantize: [quantisedLinears(gptq.plain)] } : {}),
      ...(gptq.dynamic ? { dynamic: gptq.dynamic } : {}),
    }
  }
  if (awq) {
    return {
      quant_method: 'awq',
      bits: 4,
      group_size: awq.groupSize,
      zero_point: awq.zeroPoint,
      version: 'gemm',
      modules_to_not_convert: awq.plain ?? null,
    }
  }
  if (!compressed) return undefined
  const channel = compressed.groupSize === -1
  return {
    quant_method: 'compressed-tensors',
    format: 'pack-quantized',
    quantization_status: 'compressed',
    config_groups: {
      group_0: {
        targets: ['Linear'],
        input_activations: null,
        output_activations: null,
        weights: {
          num_bits: 4,
          type: 'int',
          symmetric: compressed.symmetric,
          strategy: channel ? 'channel' : 'group',
          group_size: channel ? null : compressed.groupSize,
          actorder: compressed.actOrder ?? null,
          dynamic: false,
        },
      },
    },
    ignore: [...(compressed.head ? [] : ['lm_head']), ...(compressed.ignore ?? [])],
  } as QuantisationConfig
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
  const { shape, dtype = 'F16', architecture = 'llama', gptq } = options
  const random = new Random(options.seed)
  const tensors: Tensors = new Map()
  const pack = packerOf(options)

  const plain = (name: string, dims: number[], mean: number, deviation: number) => {
    const values = new Float64Array(dims.reduce((a, b) => a * b, 1))
    for (let i = 0; i < values.length; i++) values[i] = mean + deviation * random.normal()
    tensors.set(name, tensor(dtype, dims, values))
  }
  // With inputs near 1, outputs have a standard deviation near `gain`.
  const linear = (name: string, n: number, k: number, gain: number, bias: boolean, permutation?: number[]) => {
    if (!pack(tensors, random, { name, n, k, gain, permutation }))
      plain(`${name}.weight`, [n, k], 0, gain / Math.sqrt(k))
    if (bias) plain(`${name}.bias`, [n], 0, 0.3)
  }

  const queryWidth = shape.heads * shape.headDim
  const kvWidth = shape.kvHeads * shape.headDim
  // With a tied head, the rows that make logits of deviation 2 are the embedding's.
  const headDeviation = 2 / Math.sqrt(shape.hidden)
  plain('model.embed_tokens.weight', [shape.vocab, shape.hidden], 0, options.tied ? headDeviation : 1)
  for (let i = 0; i < shape.layers; i++) {
    const layer = `model.layers.${i}`
    const hiddenOrder = () =>
      gptq?.order === 'shared' || options.compressed?.actOrder === 'group'
        ? random.permutation(shape.hidden)
        : undefined
    plain(`${layer}.input_layernorm.weight`, [shape.hidden], 1, 0.2)
    const attentionOrder = hiddenOrder()
    const all = architecture !== 'mistral' && architecture !== 'qwen2' && (options.attentionBias ?? false)
    const bias = all || architecture === 'qwen2'
    linear(`${layer}.self_attn.q_proj`, queryWidth, shape.hidden, 1.3, bias, attentionOrder)
    linear(`${layer}.self_attn.k_proj`, kvWidth, shape.hidden, 1.3, bias, attentionOrder)
    linear(`${layer}.self_attn.v_proj`, kvWidth, shape.hidden, 1, bias, attentionOrder)
    linear(`${layer}.self_attn.o_proj`, shape.hidden, queryWidth, 1, all)
    if (architecture === 'qwen3') {
      plain(`${layer}.self_attn.q_norm.weight`, [shape.headDim], 1.3, 0.3)
      plain(`${layer}.self_attn.k_norm.weight`, [shape.headDim], 1.3, 0.3)
    }
    plain(`${layer}.post_attention_layernorm.weight`, [shape.hidden], 1, 0.2)
    const feedForwardOrder = hiddenOrder()
    const mlpBias = architecture === 'llama' && (options.mlpBias ?? false)
    linear(`${layer}.mlp.gate_proj`, shape.intermediate, shape.hidden, 1.3, mlpBias, feedForwardOrder)
    linear(`${layer}.mlp.up_proj`, shape.intermediate, shape.hidden, 1.3, mlpBias, feedForwardOrder)
    linear(`${layer}.mlp.down_proj`, shape.hidden, shape.intermediate, 1, mlpBias)
  }
  plain('model.norm.weight', [shape.hidden], 1, 0.2)
  if (!options.tied) linear('lm_head', shape.vocab, shape.hidden, 2, false)
  return tensors
}

interface Linear {
  /** Of the module. */
  name: string
  /** Output and input features. */
  n: number
  k: number
  gain: number
  /** Of input features, shared among linears of one input. */
  permutation: number[] | undefined
}

/** Writes a linear in the options' format, or returns false for one that is to be plain. */
type Packer = (tensors: Tensors, random: Random, linear: Linear) => boolean

function packerOf(options: CheckpointOptions): Packer {
  const { gptq, awq, compressed } = options
  const config = quantisationOf(options)
  const applies = (name: string, plain: string[] | undefined, head: boolean | undefined) =>
    name === 'lm_head' ? head : quantisedLinears(plain).some((part) => name.endsWith(part))
  if (gptq) {
    return (tensors, random, linear) => {
      const settings = gptqSettingsOf(config as GptqConfig, linear.name)
      if (settings === 'plain' || !applies(linear.name, gptq.plain, gptq.head)) return false
      packGptq(tensors, random, linear, { ...gptq, ...settings })
      return true
    }
  }
  if (awq) {
    return (tensors, random, linear) => {
      if (!applies(linear.name, awq.plain, awq.head)) return false
      packAwq(tensors, random, linear, awq)
      return true
    }
  }
  if (compressed) {
    const ignored = (name: string) =>
      compressed.ignore?.some((entry) =>
        entry.startsWith('re:') ? new RegExp(`^(?:${entry.slice(3)})`).test(name) : entry === name,
      )
    return (tensors, random, linear) => {
      if (!applies(linear.name, undefined, compressed.head) || ignored(linear.name)) return false
      packCompressed(tensors, random, linear, compressed)
      return true
    }
  }
  return () => false
}

const randomNibbles = (random: Random, count: number) => Uint8Array.from({ length: count }, () => random.integer(0, 15))

/** Most near the middle, as of real weights; some anywhere. */
const randomZeros = (random: Random, count: number, symmetric: boolean, least = 0) =>
  Uint8Array.from({ length: count }, () => {
    if (symmetric) return 8
    return random.uniform() < 0.1 ? random.integer(least, 15) : random.integer(6, 9)
  })

/** Nibbles less their zero points have a standard deviation near 5. */
const randomScales = (random: Random, count: number, { gain, k }: Linear) =>
  Float64Array.from({ length: count }, () => (gain / Math.sqrt(k) / 5) * (0.5 + random.uniform()))

const groupsOf = (k: number, groupSize: number) => Math.ceil(k / (groupSize === -1 ? k : groupSize))

function groupOfInputs(k: number, groupSize: number, permutation: number[] | undefined): Int32Array {
  const groupOf = new Int32Array(k)
  for (let i = 0; i < k; i++) groupOf[permutation?.[i] ?? i] = Math.floor(i / (groupSize === -1 ? k : groupSize))
  return groupOf
}

function refuseRemainder({ name, n, k }: Linear): void {
  if (k % 8 !== 0 || n % 8 !== 0) throw new Error(`${name}: ${n} x ${k} does not pack into words of eight`)
}

/** qweight, qzeros, scales and g_idx of one linear. */
function packGptq(tensors: Tensors, random: Random, linear: Linear, options: GptqOptions): void {
  const { name, n, k } = linear
  refuseRemainder(linear)
  const groups = groupsOf(k, options.groupSize)
  tensors.set(`${name}.qweight`, tensor('I32', [k / 8, n], packRows(randomNibbles(random, k * n), k, n)))
  const zeros = randomZeros(random, groups * n, options.symmetric, options.leastZero)
  const words = packColumns(zeros, groups, n)
  // Version 1 subtracts one from every nibble of a word at once.
  if (options.version === 1) for (let i = 0; i < words.length; i++) words[i] = words[i]! - 0x11111111
  tensors.set(`${name}.qzeros`, tensor('I32', [groups, n / 8], words))
  const scaleDtype: Dtype = options.scaleDtype ?? 'F16'
  tensors.set(`${name}.scales`, tensor(scaleDtype, [groups, n], randomScales(random, groups * n, linear)))

  if (options.order === 'absent') return
  const permutation = options.order === 'sequential' ? undefined : (linear.permutation ?? random.permutation(k))
  tensors.set(`${name}.g_idx`, tensor('I32', [k], groupOfInputs(k, options.groupSize, permutation)))
}

/** qweight, qzeros and scales of one linear, as AutoAWQ's WQLinear_GEMM packs them. */
function packAwq(tensors: Tensors, random: Random, linear: Linear, options: AwqOptions): void {
  const { name, n, k } = linear
  refuseRemainder(linear)
  const groups = groupsOf(k, options.groupSize)
  const order = [0, 2, 4, 6, 1, 3, 5, 7]
  const pack = (nibbles: Uint8Array, rows: number) => packColumns(nibbles, rows, n, order)
  tensors.set(`${name}.qweight`, tensor('I32', [k, n / 8], pack(randomNibbles(random, k * n), k)))
  const zeros = randomZeros(random, groups * n, !options.zeroPoint)
  tensors.set(`${name}.qzeros`, tensor('I32', [groups, n / 8], pack(zeros, groups)))
  const scales = randomScales(random, groups * n, linear)
  tensors.set(`${name}.scales`, tensor(options.scaleDtype ?? 'F16', [groups, n], scales))
}

/** weight_packed, weight_scale, weight_zero_point, weight_g_idx and weight_shape of one linear. */
function packCompressed(tensors: Tensors, random: Random, linear: Linear, options: CompressedTensorsOptions): void {
  const { name, n, k } = linear
  if (k % 8 !== 0) throw new Error(`${name}: ${k} input features do not pack into words of eight`)
  const groups = groupsOf(k, options.groupSize)
  tensors.set(`${name}.weight_packed`, tensor('I32', [n, k / 8], packColumns(randomNibbles(random, n * k), n, k)))
  const scales = randomScales(random, n * groups, linear)
  tensors.set(`${name}.weight_scale`, tensor(options.scaleDtype ?? 'F16', [n, groups], scales))
  tensors.set(`${name}.weight_shape`, tensor('I64', [2], [n, k]))
  if (!options.symmetric) {
    const rows = Math.ceil(n / 8) * 8
    const zeros = new Uint8Array(rows * groups)
    zeros.set(randomZeros(random, n * groups, false))
    tensors.set(`${name}.weight_zero_point`, tensor('I32', [rows / 8, groups], packRows(zeros, rows, groups)))
  }
  if (options.actOrder !== 'group') return
  const permutation = linear.permutation ?? random.permutation(k)
  tensors.set(`${name}.weight_g_idx`, tensor('I32', [k], groupOfInputs(k, options.groupSize, permutation)))
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

/** Nibble j of word [r, c] is column 8c + order[j]. */
function packColumns(
  nibbles: Uint8Array,
  rows: number,
  columns: number,
  order: number[] = [0, 1, 2, 3, 4, 5, 6, 7],
): Int32Array {
  const words = new Int32Array(rows * (columns / 8))
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const at = r * (columns / 8) + Math.floor(c / 8)
      words[at] = words[at]! | (nibbles[r * columns + c]! << (4 * order.indexOf(c % 8)))
    }
  }
  return words
}

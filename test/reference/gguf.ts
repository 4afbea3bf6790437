/** Writes GGUF files, of any metadata and tensors, and of the tests' random checkpoints in llama.cpp's naming. */
import { readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, sep } from 'node:path'
import { type GgufType, numberOf, pack } from './gguf_blocks.ts'
import { numbers, readFolder, type Tensors, tensor, writeFolder } from './safetensors.ts'

/** A value and the type that it is written as; arrays are of one type. */
export type GgufValue =
  | { type: keyof typeof NUMBERS; value: number | bigint }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | {
      type: 'array'
      of: keyof typeof NUMBERS | 'bool' | 'string'
      value: ArrayLike<number | bigint | boolean | string>
    }

const NUMBERS = { u8: 0, i8: 1, u16: 2, i16: 3, u32: 4, i32: 5, f32: 6, u64: 10, i64: 11, f64: 12 } as const
const TYPES = { ...NUMBERS, bool: 7, string: 8, array: 9 } as const

export interface GgufTensor {
  name: string
  /** ggml's number, or a name. */
  type: GgufType | number
  /** The contiguous dimension last. */
  shape: number[]
  data: Uint8Array
}

export interface GgufOptions {
  version?: number
  alignment?: number
}

export const u32 = (value: number): GgufValue => ({ type: 'u32', value })
export const f32 = (value: number): GgufValue => ({ type: 'f32', value })
export const bool = (value: boolean): GgufValue => ({ type: 'bool', value })
export const text = (value: string): GgufValue => ({ type: 'string', value })
export const texts = (value: readonly string[]): GgufValue => ({ type: 'array', of: 'string', value })

export type GgufMetadata = Record<string, GgufValue>

function number(type: keyof typeof NUMBERS, value: number | bigint): Buffer {
  const bytes = Buffer.alloc({ u8: 1, i8: 1, u16: 2, i16: 2, u32: 4, i32: 4, f32: 4, u64: 8, i64: 8, f64: 8 }[type])
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (type === 'u64') view.setBigUint64(0, BigInt(value), true)
  else if (type === 'i64') view.setBigInt64(0, BigInt(value), true)
  else if (type === 'f32') view.setFloat32(0, Number(value), true)
  else if (type === 'f64') view.setFloat64(0, Number(value), true)
  else bytes[type.startsWith('u') ? 'writeUIntLE' : 'writeIntLE'](Number(value), 0, bytes.length)
  return bytes
}

function string(value: string): Buffer {
  const bytes = Buffer.from(value, 'utf8')
  return Buffer.concat([number('u64', bytes.length), bytes])
}

function item(type: keyof typeof NUMBERS | 'bool' | 'string', value: number | bigint | boolean | string): Buffer {
  if (type === 'bool') return Buffer.from([value ? 1 : 0])
  return type === 'string' ? string(value as string) : number(type, value as number)
}

function valueBytes(value: GgufValue): Buffer {
  if (value.type !== 'array') return item(value.type, value.value)
  const items = Array.from(value.value, (one) => item(value.of, one))
  return Buffer.concat([number('u32', TYPES[value.of]), number('u64', items.length), ...items])
}

export function ggufBytes(metadata: GgufMetadata, tensors: readonly GgufTensor[], options: GgufOptions = {}): Buffer {
  const { version = 3, alignment = 32 } = options
  const pad = (size: number) => (alignment - (size % alignment)) % alignment
  const pairs = { ...metadata, ...(options.alignment ? { 'general.alignment': u32(alignment) } : {}) }
  const header = [Buffer.from('GGUF'), number('u32', version)]
  header.push(number('u64', tensors.length), number('u64', Object.keys(pairs).length))
  for (const [key, value] of Object.entries(pairs)) {
    header.push(string(key), number('u32', TYPES[value.type]), valueBytes(value))
  }
  const data: Uint8Array[] = []
  let offset = 0
  for (const { name, type, shape, data: bytes } of tensors) {
    header.push(string(name), number('u32', shape.length))
    for (const size of [...shape].reverse()) header.push(number('u64', size))
    header.push(number('u32', typeof type === 'number' ? type : numberOf(type)), number('u64', offset))
    data.push(bytes, Buffer.alloc(pad(bytes.length)))
    offset += bytes.length + pad(bytes.length)
  }
  const head = Buffer.concat(header)
  return Buffer.concat([head, Buffer.alloc(pad(head.length)), ...data])
}

/** llama.cpp's names of what layers have, and of what stands outside them. */
export const LLAMA_PARTS: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}
export const OUTSIDE: Readonly<Record<string, string>> = {
  'model.embed_tokens.weight': 'token_embd.weight',
  'model.norm.weight': 'output_norm.weight',
  'lm_head.weight': 'output.weight',
}

function storedName(name: string): string {
  const layer = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name)
  return layer ? `blk.${layer[1]}.${LLAMA_PARTS[layer[2]!]!}.${layer[3]}` : OUTSIDE[name]!
}

export interface ConvertOptions {
  /** Of a matrix by its name in the file. */
  type: GgufType | ((name: string) => GgufType)
  /** Beside or in place of what the checkpoint's own config says. */
  metadata?: GgufMetadata
  extra?: GgufTensor[]
  /** More than one: as gguf-split writes them. */
  parts?: number
  version?: number
  alignment?: number
}

/**
 * Writes a random checkpoint's folder (float, byte-level tokenizer) as a GGUF file beside it, and gives the folder the
 * weights that the file then has, for the float64 model to read. Returns the file's path.
 */
export function convertFolder(dir: string, options: ConvertOptions): string {
  // Written over: a model that somebody keeps must not be.
  if (!realpathSync(dir).startsWith(`${realpathSync(tmpdir())}${sep}`)) {
    throw new Error(`convertFolder() overwrites the folder's weights: expected one of temporary files, not ${dir}`)
  }
  const json = (name: string) => JSON.parse(readFileSync(join(dir, name), 'utf8'))
  const config = json('config.json')
  const llama = config.model_type === 'llama' || config.model_type === 'mistral'
  const heads: Record<string, number> = { q_proj: config.num_attention_heads, k_proj: config.num_key_value_heads }
  const kept: Tensors = new Map()
  const tensors: GgufTensor[] = []
  for (const [name, { shape, ...rest }] of readFolder(dir)) {
    const stored = storedName(name)
    const matrix = shape.length === 2
    const type = !matrix ? 'F32' : typeof options.type === 'string' ? options.type : options.type(stored)
    const { bytes, values } = pack(type, numbers({ shape, ...rest }))
    kept.set(name, tensor('F32', shape, values))
    const part = /\.self_attn\.(\w+)\.(weight|bias)$/.exec(name)?.[1] ?? ''
    const rows = llama && heads[part] ? interleavedRows(shape[0]!, heads[part]) : undefined
    tensors.push({ name: stored, type, shape, data: rows ? takeRows(bytes, shape[0]!, rows) : bytes })
  }
  writeFolder(dir, kept)
  tensors.push(...(options.extra ?? []))
  const metadata = { ...metadataOf(config, llama), ...tokenizerOf(json('tokenizer.json')), ...options.metadata }
  const { parts = 1 } = options
  const name = (part: number) =>
    parts === 1 ? 'model.gguf' : `model-${String(part + 1).padStart(5, '0')}-of-${String(parts).padStart(5, '0')}.gguf`
  for (let part = 0; part < parts; part++) {
    const split: GgufMetadata = {
      'split.no': { type: 'u16', value: part },
      'split.count': { type: 'u16', value: parts },
      'split.tensors.count': { type: 'i32', value: tensors.length },
    }
    const own = tensors.filter((_, index) => index % parts === part)
    const pairs = { ...(part === 0 ? metadata : {}), ...(parts === 1 ? {} : split) }
    writeFileSync(join(dir, name(part)), ggufBytes(pairs, own, options))
  }
  return join(dir, name(0))
}

/** Row j of a head's first half and row j of its second become neighbours, as converters write Llama's. */
function interleavedRows(n: number, heads: number): number[] {
  const size = n / heads
  return Array.from({ length: n }, (_, row) => {
    const within = row % size
    return row - within + (within % 2) * (size / 2) + Math.floor(within / 2)
  })
}

function takeRows(bytes: Uint8Array, n: number, rows: readonly number[]): Uint8Array {
  const size = bytes.length / n
  return Buffer.concat(rows.map((row) => bytes.subarray(row * size, (row + 1) * size)))
}

// biome-ignore lint/suspicious/noExplicitAny: config.json as it was written
function metadataOf(config: any, llama: boolean): GgufMetadata {
  const name = llama ? 'llama' : config.model_type
  const window = config.use_sliding_window === false ? undefined : config.sliding_window
  return {
    'general.architecture': text(name),
    'general.name': text('random'),
    [`${name}.context_length`]: u32(config.max_position_embeddings),
    [`${name}.embedding_length`]: u32(config.hidden_size),
    [`${name}.block_count`]: u32(config.num_hidden_layers),
    [`${name}.feed_forward_length`]: u32(config.intermediate_size),
    [`${name}.attention.head_count`]: u32(config.num_attention_heads),
    [`${name}.attention.head_count_kv`]: u32(config.num_key_value_heads),
    [`${name}.attention.key_length`]: u32(config.head_dim),
    [`${name}.attention.value_length`]: u32(config.head_dim),
    [`${name}.attention.layer_norm_rms_epsilon`]: f32(config.rms_norm_eps),
    [`${name}.rope.dimension_count`]: u32(config.head_dim),
    [`${name}.rope.freq_base`]: f32(config.rope_theta),
    [`${name}.vocab_size`]: u32(config.vocab_size),
    ...(window ? { [`${name}.attention.sliding_window`]: u32(window) } : {}),
  }
}

function tokenizerOf(tokenizer: {
  model: { vocab: Record<string, number> }
  added_tokens: { id: number }[]
}): GgufMetadata {
  const tokens = Object.entries(tokenizer.model.vocab).sort(([, a], [, b]) => a - b)
  const added = new Set(tokenizer.added_tokens.map(({ id }) => id))
  return {
    'tokenizer.ggml.model': text('gpt2'),
    'tokenizer.ggml.pre': text('gpt-2'),
    'tokenizer.ggml.tokens': texts(tokens.map(([token]) => token)),
    'tokenizer.ggml.token_type': { type: 'array', of: 'i32', value: tokens.map(([, id]) => (added.has(id) ? 3 : 1)) },
    'tokenizer.ggml.merges': texts([]),
    'tokenizer.ggml.bos_token_id': u32(0),
    'tokenizer.ggml.eos_token_id': u32(1),
    'tokenizer.ggml.add_bos_token': bool(true),
    'tokenizer.chat_template': text(
      "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}",
    ),
  }
}

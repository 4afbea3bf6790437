/**
 * Tensors that a checkpoint has and the plan does not take. Some are left over from how the file was made and change
 * nothing; what transformers leaves out too is told; what shows that config.json does not belong to the file is refused.
 */
import { open } from 'node:fs/promises'
import type { ModelSource, NativeTensor } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { ModelConfig, Warn } from './config.ts'
import { list } from './keys.ts'

/** Buffers that are computed anew, scales of a quantised KV cache or of activations. */
const LEFTOVERS = [
  /(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached|original_inv_freq)$/,
  /\.(self_attn|attention|attn)\.(masked_bias|bias)$/,
  /\.(k|v|q|kv|prob|k_cache|v_cache)_scale$/,
  /\.(input|output|k|v)_(scale|zero_point|global_scale)$/,
]

/** Of a quantised linear: which form of it needs them, its own settings say. */
const OF_PACKED = new Set([
  'g_idx',
  'qzeros',
  'weight_zero_point',
  'weight_g_idx',
  'weight_shape',
  'perm',
  'g_idx_sort_indices',
  'workspace',
])

/** What makes a module: of one that is not in the plan, the model has lost a part. */
const OF_MODULES = /^(weight|qweight|weight_packed|sinks|lora_[AB])$/

/** What layers that attend to another layer's keys and values have no use for; published files of Gemma 4 have it. */
const KEYS_AND_VALUES = /^model\.layers\.\d+\.self_attn\.[kv]_(proj|norm)\./

const FLOATS: Readonly<Record<string, number>> = { F16: 2, BF16: 2, F32: 4, F64: 8 }
/** A bias of more is none. */
const LARGEST_BIAS = 2 ** 26
/** Of two tensors to be compared, so much is read at so many places. */
const WINDOW = 2 ** 16
const MOST_WINDOWS = 256

/** Whether a tensor of the name changes nothing, in any model. */
export function isLeftover(name: string): boolean {
  return LEFTOVERS.some((pattern) => pattern.test(name))
}

/**
 * Accounts for every tensor of the files. Throws CHECKPOINT_INVALID for a bias other than zero that no setting names, and for
 * a part of a layer that the architecture does not have.
 */
export async function checkUnread(
  files: readonly string[],
  { architecture, spec }: ModelConfig,
  source: ModelSource,
  tensors: readonly NativeTensor[],
  warn: Warn,
): Promise<void> {
  const read = new Set(namesOf(source))
  const modules = new Map([...read].map((name) => [moduleOf(name), name]))
  const packed = (module: string) => /\.(qweight|weight_packed)$/.test(modules.get(module) ?? '')
  const sharing = new Set(
    source.program.units
      .filter(({ ops }) => ops.some((op) => op.op === 'attend' && op.readsOnly))
      .map(({ layer }) => layer),
  )
  const beyond: string[] = []
  const others: string[] = []
  for (const tensor of tensors) {
    const { name } = tensor
    if (read.has(name) || isLeftover(name)) continue
    const module = moduleOf(name)
    const part = name.slice(module.length + 1)
    const layer = /^model\.layers\.(\d+)\./.exec(name)
    if (layer && Number(layer[1]) >= spec.layers) {
      beyond.push(name)
    } else if (layer && sharing.has(Number(layer[1])) && KEYS_AND_VALUES.test(name)) {
      // In transformers too, in silence.
    } else if (modules.has(module) && part === 'bias') {
      if (!(await isZero(files, tensor))) throw unreadBias(name, architecture)
    } else if (modules.has(module)) {
      if (!(packed(module) && OF_PACKED.has(part))) others.push(name)
    } else if (layer && OF_MODULES.test(part) && tensor.known) {
      throw strangePart(name, architecture)
    } else {
      others.push(name)
    }
  }
  if (beyond.length > 0) {
    warn(
      `tensors of layers beyond num_hidden_layers (${spec.layers}) are not read, as in transformers: ${list(beyond)}`,
    )
  }
  if (others.length > 0)
    warn(`tensors that ${architecture} does not have are not read, as in transformers: ${list(others)}`)
}

/**
 * Whether the head is the embedding table: as config.json says, unless the file has a head of its own with other numbers,
 * which is read and told.
 */
export async function checkTies(
  files: readonly string[],
  { tiedEmbeddings }: ModelConfig,
  { units, tables: [embedding] }: ModelSource,
  tensors: readonly NativeTensor[],
  warn: Warn,
): Promise<boolean> {
  const head = units.at(-1)!.linears[0]![0]!
  if (!tiedEmbeddings || head.weight === embedding) return tiedEmbeddings
  const find = (name: string) => tensors.find((tensor) => tensor.name === name)!
  if (await isEqual(files, find(embedding!), find(head.weight))) return true
  warn(`'${head.weight}' is not '${embedding}', though tie_word_embeddings says so: it is the head, as in transformers`)
  return false
}

function namesOf(source: ModelSource): string[] {
  const of = (value: unknown): string[] =>
    typeof value === 'string'
      ? [value]
      : typeof value === 'object' && value !== null
        ? Object.values(value).flatMap(of)
        : []
  // A part of a tensor is of the tensor.
  return of([source.units, source.tables])
    .filter((name) => name.includes('.'))
    .map((name) => name.replace(/\[\d+\]$/, ''))
}

const moduleOf = (name: string): string => name.slice(0, Math.max(0, name.lastIndexOf('.')))

/** Zeros of either sign. */
async function isZero(files: readonly string[], tensor: NativeTensor): Promise<boolean> {
  // Of others than floats no bit is a sign.
  const size = FLOATS[tensor.dtype] ?? Number.POSITIVE_INFINITY
  if (tensor.bytes > LARGEST_BIAS) return false
  const bytes = await readBytes(files, tensor, 0, tensor.bytes)
  return bytes.every((byte, at) => (at % size === size - 1 ? byte & 0x7f : byte) === 0)
}

/** Of large tensors, as far as evenly spread windows show. */
async function isEqual(files: readonly string[], one: NativeTensor, two: NativeTensor): Promise<boolean> {
  if (one.dtype !== two.dtype || one.bytes !== two.bytes) return false
  const windows = Math.min(MOST_WINDOWS, Math.ceil(one.bytes / WINDOW))
  for (let window = 0; window < windows; window++) {
    const last = one.bytes - WINDOW
    const from = windows < 2 || last <= 0 ? 0 : Math.floor((last * window) / (windows - 1))
    const length = Math.min(WINDOW, one.bytes)
    const [first, second] = await Promise.all([
      readBytes(files, one, from, length),
      readBytes(files, two, from, length),
    ])
    if (!first.equals(second)) return false
  }
  return true
}

/** Bytes of a tensor; fewer where the file ends. */
export async function readBytes(
  files: readonly string[],
  tensor: NativeTensor,
  from: number,
  length: number,
): Promise<Buffer> {
  const file = await open(files[tensor.file]!)
  try {
    const buffer = Buffer.alloc(length)
    let done = 0
    while (done < length) {
      const { bytesRead } = await file.read(buffer, done, length - done, tensor.offset + from + done)
      if (bytesRead === 0) break
      done += bytesRead
    }
    return buffer.subarray(0, done)
  } finally {
    await file.close()
  }
}

function unreadBias(name: string, architecture: string): MillraceError {
  const settings = /\.self_attn\.[qkvo]_proj\./.test(name)
    ? 'attention_bias'
    : /\.mlp\./.test(name)
      ? 'mlp_bias'
      : undefined
  return new MillraceError('CHECKPOINT_INVALID', {
    message: `tensor '${name}': expected zeros of a bias that ${architecture} does not have by config.json, found other numbers`,
    remedy: settings
      ? `check that config.json belongs to the weights: a Llama whose linears have biases says "${settings}": true`
      : 'check that config.json belongs to the weights',
  })
}

function strangePart(name: string, architecture: string): MillraceError {
  return new MillraceError('CHECKPOINT_INVALID', {
    message: `tensor '${name}': expected parts of layers that ${architecture} has, found another`,
    remedy:
      'check that config.json belongs to the weights, and that its architecture is the one they were trained with',
  })
}

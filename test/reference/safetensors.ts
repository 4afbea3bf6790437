/**
 * Safetensors files (https://github.com/huggingface/safetensors, "Format") for the tests: read and written here,
 * independently of the product. A file is a u64 little-endian header length, a JSON header, and the tensors' bytes.
 */
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { floatBits, floatValue } from './float.ts'

const BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
  U64: 8,
} as const

export type Dtype = keyof typeof BYTES

export interface Tensor {
  dtype: Dtype
  shape: number[]
  /** Little-endian, row-major. */
  data: Uint8Array
}

export type Tensors = Map<string, Tensor>

const product = (shape: number[]): number => shape.reduce((a, b) => a * b, 1)

/** Elements of a tensor, exactly; 64-bit integers beyond 2^53 and 8-bit floats are refused. */
export function numbers(tensor: Tensor): Float64Array {
  const { dtype, data } = tensor
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  const read: Record<Dtype, (at: number) => number> = {
    BOOL: (at) => view.getUint8(at),
    U8: (at) => view.getUint8(at),
    I8: (at) => view.getInt8(at),
    F8_E4M3: () => unsupported(dtype),
    F8_E5M2: () => unsupported(dtype),
    I16: (at) => view.getInt16(at, true),
    U16: (at) => view.getUint16(at, true),
    F16: (at) => floatValue('F16', view.getUint16(at, true)),
    BF16: (at) => floatValue('BF16', view.getUint16(at, true)),
    I32: (at) => view.getInt32(at, true),
    U32: (at) => view.getUint32(at, true),
    F32: (at) => view.getFloat32(at, true),
    F64: (at) => view.getFloat64(at, true),
    I64: (at) => safeInteger(view.getBigInt64(at, true)),
    U64: (at) => safeInteger(view.getBigUint64(at, true)),
  }
  const element = read[dtype]
  const size = BYTES[dtype]
  const values = new Float64Array(product(tensor.shape))
  for (let i = 0; i < values.length; i++) values[i] = element(i * size)
  return values
}

/** A tensor of the given elements, rounded to nearest even where the type is narrower. */
export function tensor(dtype: Dtype, shape: number[], values: ArrayLike<number>): Tensor {
  if (values.length !== product(shape)) throw new Error(`${values.length} values for shape [${shape}]`)
  const size = BYTES[dtype]
  const data = new Uint8Array(values.length * size)
  const view = new DataView(data.buffer)
  const write: Record<Dtype, (at: number, value: number) => void> = {
    BOOL: (at, value) => view.setUint8(at, value === 0 ? 0 : 1),
    U8: (at, value) => view.setUint8(at, value),
    I8: (at, value) => view.setInt8(at, value),
    F8_E4M3: () => unsupported(dtype),
    F8_E5M2: () => unsupported(dtype),
    I16: (at, value) => view.setInt16(at, value, true),
    U16: (at, value) => view.setUint16(at, value, true),
    F16: (at, value) => view.setUint16(at, floatBits('F16', value), true),
    BF16: (at, value) => view.setUint16(at, floatBits('BF16', value), true),
    I32: (at, value) => view.setInt32(at, value, true),
    U32: (at, value) => view.setUint32(at, value, true),
    F32: (at, value) => view.setFloat32(at, value, true),
    F64: (at, value) => view.setFloat64(at, value, true),
    I64: (at, value) => view.setBigInt64(at, BigInt(value), true),
    U64: (at, value) => view.setBigUint64(at, BigInt(value), true),
  }
  const element = write[dtype]
  for (let i = 0; i < values.length; i++) element(i * size, values[i]!)
  return { dtype, shape, data }
}

function unsupported(dtype: Dtype): never {
  throw new Error(`no conversion of ${dtype}`)
}

function safeInteger(value: bigint): number {
  const number = Number(value)
  if (!Number.isSafeInteger(number)) throw new Error(`${value} is beyond 2^53`)
  return number
}

interface HeaderEntry {
  dtype: Dtype
  shape: number[]
  data_offsets: [number, number]
}

export function readSafetensors(path: string): Tensors {
  const file = openSync(path, 'r')
  try {
    const length = Buffer.alloc(8)
    readSync(file, length, 0, 8, 0)
    const headerBytes = Number(length.readBigUInt64LE())
    const json = Buffer.alloc(headerBytes)
    readSync(file, json, 0, headerBytes, 8)
    const header = JSON.parse(json.toString('utf8')) as Record<string, HeaderEntry>
    const tensors: Tensors = new Map()
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') continue
      const [begin, end] = entry.data_offsets
      if (end - begin !== product(entry.shape) * BYTES[entry.dtype])
        throw new Error(`${path}: ${name} has a wrong size`)
      const data = new Uint8Array(end - begin)
      readSync(file, data, 0, data.length, 8 + headerBytes + begin)
      tensors.set(name, { dtype: entry.dtype, shape: entry.shape, data })
    }
    return tensors
  } finally {
    closeSync(file)
  }
}

/** Tensors lie in the map's order; the header is padded with spaces so that data begins at a multiple of 8. */
export function writeSafetensors(path: string, tensors: Tensors): void {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let offset = 0
  for (const [name, { dtype, shape, data }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + data.length] }
    offset += data.length
  }
  const text = JSON.stringify(header)
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8), 'utf8')
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  writeFileSync(path, Buffer.concat([length, json, ...[...tensors.values()].map((t) => t.data)]))
}

const INDEX = 'model.safetensors.index.json'

/** All tensors of a Hugging Face folder, of one file or of the shards its index names. */
export function readFolder(dir: string): Tensors {
  if (!existsSync(join(dir, INDEX))) return readSafetensors(join(dir, 'model.safetensors'))
  const index = JSON.parse(readFileSync(join(dir, INDEX), 'utf8')) as { weight_map: Record<string, string> }
  const tensors: Tensors = new Map()
  for (const shard of new Set(Object.values(index.weight_map))) {
    for (const [name, value] of readSafetensors(join(dir, shard))) tensors.set(name, value)
  }
  return tensors
}

/** Writes one file, or `shards` files of about equal bytes with an index. */
export function writeFolder(dir: string, tensors: Tensors, shards = 1): void {
  mkdirSync(dir, { recursive: true })
  if (shards === 1) {
    writeSafetensors(join(dir, 'model.safetensors'), tensors)
    return
  }
  const total = [...tensors.values()].reduce((sum, t) => sum + t.data.length, 0)
  const parts: Tensors[] = Array.from({ length: shards }, () => new Map())
  let before = 0
  for (const [name, value] of tensors) {
    parts[Math.min(shards - 1, Math.floor((before * shards) / total))]?.set(name, value)
    before += value.data.length
  }
  const weightMap: Record<string, string> = {}
  const padded = (n: number) => String(n).padStart(5, '0')
  parts.forEach((part, i) => {
    const file = `model-${padded(i + 1)}-of-${padded(shards)}.safetensors`
    writeSafetensors(join(dir, file), part)
    for (const name of part.keys()) weightMap[name] = file
  })
  writeFileSync(join(dir, INDEX), JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, null, 1))
}

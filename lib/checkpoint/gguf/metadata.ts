/** A GGUF file's metadata, read natively: each value as what the file says it is. */
import type { NativeAddon, NativeGgufStrings, NativeGgufValue } from '../../binding.ts'
import { MillraceError } from '../../errors.ts'
import { show } from '../json.ts'

const REMEDY = 'fetch the file again, or report it to whoever converted it'

/** An array of texts as it lies in the file: decoded one by one, since a vocabulary is hundreds of thousands. */
export class GgufStrings {
  readonly length: number
  readonly #bytes: Buffer
  readonly #ends: Uint32Array

  constructor({ bytes, ends }: NativeGgufStrings) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#ends = ends
    this.length = ends.length
  }

  at(index: number): string {
    return this.#bytes.toString('utf8', index === 0 ? 0 : this.#ends[index - 1], this.#ends[index])
  }

  toArray(): string[] {
    return Array.from(this.#ends, (end, index) =>
      this.#bytes.toString('utf8', index === 0 ? 0 : this.#ends[index - 1], end),
    )
  }
}

export class GgufMetadata {
  /** For messages. */
  readonly file: string
  readonly #values: ReadonlyMap<string, NativeGgufValue>

  constructor(file: string, values: ReadonlyMap<string, NativeGgufValue>) {
    this.file = file
    this.#values = values
  }

  get keys(): string[] {
    return [...this.#values.keys()]
  }

  get(key: string): NativeGgufValue | undefined {
    return this.#values.get(key)
  }

  text(key: string): string | undefined {
    return this.#of(key, 'a text', (value) => (typeof value === 'string' ? value : undefined))
  }

  boolean(key: string): boolean | undefined {
    return this.#of(key, 'true or false', (value) => (typeof value === 'boolean' ? value : undefined))
  }

  number(key: string): number | undefined {
    return this.#of(key, 'a finite number', finite)
  }

  integer(key: string, least = 0, most = 2 ** 31 - 1): number | undefined {
    return this.#of(key, `an integer from ${least} to ${most}`, (value) =>
      Number.isInteger(value) && (value as number) >= least && (value as number) <= most
        ? (value as number)
        : undefined,
    )
  }

  /** An integer, or an array of one a layer. */
  integers(key: string): number | number[] | undefined {
    return this.#of(key, 'an integer, or an array of integers', (value) => {
      if (Number.isInteger(value)) return value as number
      const all = ArrayBuffer.isView(value) ? Array.from(value as Int32Array, Number) : undefined
      return all?.every(Number.isSafeInteger) ? all : undefined
    })
  }

  numbers(key: string): ArrayLike<number> | undefined {
    return this.#of(key, 'an array of numbers', (value) =>
      ArrayBuffer.isView(value) && !(value instanceof BigInt64Array) && !(value instanceof BigUint64Array)
        ? (value as unknown as ArrayLike<number>)
        : undefined,
    )
  }

  texts(key: string): GgufStrings | undefined {
    return this.#of(key, 'an array of texts', (value) =>
      typeof value === 'object' && 'ends' in value ? new GgufStrings(value) : undefined,
    )
  }

  require<Value>(key: string, value: Value | undefined): Value {
    if (value !== undefined) return value
    throw this.invalid(`expected metadata key '${key}', found none`)
  }

  invalid(message: string): MillraceError {
    return new MillraceError('CHECKPOINT_INVALID', { message: `${this.file}: ${message}`, remedy: REMEDY })
  }

  unsupported(key: string, supported: string, found: unknown): MillraceError {
    return new MillraceError('CHECKPOINT_UNSUPPORTED', {
      message: `${this.file}: metadata key '${key}': ${display(found)} is not supported, expected ${supported}`,
      remedy: `supported here: ${supported}`,
    })
  }

  #of<Value>(key: string, expected: string, read: (value: NativeGgufValue) => Value | undefined): Value | undefined {
    const found = this.#values.get(key)
    if (found === undefined) return undefined
    const value = read(found)
    if (value !== undefined) return value
    throw this.invalid(`metadata key '${key}': expected ${expected}, found ${display(found)}`)
  }
}

function finite(value: NativeGgufValue): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined
}

function display(value: unknown): string {
  if (typeof value === 'bigint') return String(value)
  if (ArrayBuffer.isView(value)) return `an array of ${(value as unknown as ArrayLike<number>).length} numbers`
  if (typeof value === 'object' && value !== null && 'ends' in value) return 'an array of texts'
  return show(value)
}

export interface GgufHeader {
  version: number
  metadata: GgufMetadata
  tensorCount: number
}

/** Reads the header of one file. Throws the CHECKPOINT_ errors. */
export function readGgufHeader(native: Pick<NativeAddon, 'readGguf'>, path: string, name: string): GgufHeader {
  try {
    const { version, keys, values, tensorCount } = native.readGguf(path)
    const metadata = new GgufMetadata(name, new Map(keys.map((key, index) => [key, values[index]!])))
    return { version, metadata, tensorCount }
  } catch (error) {
    throw MillraceError.fromNative(error)
  }
}

/** Where the header of a GGUF file ends, as far as that can be told of its beginning. */

const STRING = 8
const ARRAY = 9
/** Bytes of a value by its type's number. */
const WIDTHS: Record<number, number> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 }

/** Bytes of the header, or undefined if it goes on behind these. What is no header ends at once: whoever reads it says so. */
export function ggufHeadBytes(bytes: Buffer): number | undefined {
  try {
    return new Walk(bytes).end()
  } catch (error) {
    if (error instanceof RangeError) return undefined
    throw error
  }
}

class Walk {
  readonly #bytes: Buffer
  #at = 4

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  /** Throws a RangeError behind the bytes, as Buffer's own methods do. */
  end(): number {
    if (this.#bytes.toString('latin1', 0, 4) !== 'GGUF') return 0
    this.#skip(4) // the version
    const [tensors, pairs] = [this.#u64(), this.#u64()]
    for (let i = 0; i < pairs; i++) {
      this.#skip(this.#u64())
      if (!this.#value(this.#u32())) return this.#at
    }
    for (let i = 0; i < tensors; i++) {
      this.#skip(this.#u64())
      this.#skip(this.#u32() * 8 + 4 + 8) // dimensions, type, offset
    }
    return this.#at
  }

  /** False of a type that there is not. */
  #value(type: number): boolean {
    if (type === STRING) this.#skip(this.#u64())
    else if (type === ARRAY) {
      const [element, count] = [this.#u32(), this.#u64()]
      if (element !== STRING) return this.#fixed(element, count)
      for (let i = 0; i < count; i++) this.#skip(this.#u64())
    } else return this.#fixed(type, 1)
    return true
  }

  #fixed(type: number, count: number): boolean {
    const width = WIDTHS[type]
    if (width !== undefined) this.#skip(width * count)
    return width !== undefined
  }

  #u32(): number {
    const value = this.#bytes.readUInt32LE(this.#at)
    this.#at += 4
    return value
  }

  #u64(): number {
    const value = this.#bytes.readBigUInt64LE(this.#at)
    this.#at += 8
    return Number(value)
  }

  #skip(count: number): void {
    this.#at += count
    if (this.#at > this.#bytes.length) throw new RangeError()
  }
}

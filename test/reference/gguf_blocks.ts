/**
 * ggml's packed types, written from the formats' definitions: a simple quantiser of each, and the very values that its bytes
 * stand for. Independent of the product's code.
 */
import { floatBits, floatValue } from './float.ts'
import { numbers, tensor } from './safetensors.ts'

/** ggml's numbers. */
const FLOATS = { F32: 0, F16: 1, BF16: 30 } as const

export interface Packed {
  bytes: Uint8Array
  /** What the bytes stand for, rounded to float32 as readers do. */
  values: Float64Array
}

const IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]

const half = (value: number) => floatValue('F16', floatBits('F16', value))
const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value))
const levelOf = (value: number, step: number, low: number, high: number) =>
  step === 0 ? clamp(0, low, high) : clamp(Math.round(value / step), low, high)
const largest = (x: ArrayLike<number>) =>
  Array.from(x).reduce((most, v) => (Math.abs(v) > Math.abs(most) ? v : most), 0)
const nearest = (table: readonly number[], value: number) =>
  table.reduce((best, entry, i) => (Math.abs(entry - value) < Math.abs(table[best]! - value) ? i : best), 0)

/** A block's bytes being written. */
class Block {
  readonly bytes: Uint8Array
  readonly values: Float64Array
  constructor(bytes: number, elements: number) {
    this.bytes = new Uint8Array(bytes)
    this.values = new Float64Array(elements)
  }
  half(at: number, value: number): void {
    const bits = floatBits('F16', value)
    this.bytes[at] = bits & 255
    this.bytes[at + 1] = bits >> 8
  }
  /** `count` bits of `value`, from bit `shift` of byte `at` on. */
  bits(at: number, shift: number, count: number, value: number): void {
    this.bytes[at] = this.bytes[at]! | ((value & (2 ** count - 1)) << shift)
  }
  /** Nibble e of 32: elements 0 to 15 are low ones. */
  nibble(at: number, e: number, value: number): void {
    this.bits(at + (e % 16), e < 16 ? 0 : 4, 4, value)
  }
}

type Quantise = (x: ArrayLike<number>) => Block

/** d * (q - zero), of 4, 5 or 8 bits. */
const symmetric =
  (bits: 4 | 5 | 8): Quantise =>
  (x) => {
    const block = new Block({ 4: 18, 5: 22, 8: 34 }[bits], 32)
    const zero = 2 ** (bits - 1)
    const d = half(largest(x) / -zero)
    block.half(0, d)
    for (let e = 0; e < 32; e++) {
      const q = levelOf(x[e]!, d, bits === 8 ? -127 : -zero, zero - 1)
      block.values[e] = d * q
      if (bits === 8) block.bytes[2 + e] = q & 255
      else block.nibble(bits === 4 ? 2 : 6, e, q + zero)
      if (bits === 5) block.bits(2 + (e >> 3), e & 7, 1, (q + zero) >> 4)
    }
    return block
  }

/** d * q + m. */
const asymmetric =
  (bits: 4 | 5): Quantise =>
  (x) => {
    const block = new Block(bits === 4 ? 20 : 24, 32)
    const least = Math.min(...Array.from(x))
    const m = half(least)
    const d = half((Math.max(...Array.from(x)) - least) / (2 ** bits - 1))
    block.half(0, d)
    block.half(2, m)
    for (let e = 0; e < 32; e++) {
      const q = levelOf(x[e]! - m, d, 0, 2 ** bits - 1)
      block.values[e] = Math.fround(d * q + m)
      block.nibble(bits === 4 ? 4 : 8, e, q)
      if (bits === 5) block.bits(4 + (e >> 3), e & 7, 1, q >> 4)
    }
    return block
  }

const iq4nl: Quantise = (x) => {
  const block = new Block(18, 32)
  const d = half(largest(x) / -127)
  block.half(0, d)
  for (let e = 0; e < 32; e++) {
    const q = nearest(IQ4, d === 0 ? 0 : x[e]! / d)
    block.values[e] = d * IQ4[q]!
    block.nibble(2, e, q)
  }
  return block
}

const mxfp4: Quantise = (x) => {
  const block = new Block(17, 32)
  const most = Math.abs(largest(x))
  const exponent = most === 0 ? -127 : Math.floor(Math.log2(most)) - 2
  block.bytes[0] = exponent + 127
  for (let e = 0; e < 32; e++) {
    const q = nearest(E2M1, x[e]! / 2 ** exponent)
    block.values[e] = 2 ** exponent * E2M1[q]!
    block.nibble(1, e, q)
  }
  return block
}

const part = (x: ArrayLike<number>, from: number, count: number) => Array.from(x).slice(from, from + count)

/** Scale and minimum of each sub-block, as multiples of two halfs. */
function scalesAndMinima(x: ArrayLike<number>, size: number, levels: number, most: number) {
  const subs = Array.from({ length: 256 / size }, (_, s) => part(x, s * size, size))
  const minima = subs.map((sub) => Math.max(0, -Math.min(...sub)))
  const steps = subs.map((sub, s) => (Math.max(...sub, 0) + minima[s]!) / levels)
  const d = half(Math.max(...steps) / most)
  const dmin = half(Math.max(...minima) / most)
  return {
    d,
    dmin,
    scales: steps.map((step) => levelOf(step, d, 0, most)),
    mins: minima.map((minimum) => levelOf(minimum, dmin, 0, most)),
  }
}

const q2k: Quantise = (x) => {
  const block = new Block(84, 256)
  const { d, dmin, scales, mins } = scalesAndMinima(x, 16, 3, 15)
  block.half(80, d)
  block.half(82, dmin)
  for (let e = 0; e < 256; e++) {
    const s = e >> 4
    const q = levelOf(x[e]! + dmin * mins[s]!, d * scales[s]!, 0, 3)
    block.values[e] = Math.fround(d * scales[s]! * q - dmin * mins[s]!)
    block.bytes[s] = scales[s]! | (mins[s]! << 4)
    block.bits(16 + 32 * (e >> 7) + (e & 31), 2 * ((e >> 5) & 3), 2, q)
  }
  return block
}

const q3k: Quantise = (x) => {
  const block = new Block(110, 256)
  const most = Array.from({ length: 16 }, (_, s) => largest(part(x, 16 * s, 16)))
  const d = half(Math.abs(largest(most)) / 4 / 31)
  block.half(108, d)
  for (let s = 0; s < 16; s++) {
    const scale = levelOf(most[s]! / -4, d, -32, 31)
    block.bits(96 + (s & 7), s < 8 ? 0 : 4, 4, (scale + 32) & 15)
    block.bits(104 + (s & 3), 2 * (s >> 2), 2, (scale + 32) >> 4)
    for (let e = 16 * s; e < 16 * s + 16; e++) {
      const q = levelOf(x[e]!, d * scale, -4, 3) + 4
      block.values[e] = d * scale * (q - 4)
      block.bits(32 + 32 * (e >> 7) + (e & 31), 2 * ((e >> 5) & 3), 2, q)
      block.bits(e & 31, e >> 5, 1, q >> 2)
    }
  }
  return block
}

/** Q4_K, and Q5_K with its fifth bits. */
const q45k =
  (bits: 4 | 5): Quantise =>
  (x) => {
    const block = new Block(bits === 4 ? 144 : 176, 256)
    const { d, dmin, scales, mins } = scalesAndMinima(x, 32, 2 ** bits - 1, 63)
    block.half(0, d)
    block.half(2, dmin)
    for (let s = 0; s < 8; s++) {
      if (s < 4) {
        block.bits(4 + s, 0, 6, scales[s]!)
        block.bits(8 + s, 0, 6, mins[s]!)
      } else {
        block.bits(8 + s, 0, 4, scales[s]!)
        block.bits(8 + s, 4, 4, mins[s]!)
        block.bits(s, 6, 2, scales[s]! >> 4)
        block.bits(4 + s, 6, 2, mins[s]! >> 4)
      }
      for (let l = 0; l < 32; l++) {
        const q = levelOf(x[32 * s + l]! + dmin * mins[s]!, d * scales[s]!, 0, 2 ** bits - 1)
        block.values[32 * s + l] = Math.fround(d * scales[s]! * q - dmin * mins[s]!)
        block.bits((bits === 4 ? 16 : 48) + 32 * (s >> 1) + l, 4 * (s & 1), 4, q)
        if (bits === 5) block.bits(16 + l, s, 1, q >> 4)
      }
    }
    return block
  }

const q6k: Quantise = (x) => {
  const block = new Block(210, 256)
  const most = Array.from({ length: 16 }, (_, s) => largest(part(x, 16 * s, 16)))
  const d = half(Math.abs(largest(most)) / 32 / 127)
  block.half(208, d)
  for (let s = 0; s < 16; s++) {
    const scale = levelOf(most[s]! / -32, d, -128, 127)
    block.bytes[192 + s] = scale & 255
    for (let e = 16 * s; e < 16 * s + 16; e++) {
      const q = levelOf(x[e]!, d * scale, -32, 31) + 32
      block.values[e] = d * scale * (q - 32)
      const quarter = (e >> 5) & 3
      block.bits(64 * (e >> 7) + 32 * (quarter & 1) + (e & 31), 4 * (quarter >> 1), 4, q)
      block.bits(128 + 32 * (e >> 7) + (e & 31), 2 * quarter, 2, q >> 4)
    }
  }
  return block
}

const iq4xs: Quantise = (x) => {
  const block = new Block(136, 256)
  const most = Array.from({ length: 8 }, (_, s) => largest(part(x, 32 * s, 32)))
  const d = half(Math.abs(largest(most)) / 127 / 31)
  block.half(0, d)
  for (let s = 0; s < 8; s++) {
    const scale = levelOf(most[s]! / -127, d, -32, 31)
    block.bits(4 + (s >> 1), 4 * (s & 1), 4, scale + 32)
    block.bits(2 + (s >> 2), 2 * (s & 3), 2, (scale + 32) >> 4)
    for (let l = 0; l < 32; l++) {
      const q = nearest(IQ4, d * scale === 0 ? 0 : x[32 * s + l]! / (d * scale))
      block.values[32 * s + l] = d * scale * IQ4[q]!
      block.nibble(8 + 16 * s, l, q)
    }
  }
  return block
}

/** Ternary: q - 1 is -1, 0 or 1, of what weights are in the mean. */
const ternary = (bytes: number, write: (block: Block, e: number, q: number) => void): Quantise => {
  return (x) => {
    const block = new Block(bytes, 256)
    const d = half(Array.from(x).reduce((sum, v) => sum + Math.abs(v), 0) / 256)
    block.half(bytes - 2, d)
    for (let e = 0; e < 256; e++) {
      const q = levelOf(x[e]!, d, -1, 1) + 1
      block.values[e] = d * (q - 1)
      write(block, e, q)
    }
    return block
  }
}

const tq2: Quantise = ternary(66, (block, e, q) => {
  block.bits(32 * (e >> 7) + (e & 31), 2 * ((e >> 5) & 3), 2, q)
})

/** Five digits a byte, as the least byte whose fraction of 256 begins with them. */
const tq1: Quantise = (x) => {
  const digits = new Uint8Array(256)
  const block = ternary(54, (_, e, q) => {
    digits[e] = q
  })(x)
  for (let at = 0; at < 52; at++) {
    const [first, stride, from] = at < 32 ? [0, 32, 0] : at < 48 ? [160, 16, 32] : [240, 4, 48]
    const count = at < 48 ? 5 : 4
    let value = 0
    for (let d = 0; d < 5; d++) value = 3 * value + (d < count ? digits[first + stride * d + at - from]! : 0)
    block.bytes[at] = Math.ceil((value * 256) / 243)
  }
  return block
}

/** Of each type: ggml's number, elements of a block, and how they are made. */
const QUANTISERS = {
  Q4_0: [2, 32, symmetric(4)],
  Q4_1: [3, 32, asymmetric(4)],
  Q5_0: [6, 32, symmetric(5)],
  Q5_1: [7, 32, asymmetric(5)],
  Q8_0: [8, 32, symmetric(8)],
  Q2_K: [10, 256, q2k],
  Q3_K: [11, 256, q3k],
  Q4_K: [12, 256, q45k(4)],
  Q5_K: [13, 256, q45k(5)],
  Q6_K: [14, 256, q6k],
  IQ4_NL: [20, 32, iq4nl],
  IQ4_XS: [23, 256, iq4xs],
  TQ1_0: [34, 256, tq1],
  TQ2_0: [35, 256, tq2],
  MXFP4: [39, 32, mxfp4],
} as const satisfies Record<string, readonly [number: number, elements: number, quantise: Quantise]>

type FloatType = keyof typeof FLOATS
export type GgufType = FloatType | keyof typeof QUANTISERS

export const GGUF_TYPES = [...Object.keys(FLOATS), ...Object.keys(QUANTISERS)] as GgufType[]

const isFloat = (type: GgufType): type is FloatType => Object.hasOwn(FLOATS, type)

export const numberOf = (type: GgufType): number => (isFloat(type) ? FLOATS[type] : QUANTISERS[type][0])

/** Rows of whole blocks, one after the other. */
export function pack(type: GgufType, x: Float64Array): Packed {
  if (isFloat(type)) {
    const { data, shape } = tensor(type, [x.length], x)
    return { bytes: data, values: numbers({ dtype: type, shape, data }) }
  }
  const [, elements, quantise] = QUANTISERS[type]
  if (x.length % elements !== 0) throw new Error(`${x.length} elements are no whole blocks of ${type}`)
  const values = new Float64Array(x.length)
  const blocks: Uint8Array[] = []
  for (let at = 0; at < x.length; at += elements) {
    const block = quantise(x.subarray(at, at + elements))
    values.set(block.values, at)
    blocks.push(block.bytes)
  }
  return { bytes: Buffer.concat(blocks), values }
}

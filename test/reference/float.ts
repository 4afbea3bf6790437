/** IEEE binary16 and bfloat16, exactly, by arithmetic on the value rather than on float32's bits. */
const FORMATS = {
  F16: { mantissaBits: 10, exponentBits: 5 },
  BF16: { mantissaBits: 7, exponentBits: 8 },
} as const

export type NarrowFloat = keyof typeof FORMATS

export function floatValue(format: NarrowFloat, bits: number): number {
  const { mantissaBits, exponentBits } = FORMATS[format]
  const bias = 2 ** (exponentBits - 1) - 1
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits & 0x7fff) >> mantissaBits
  const mantissa = bits & (2 ** mantissaBits - 1)
  if (exponent === 2 ** exponentBits - 1) return mantissa === 0 ? sign * Infinity : Number.NaN
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits)
  return sign * (2 ** mantissaBits + mantissa) * 2 ** (exponent - bias - mantissaBits)
}

/** The nearest representable value's bits, ties to even, overflow to infinity. */
export function floatBits(format: NarrowFloat, value: number): number {
  const { mantissaBits, exponentBits } = FORMATS[format]
  const bias = 2 ** (exponentBits - 1) - 1
  const infinity = (2 ** exponentBits - 1) << mantissaBits
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const magnitude = Math.abs(value)
  if (Number.isNaN(value)) return infinity | 1
  if (magnitude === Infinity) return sign | infinity
  // Subnormals share the smallest normal exponent; counting in units of the last place makes carries come out right.
  const exponent = Math.max(exponentOf(magnitude), 1 - bias)
  const units = roundHalfEven(magnitude / 2 ** (exponent - mantissaBits))
  const bits = ((exponent + bias - 1) << mantissaBits) + units
  return sign | Math.min(bits, infinity)
}

const scratch = new DataView(new ArrayBuffer(8))

/** floor(log2(x)) of a normal float64. */
function exponentOf(x: number): number {
  scratch.setFloat64(0, x)
  return ((scratch.getUint32(0) >>> 20) & 0x7ff) - 1023
}

function roundHalfEven(x: number): number {
  const down = Math.floor(x)
  const rest = x - down
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down
}

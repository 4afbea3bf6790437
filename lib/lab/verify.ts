/** An operation on one device, or a kernel of one's own, beside the CPU twin on the same random inputs. */
import { type Lab, type LabKernel, openLab, type Work } from './lab.ts'
import { describe, type ElementType } from './operations.ts'

export interface Verification {
  /** The worst output's. */
  ok: boolean
  outputs: {
    name: string
    /** Root of the mean square difference, relative to that of the twin's values. */
    relativeError: number
    largestDifference: number
    /** NaNs and infinities where the twin has numbers. */
    notNumbers: number
    /** Bytes after the output that the kernel has written. */
    overrun: number
    /** What relativeError must be below. */
    bound: number
  }[]
}

const GUARD_BYTES = 4096

/**
 * Runs the operation once on the lab and once on the CPU twin, outputs poisoned with NaNs before. `bound`: the relative error
 * that passes; default 1e-3, 2e-3 of float16 outputs.
 */
export async function verify(
  lab: Lab,
  operation: string,
  dimensions: Readonly<Record<string, number>>,
  options: { kernel?: LabKernel | undefined; seed?: number; bound?: number } = {},
): Promise<Verification> {
  const { kernel, seed = 1, bound } = options
  await using twin = await openLab({ device: 'cpu' })
  const expected = await run(twin, operation, dimensions, seed, undefined)
  const found = await run(lab, operation, dimensions, seed, kernel)
  const outputs = expected.map(({ name, type, values, padded }, index) => {
    const { values: theirs, overrun } = found[index]!
    const width = padded.stride
    let difference = 0
    let size = 0
    let largest = 0
    let notNumbers = 0
    for (let i = 0; i < values.length; i++) {
      if (width > 0 && i % width >= padded.width) continue
      const [want, have] = [values[i]!, theirs[i]!]
      if (Number.isNaN(want)) continue
      if (!Number.isFinite(have)) {
        notNumbers++
        continue
      }
      difference += (want - have) ** 2
      size += want ** 2
      largest = Math.max(largest, Math.abs(want - have))
    }
    const relativeError = Math.sqrt(difference / Math.max(size, Number.MIN_VALUE))
    return {
      name,
      relativeError: notNumbers > 0 ? Number.NaN : relativeError,
      largestDifference: largest,
      notNumbers,
      overrun,
      bound: bound ?? (type === 'f16' ? 2e-3 : type === 'i32' || type === 'u8' ? 1e-9 : 1e-3),
    }
  })
  return { ok: outputs.every((output) => output.relativeError < output.bound && output.overrun === 0), outputs }
}

interface Output {
  name: string
  type: ElementType
  values: Float64Array
  overrun: number
  /** Rows may be longer than what is written of them. */
  padded: { width: number; stride: number }
}

async function run(
  lab: Lab,
  operation: string,
  dimensions: Readonly<Record<string, number>>,
  seed: number,
  kernel: LabKernel | undefined,
): Promise<Output[]> {
  const problem = describe(operation, dimensions)
  const buffers: Record<string, Awaited<ReturnType<Lab['buffer']>>> = {}
  const stream = await lab.stream()
  try {
    for (const { name, bytes } of problem.arguments) {
      buffers[name] = await lab.buffer(bytes + GUARD_BYTES)
      await stream.fill({ buffer: buffers[name], offset: bytes }, 0xa5)
    }
    await stream.synchronize()
    const work: Work = { operation, dimensions: problem.dimensions, buffers, kernel }
    await lab.randomise(work, { seed })
    await stream.launch(work)
    await stream.synchronize()
    const outputs: Output[] = []
    for (const { name, access, type, bytes, shape } of problem.arguments) {
      if (access === 'in') continue
      const all = await buffers[name]!.read()
      const guard = new Uint8Array(all, bytes)
      outputs.push({
        name,
        type,
        values: toNumbers(type, all.slice(0, bytes)),
        overrun: guard.reduce((sum, byte) => sum + (byte === 0xa5 ? 0 : 1), 0),
        padded: paddingOf(operation, name, problem.dimensions, shape),
      })
    }
    return outputs
  } finally {
    // A device that is lost refuses these too; what went wrong first is what counts.
    const all = [stream, ...Object.values(buffers)].map((thing) => thing.release())
    await Promise.allSettled(all)
  }
}

/** Outputs whose rows are rounded up: nothing is promised of the rest. */
function paddingOf(operation: string, name: string, dimensions: Record<string, number>, shape: number[]) {
  const stride = shape[1] ?? 0
  if (name !== 'y') return { width: stride, stride }
  if (operation === 'rms_norm') return { width: dimensions.width!, stride }
  if (operation.startsWith('attention')) return { width: dimensions.heads! * dimensions.headDim!, stride }
  return { width: stride, stride }
}

/** A typed array's numbers, whatever its elements. */
export function toNumbers(type: ElementType, buffer: ArrayBuffer): Float64Array {
  if (type === 'f32') return Float64Array.from(new Float32Array(buffer))
  if (type === 'i32') return Float64Array.from(new Int32Array(buffer))
  if (type === 'u8') return Float64Array.from(new Uint8Array(buffer))
  return Float64Array.from(new Uint16Array(buffer), type === 'f16' ? halfToNumber : bfloat16ToNumber)
}

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const mantissa = bits & 1023
  if (exponent === 31) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1024 + mantissa) * 2 ** (exponent - 25)
}

const word = new DataView(new ArrayBuffer(4))
function bfloat16ToNumber(bits: number): number {
  word.setUint32(0, bits << 16)
  return word.getFloat32(0)
}

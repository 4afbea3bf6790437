/** From measured passes to a calibration: differences that leave one unknown each. */
import { type Calibration, type Curve, ROWS, type UnitCurves } from './calibration.ts'
import { type CostedUnit, simulatePass } from './predict.ts'

/** Bytes of one layer's units. */
export interface LayerBytes {
  attention: number
  feedForward: number
}

/** Seconds of passes at ROWS, of two models that differ in their number of layers alone. */
export interface FewAndMany {
  few: Curve
  many: Curve
}

export interface PerShape<T> {
  small: T
  large: T
}

/** Seconds of passes over small models of two widths. */
export interface Observations {
  threads: number
  layers: PerShape<{ few: number; many: number }>
  bytes: PerShape<LayerBytes & { head: number }>
  /** All on the GPU, replayed as a graph; and launched one by one, because the head is streamed. */
  replayed: PerShape<FewAndMany>
  launched: PerShape<FewAndMany>
  /** As `replayed.large.few` with a large head. */
  heads: { float: { bytes: number; seconds: Curve }; q4: { bytes: number; seconds: Curve } }
  /** `many` layers, feed-forwards on the CPU, all else resident. */
  cpu: PerShape<Curve>
  /** All layers streamed, one row: more bytes than caches of addresses on the way hold. */
  streamed: { bytes: number; seconds: number }
  /** Passes of one row in which link and CPU take DRAM from each other, in several mixtures. */
  mixed: { units: readonly CostedUnit[]; ringBytes: number; seconds: number }[]
  /** `many` large layers, resident: keys and values that the second pass reads beyond the first, both of equal rows. */
  kv: { bytes: number; near: number; far: number }
  /** `many` large layers, resident, from submission to the first token. Multiply-adds count two. */
  prompts: { short: Prompt; long: Prompt }
}

interface Prompt {
  seconds: number
  flops: number
  attentionFlops: number
}

const LEAST_SECONDS = 1e-7

export function fitCalibration(seen: Observations): Calibration {
  const { layers, bytes } = seen
  const replayed = fitUnits(seen, seen.replayed)
  const launched = fitUnits(seen, seen.launched)

  const layerOf = (curves: UnitCurves, { attention, feedForward }: LayerBytes, index: number) =>
    2 * curves.unitSeconds[index]! + (attention + feedForward) * curves.secondsPerByte[index]!
  // The same model without its head, for heads; and the step alone.
  const head = (which: 'float' | 'q4') =>
    ROWS.map((_, index) => {
      const { bytes: size, seconds } = seen.heads[which]
      const small = seen.replayed.large.few[index]!
      // The head that the other model has is a small part of this one.
      const share = which === 'float' ? size - bytes.large.head : size
      return Math.max((seconds[index]! - small) / share, 1e-14)
    })
  const float = head('float')
  const q4 = head('q4')
  const stepSeconds = ROWS.map((_, index) => {
    const { few } = seen.replayed.small
    const units = layers.small.few * layerOf(replayed, bytes.small, index) + bytes.small.head * float[index]!
    return Math.max(few[index]! - units, LEAST_SECONDS)
  })

  // What the CPU adds to a layer: a hop, and its feed-forward.
  const cpuLayer = (shape: 'small' | 'large', index: number) => {
    const unit = launched.unitSeconds[index]! + bytes[shape].attention * launched.secondsPerByte[index]!
    const rest = stepSeconds[index]! + bytes[shape].head * float[index]!
    return (seen.cpu[shape][index]! - rest) / layers[shape].many - unit
  }
  const [narrow, wide] = [cpuLayer('small', 0), cpuLayer('large', 0)]
  const slope = (wide - narrow) / (bytes.large.feedForward - bytes.small.feedForward)
  const hopSeconds = clamp(narrow - slope * bytes.small.feedForward, 10e-6, 200e-6)
  const bytesPerSecond = ROWS.map(
    (_, index) => bytes.large.feedForward / Math.max(cpuLayer('large', index) - hopSeconds, LEAST_SECONDS),
  )

  const { short, long } = seen.prompts
  const times = long.flops / short.flops
  const attentionFlops = long.attentionFlops - times * short.attentionFlops
  const attentionSeconds = Math.max(long.seconds - times * short.seconds, attentionFlops / 1e15)
  const attentionFlopsPerSecond = attentionFlops / attentionSeconds
  const linears = short.seconds - stepSeconds[0]! - short.attentionFlops / attentionFlopsPerSecond

  const alone: Calibration = {
    calibrated: true,
    link: { bytesPerSecond: seen.streamed.bytes / seen.streamed.seconds, besideCpu: 1 },
    hopSeconds,
    stepSeconds,
    cpu: { threads: seen.threads, bytesPerSecond, besideLink: 1 },
    launched,
    replayed,
    head: { float, q4 },
    kvBytesPerSecond: seen.kv.bytes / Math.max(seen.kv.far - seen.kv.near, seen.kv.bytes / 1e13),
    prefill: {
      flopsPerSecond: short.flops / Math.max(linears, short.flops / 1e16),
      attentionFlopsPerSecond,
    },
  }
  return fitSharing(alone, seen)
}

/** The shares that CPU and link leave each other: those with which the mixed passes come out best. */
function fitSharing(alone: Calibration, { mixed, threads }: Observations): Calibration {
  const decode = { rows: 1, context: 0, kvBytesPerToken: 0, threads }
  let best = alone
  let bestError = Number.POSITIVE_INFINITY
  for (let besideLink = 1; besideLink > 0.295; besideLink -= 0.02) {
    for (let besideCpu = 1; besideCpu > 0.795; besideCpu -= 0.02) {
      const tried: Calibration = {
        ...alone,
        link: { ...alone.link, besideCpu },
        cpu: { ...alone.cpu, besideLink },
      }
      const error = mixed.reduce((sum, { units, ringBytes, seconds }) => {
        return sum + Math.log(simulatePass(units, ringBytes, decode, tried) / Math.max(seconds, LEAST_SECONDS)) ** 2
      }, 0)
      if (error < bestError) [best, bestError] = [tried, error]
    }
  }
  return best
}

/** Two widths tell what a unit takes for itself from what its bytes take. */
function fitUnits({ layers, bytes }: Observations, seconds: PerShape<FewAndMany>): UnitCurves {
  const unitSeconds: number[] = []
  const secondsPerByte: number[] = []
  for (const [index] of ROWS.entries()) {
    const layer = (shape: 'small' | 'large') => {
      const { few, many } = seconds[shape]
      const difference = rising(many)[index]! - rising(few)[index]!
      return Math.max(difference / (layers[shape].many - layers[shape].few), LEAST_SECONDS)
    }
    const size = (shape: 'small' | 'large') => bytes[shape].attention + bytes[shape].feedForward
    const slope = (layer('large') - layer('small')) / (size('large') - size('small'))
    const fixed = (layer('small') - slope * size('small')) / 2
    // Wide layers are what matters.
    unitSeconds.push(Math.max(fixed, 0))
    secondsPerByte.push(fixed > 0 && slope > 0 ? slope : layer('large') / size('large'))
  }
  return { unitSeconds, secondsPerByte }
}

/** Fewer rows never take longer: where they seem to, something else took the time. */
function rising(curve: Curve): Curve {
  return curve.map((_, index) => Math.min(...curve.slice(index)))
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value))
}

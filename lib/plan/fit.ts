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
  /** Feed-forwards on the CPU, all else resident: of so many layers that no cache holds them. */
  cpu: PerShape<{ layers: number; seconds: Curve }>
  /** All layers streamed, one row: more bytes than caches of addresses on the way hold. */
  streamed: { bytes: number; seconds: number }
  /** Passes in which link and CPU take DRAM from each other, in several mixtures. */
  mixed: { units: readonly CostedUnit[]; ringBytes: number; rows: number; seconds: number }[]
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
    const { layers, seconds } = seen.cpu[shape]
    return (seconds[index]! - rest) / layers - unit
  }
  const [narrow, wide] = [cpuLayer('small', 0), cpuLayer('large', 0)]
  const slope = (wide - narrow) / (bytes.large.feedForward - bytes.small.feedForward)
  const hop = clamp(narrow - slope * bytes.small.feedForward, 10e-6, 200e-6)
  const bytesPerSecond = ROWS.map(
    (_, index) => bytes.large.feedForward / Math.max(cpuLayer('large', index) - hop, LEAST_SECONDS),
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
    hop: { seconds: hop, besideLink: 1 },
    stepSeconds,
    cpu: { threads: seen.threads, bytesPerSecond, besideLink: 1, besideLinkOfMany: 1 },
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

/** What link, CPU and hops leave each other: the shares with which the mixed passes come out best, one after the other. */
function fitSharing(alone: Calibration, { mixed, threads }: Observations): Calibration {
  const tried = ([cpu, many, link, hop]: Shares): Calibration => ({
    ...alone,
    link: { ...alone.link, besideCpu: link },
    cpu: { ...alone.cpu, besideLink: cpu, besideLinkOfMany: many },
    hop: { ...alone.hop, besideLink: hop },
  })
  const errorOf = (shares: Shares) =>
    mixed.reduce((sum, { units, ringBytes, rows, seconds }) => {
      const decode = { rows, context: 0, kvBytesPerToken: 0, threads }
      const predicted = simulatePass(units, ringBytes, decode, tried(shares))
      return sum + Math.log(predicted / Math.max(seconds, LEAST_SECONDS)) ** 2
    }, 0)
  let best: Shares = [0.8, 0.8, 0.9, 0.5]
  let bestError = errorOf(best)
  for (const step of [0.1, 0.05, 0.02, 0.01]) {
    for (let moved = true; moved; ) {
      moved = false
      for (const [at, least] of LEAST_SHARES.entries()) {
        for (const by of [-step, step]) {
          const next: Shares = [...best]
          next[at] = clamp(best[at]! + by, least, 1)
          const error = errorOf(next)
          if (error < bestError) [best, bestError, moved] = [next, error, true]
        }
      }
    }
  }
  return tried(best)
}

/** Left to the CPU, to the CPU with many rows, to the link, and to hops. */
type Shares = [number, number, number, number]
const LEAST_SHARES: Shares = [0.3, 0.3, 0.6, 0.2]

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

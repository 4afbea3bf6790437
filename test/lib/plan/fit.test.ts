import { expect, test } from 'vitest'
import type { Home } from '../../../lib/binding.ts'
import { type Calibration, ROWS } from '../../../lib/plan/calibration.ts'
import { fitCalibration, type Observations } from '../../../lib/plan/fit.ts'
import { spread } from '../../../lib/plan/homes.ts'
import { type CostedUnit, simulatePass } from '../../../lib/plan/predict.ts'

/** A machine whose passes take exactly what the model of cost says. */
const truth: Calibration = {
  calibrated: true,
  link: { bytesPerSecond: 50e9, besideCpu: 0.9 },
  hop: { seconds: 25e-6, besideLink: 0.4 },
  stepSeconds: ROWS.map((rows) => 60e-6 + rows * 1e-6),
  cpu: { threads: 16, bytesPerSecond: ROWS.map((rows) => 90e9 / rows ** 0.4), besideLink: 0.8, besideLinkOfMany: 0.7 },
  launched: {
    unitSeconds: ROWS.map((rows) => 9e-6 + rows * 1e-7),
    secondsPerByte: ROWS.map((rows) => 4e-13 + rows * 1e-14),
  },
  replayed: {
    unitSeconds: ROWS.map((rows) => 6e-6 + rows * 1e-7),
    secondsPerByte: ROWS.map((rows) => 4e-13 + rows * 1e-14),
  },
  head: { float: ROWS.map((rows) => 3e-13 + rows * 1e-14), q4: ROWS.map((rows) => 4e-13 + rows * 2e-14) },
  kvBytesPerSecond: 2e12,
  prefill: { flopsPerSecond: 500e12, attentionFlopsPerSecond: 300e12 },
}

const layers = { small: { few: 4, many: 12 }, large: { few: 2, many: 6 } }
const bytes = {
  small: { attention: 5e6, feedForward: 18e6, head: 2e6 },
  large: { attention: 21.6e6, feedForward: 90.8e6, head: 4e6 },
}
type Kind = CostedUnit['kind']

function unitsOf(
  shape: 'small' | 'large',
  count: number,
  home: (kind: Kind, layer: number) => Home,
  head = bytes[shape].head,
  type: 'f16' | 'q4' = 'f16',
): CostedUnit[] {
  const unit = (kind: Kind, layer: number, size: number): CostedUnit => {
    return { kind, home: home(kind, layer), bytes: size, types: [kind === 'head' ? type : 'q4'] }
  }
  return [
    ...Array.from({ length: count }, (_, layer) => [
      unit('attention', layer, bytes[shape].attention),
      unit('feedForward', layer, bytes[shape].feedForward),
    ]).flat(),
    unit('head', -1, head),
  ]
}

const mixtures: ['small' | 'large', number, number][] = [
  ['large', 16, 0],
  ['large', 12, 0],
  ['large', 7, 8],
  ['large', 8, 0],
  ['small', 16, 0],
  ['small', 8, 8],
]

function observe(): Observations {
  const pass = (units: CostedUnit[], rows = 1) =>
    simulatePass(units, 8 * 90.8e6, { rows, context: 0, kvBytesPerToken: 0, threads: 16 }, truth)
  const curve = (units: CostedUnit[]) => ROWS.map((rows) => pass(units, rows))
  const resident = () => 'resident' as const
  const launched = (kind: Kind) => (kind === 'head' ? 'streamed' : 'resident')
  const onCpu = (kind: Kind) => (kind === 'feedForward' ? 'cpu' : 'resident')
  const both = (shape: 'small' | 'large', home: (kind: Kind) => Home) => ({
    few: curve(unitsOf(shape, layers[shape].few, home)),
    many: curve(unitsOf(shape, layers[shape].many, home)),
  })
  const prompt = (times: number) => {
    const [flops, attentionFlops] = [1e13 * times, 1e11 * times * times]
    const linears = flops / truth.prefill.flopsPerSecond
    return {
      flops,
      attentionFlops,
      seconds: linears + attentionFlops / truth.prefill.attentionFlopsPerSecond + times * truth.stepSeconds[0]!,
    }
  }
  return {
    threads: 16,
    layers,
    bytes,
    replayed: { small: both('small', resident), large: both('large', resident) },
    launched: { small: both('small', launched), large: both('large', launched) },
    heads: {
      float: { bytes: 500e6, seconds: curve(unitsOf('large', 2, resident, 500e6)) },
      q4: { bytes: 140e6, seconds: curve(unitsOf('large', 2, resident, 140e6, 'q4')) },
    },
    cpu: {
      small: { layers: 40, seconds: curve(unitsOf('small', 40, onCpu)) },
      large: { layers: 16, seconds: curve(unitsOf('large', 16, onCpu)) },
    },
    streamed: {
      bytes: 28 * (bytes.large.attention + bytes.large.feedForward),
      seconds: pass(unitsOf('large', 28, (kind) => (kind === 'head' ? 'resident' : 'streamed'))),
    },
    mixed: mixtures.flatMap(([shape, cpu, resident]) => {
      const order = spread({ cpu, resident, streamed: 16 - cpu - resident })
      const units = unitsOf(shape, 16, (kind, layer) =>
        kind === 'head' ? 'resident' : kind === 'attention' ? 'streamed' : order[layer]!,
      )
      return [1, 8].map((rows) => ({ units, ringBytes: 8 * 90.8e6, rows, seconds: pass(units, rows) }))
    }),
    kv: { bytes: 4e8, near: 1e-3, far: 1e-3 + 4e8 / truth.kvBytesPerSecond },
    prompts: { short: prompt(1), long: prompt(3) },
  }
}

test('what passes take tells what they are made of', () => {
  const fit = fitCalibration(observe())
  const close = (found: number, expected: number, within: number) =>
    expect(Math.abs(found / expected - 1), `${found} for ${expected}`).toBeLessThan(within)
  close(fit.link.bytesPerSecond, 50e9, 0.01)
  close(fit.link.besideCpu, 0.9, 0.05)
  close(fit.cpu.besideLink, 0.8, 0.1)
  close(fit.cpu.besideLinkOfMany, 0.7, 0.1)
  close(fit.hop.seconds, 25e-6, 0.1)
  close(fit.hop.besideLink, 0.4, 0.3)
  close(fit.kvBytesPerSecond, 2e12, 0.01)
  close(fit.prefill.flopsPerSecond, 500e12, 0.02)
  close(fit.prefill.attentionFlopsPerSecond, 300e12, 0.1)
  for (const [index] of ROWS.entries()) {
    close(fit.launched.unitSeconds[index]!, truth.launched.unitSeconds[index]!, 0.03)
    close(fit.replayed.secondsPerByte[index]!, truth.replayed.secondsPerByte[index]!, 0.03)
    close(fit.cpu.bytesPerSecond[index]!, truth.cpu.bytesPerSecond[index]!, 0.03)
    close(fit.head.float[index]!, truth.head.float[index]!, 0.05)
    close(fit.head.q4[index]!, truth.head.q4[index]!, 0.05)
    close(fit.stepSeconds[index]!, truth.stepSeconds[index]!, 0.05)
  }
})

test('noise that turns a difference round gives figures all the same', () => {
  const seen = observe()
  const upside = {
    ...seen,
    launched: {
      small: { few: seen.launched.small.many, many: seen.launched.small.few },
      large: { few: seen.launched.large.many, many: seen.launched.large.few },
    },
    kv: { ...seen.kv, far: 0 },
    mixed: seen.mixed.map((pass) => ({ ...pass, seconds: 0 })),
  }
  const check = (value: unknown): void => {
    if (typeof value === 'number') expect(value).toBeGreaterThanOrEqual(0)
    if (typeof value === 'number') expect(Number.isFinite(value)).toBe(true)
    if (typeof value === 'object' && value !== null) for (const inner of Object.values(value)) check(inner)
  }
  check(fitCalibration(upside))
})

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Home } from '../../../lib/binding.ts'
import { type Calibration, type Curve, ROWS } from '../../../lib/plan/calibration.ts'
import { spread } from '../../../lib/plan/homes.ts'
import {
  at,
  boundSeconds,
  breakEvenRows,
  passParts,
  predictDecode,
  predictPrefill,
  simulatePass,
} from '../../../lib/plan/predict.ts'
import { calibration as guesses, program, unitsOf } from './fixture.ts'

const flat = (value: number): Curve => ROWS.map(() => value)
/** Round figures: a unit of 100 takes 1 s over the link, 0.1 s on the GPU, 2 s on the CPU. */
const calibration: Calibration = {
  calibrated: true,
  link: { bytesPerSecond: 100, besideCpu: 1 },
  hop: { seconds: 0.05, besideLink: 1 },
  stepSeconds: flat(0),
  cpu: { threads: 4, bytesPerSecond: flat(50), besideLink: 1, besideLinkOfMany: 1 },
  launched: { unitSeconds: flat(0), secondsPerByte: flat(0.001) },
  replayed: { unitSeconds: flat(0), secondsPerByte: flat(0.0005) },
  head: { float: flat(0.001), q4: flat(0.002) },
  kvBytesPerSecond: 1e6,
  prefill: { flopsPerSecond: 1e9, attentionFlopsPerSecond: 1e9 },
}
const decode = { rows: 1, context: 0, kvBytesPerToken: 0, threads: 4 }
const units = unitsOf(8, 100, 100, 100)
const withHomes = (homes: readonly Home[]) => units.map((unit, index) => ({ ...unit, home: homes[index]! }))
const all = (layers: Home) => withHomes(units.map(({ kind }) => (kind === 'head' ? 'resident' : layers)))

test('two devices copy side by side: as fast as the links together, as long as the GPUs wait for them', () => {
  const one = all('streamed')
  const two = one.map((unit) => ({ ...unit, device: `cuda:${(unit.kind === 'head' ? 7 : Number(unit.layer)) % 2}` }))
  const alone = predictDecode(one, 400, decode, calibration)
  const both = predictDecode(two, 400, decode, calibration)
  expect(alone).toMatchObject({ linkSeconds: 16, boundBy: 'link' })
  expect(both).toMatchObject({ linkSeconds: 8, boundBy: 'link' })
  expect(both.hopSeconds).toBeCloseTo(7 * 0.025)
  expect(alone.passSeconds / both.passSeconds).toBeGreaterThan(1.95)
  // Bunched, either link waits for the other half of the pass.
  const bunched = one.map((unit, index) => ({ ...unit, device: index < 8 ? 'cuda:0' : 'cuda:1' }))
  expect(predictDecode(bunched, 400, decode, calibration).passSeconds).toBeGreaterThan(1.3 * both.passSeconds)
  expect(breakEvenRows(program, two, calibration)).toBe(Math.ceil(breakEvenRows(program, one, calibration) / 2))
})

test('curves are straight between the rows that are known, and go on half as fast as they end, or by 0.6 of a row', () => {
  const curve: number[] = ROWS.map((rows) => 10 * rows)
  expect([1, 2, 3, 6, 24, 64, 100].map((rows) => at(curve, rows))).toEqual([10, 20, 30, 60, 240, 640, 640 + 36 * 6])
  expect(
    at(
      ROWS.map((rows) => rows ** 2),
      100,
    ),
  ).toBe(64 ** 2 + (36 * (64 ** 2 - 32 ** 2)) / 32 / 2)
  expect(at(curve.toReversed(), 64 * 2)).toBe(16)
})

describe('a pass', () => {
  test('resident: the sum of its units', () => {
    expect(simulatePass(all('resident'), 0, decode, calibration)).toBeCloseTo(16 * 0.05 + 0.1, 6)
    expect(predictDecode(all('resident'), 0, decode, calibration).boundBy).toBe('gpu')
  })

  test('streamed: the link, with any ring of two units', () => {
    const predicted = predictDecode(all('streamed'), 200, { ...decode, rows: 8 }, calibration)
    expect(predicted.passSeconds).toBeCloseTo(16, 2)
    expect(predicted).toMatchObject({ boundBy: 'link', linkSeconds: 16, batch: 8 })
    expect(predicted.tokensPerSecond).toBeCloseTo(0.5, 2)
  })

  test('a ring of one unit copies and computes by turns', () => {
    expect(simulatePass(all('streamed'), 100, decode, calibration)).toBeCloseTo(16 * 1.1, 1)
  })

  test('CPU and link side by side, with hops', () => {
    const half = withHomes(units.map(({ kind }) => (kind === 'feedForward' ? 'cpu' : 'streamed')))
    const parts = passParts(half, decode, calibration)
    expect(parts).toMatchObject({ streamedBytes: 900, cpuSeconds: 16, hops: 8 })
    expect(simulatePass(half, 400, decode, calibration)).toBeCloseTo(16 + 0.9 + 8 * 0.05, 1)
  })

  test('fewer threads read less of what they share', () => {
    const cpu = all('cpu')
    const with2 = passParts(cpu, { ...decode, threads: 2 }, calibration).cpuSeconds
    const with4 = passParts(cpu, decode, calibration).cpuSeconds
    expect(with2 / with4).toBeGreaterThan(1)
    expect(with2 / with4).toBeLessThan(2)
  })

  test('longer contexts take the time of their keys and values', () => {
    const long = { ...decode, rows: 2, context: 1000, kvBytesPerToken: 50 }
    const [far, near] = [long, { ...long, context: 0 }].map((rows) =>
      simulatePass(all('resident'), 0, rows, calibration),
    )
    expect(far! - near!).toBeCloseTo(0.1, 6)
  })

  test('spread evenly it takes what its bound says; in any order no less', () => {
    const coupled: Calibration = {
      ...calibration,
      link: { bytesPerSecond: 100, besideCpu: 0.9 },
      cpu: { ...calibration.cpu, besideLink: 0.8 },
    }
    const counts = fc.record({ resident: fc.nat(20), cpu: fc.nat(20), streamed: fc.nat(20) })
    fc.assert(
      fc.property(counts, fc.boolean(), (counts, even) => {
        const order = even
          ? spread(counts)
          : (Object.keys(counts) as (keyof typeof counts)[]).flatMap((home) =>
              new Array<typeof home>(counts[home]).fill(home),
            )
        const many = order.map((home) => ({ kind: 'feedForward' as const, types: ['q4' as const], bytes: 100, home }))
        if (many.length === 0) return
        const bound = boundSeconds(passParts(many, decode, coupled), 1, coupled)
        const seconds = simulatePass(many, 400, decode, coupled)
        expect(seconds).toBeGreaterThan(bound * 0.93)
        if (even) expect(seconds).toBeLessThan(bound * 1.12)
      }),
    )
  })
})

/**
 * Median passes of an H100 beside 16 cores, 2026-11-23, contexts of 64 to 88 tokens: homes by layer (resident, streamed, cpu)
 * of attention and feed-forwards, the head resident. The guesses were fitted to passes of this kind.
 */
const SHAPES = {
  '1.1B': { attention: 4874240, feedForward: 17850368, head: 131080192, kvBytesPerToken: 22528 },
  '8B': { attention: 21643264, feedForward: 90849280, head: 1050689536, kvBytesPerToken: 131072 },
  '13B': { attention: 54087680, feedForward: 109506560, head: 327700480, kvBytesPerToken: 819200 },
}
const MEASURED: [
  shape: keyof typeof SHAPES,
  rows: number,
  attention: string,
  ff: string,
  ringUnits: number,
  ms: number,
][] = [
  ['8B', 1, 'r'.repeat(32), 'r'.repeat(32), 0, 2.02],
  ['8B', 1, 's'.repeat(32), 's'.repeat(32), 2, 65.57],
  ['1.1B', 1, 's'.repeat(22), 's'.repeat(22), 2, 9.21],
  ['8B', 1, 'srsrsrsrsrsrsrssrsrsrsrsrsrsrsrs', 'crcrcscrcrcscrcrcscrcrcscrcrcrcs', 2, 18.04],
  ['8B', 1, 'ssrsssrssrsssrssrsssrssrsssrssrs', 'rrcrrrcrrcrrrcrrcrrrcrrcrrrcrrrc', 2, 11.88],
  ['8B', 1, 'ssrsssrsssrsssrsssrsssrsssrsssrs', 'cccsccrccsccrccscccsccrccsccrccs', 2, 26.0],
  ['8B', 1, 'r'.repeat(32), 'rrrcrrsrrcrrcrrsrrrcrrsrrcrrcrrs', 2, 8.03],
  ['13B', 1, 'rsrsrrsrsrsrrsrsrsrrsrsrsrrsrsrsrrsrsrrs', 'rcrrcrrcrrcrrcrrcrrcrcrrcrrcrrcrrcrrcrrc', 2, 20.26],
  ['1.1B', 1, 's'.repeat(22), 'rrrrcrrrrrcrrrrcrrrrrc', 2, 2.03],
  ['1.1B', 1, 'sssrsssrssssrsssrsssrs', 'crscrcrscrcsrcrcsrcrcs', 2, 3.36],
  ['13B', 8, 'sssrsssrssssrsssrssssrsssrssssrsssrsssrs', 'rrcrrcrrcrrcrrcrrcrrcrrcrrcrrcrrcrrcrrrc', 2, 45.29],
  ['8B', 8, 'srsrsrssrsrsrsrssrsrsrssrsrsrsrs', 'rrcrrsrcrrsrcrrcrrsrrcrsrrcrrcrs', 2, 22.0],
]

test.each(MEASURED)(
  '%s, %i rows, attention %s, feed-forwards %s: as measured',
  (shape, rows, attention, ff, ring, ms) => {
    const { kvBytesPerToken, head, ...sizes } = SHAPES[shape]
    const letters: Record<string, Home> = { r: 'resident', s: 'streamed', c: 'cpu' }
    const placed = unitsOf(attention.length, sizes.attention, sizes.feedForward, head).map((unit) => ({
      ...unit,
      home:
        unit.kind === 'head'
          ? ('resident' as const)
          : letters[(unit.kind === 'attention' ? attention : ff)[unit.layer]!]!,
    }))
    const decode = { rows, context: 76, kvBytesPerToken, threads: 16 }
    const predicted = 1000 * simulatePass(placed, ring * sizes.feedForward, decode, guesses)
    expect(Math.abs(predicted / ms - 1), `${predicted} ms`).toBeLessThan(0.1)
  },
)

describe('a prompt', () => {
  test('break-even: as many rows as compute while the link copies', () => {
    expect(breakEvenRows(program, all('resident'), calibration)).toBe(0)
    const rows = breakEvenRows(program, all('streamed'), calibration)
    const prefill = predictPrefill(program, all('streamed'), rows, rows, calibration)
    const flops = 2 * rows * 4 * (64 * 16 * 2 * 6 + 3 * 64 * 128) + 4 * rows * 512 * 64 * 4
    expect(flops / 1e9 / 16).toBeCloseTo(1, 1)
    expect(rows / prefill.tokensPerSecond).toBeGreaterThanOrEqual(16)
  })

  test('units of the CPU pass through the ring, and every step brings all of them again', () => {
    const { tokensPerSecond, boundBy } = predictPrefill(program, all('cpu'), 200, 100, calibration)
    expect({ tokensPerSecond, boundBy }).toEqual({ tokensPerSecond: 200 / 32, boundBy: 'link' })
  })
})

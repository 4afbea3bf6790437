import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fastestHomes, type Placed, place, spread } from '../../../lib/plan/homes.ts'
import { boundSeconds, passParts, simulatePass } from '../../../lib/plan/predict.ts'
import { calibration, unitsOf } from './fixture.ts'

test('spread: every prefix has its share of each, within one', () => {
  const counts = fc.record({ a: fc.nat(40), b: fc.nat(40), c: fc.nat(40) })
  fc.assert(
    fc.property(counts, (counts) => {
      const order = spread(counts)
      const total = counts.a + counts.b + counts.c
      expect(order.length).toBe(total)
      for (const name of ['a', 'b', 'c'] as const) {
        let given = 0
        for (const [index, chosen] of order.entries()) {
          if (chosen === name) given++
          expect(Math.abs(given - ((index + 1) * counts[name]) / total)).toBeLessThan(1 + 1e-9)
        }
        expect(given).toBe(counts[name])
      }
    }),
  )
})

describe('auto', () => {
  const decode = { rows: 1, context: 512, kvBytesPerToken: 131072, threads: 16 }
  // An 8B model's layers.
  const units = unitsOf(32, 21.6e6, 90.8e6, 1.05e9)
  const rowsOf = fc.constantFrom(1, 8, 64)
  const sizeOf = ({ residentBytes, ringBytes }: Placed) => residentBytes + ringBytes
  const secondsOf = ({ homes }: Placed, rows: number) =>
    boundSeconds(
      passParts(
        units.map((unit, index) => ({ ...unit, home: homes[index]! })),
        { ...decode, rows },
        calibration,
      ),
      rows,
      calibration,
    )

  test('never takes more than it may, and more room is never slower', () => {
    fc.assert(
      fc.property(rowsOf, fc.integer({ min: 1, max: 50 }), (rows, tenths) => {
        const room = tenths * 1e8
        const found = fastestHomes(units, undefined, room, { ...decode, rows }, calibration)
        if (!found) {
          expect(room).toBeLessThan(1.05e9 + 2 * 90.8e6 + 4e6)
          return
        }
        expect(sizeOf(found)).toBeLessThanOrEqual(room)
        const more = fastestHomes(units, undefined, room + 2e8, { ...decode, rows }, calibration)!
        // The CPU is left alone for small gains.
        expect(secondsOf(more, rows)).toBeLessThanOrEqual(secondsOf(found, rows) * 1.151)
      }),
      { numRuns: 40 },
    )
  })

  test('beats both plain answers, and every unit has a home that it may have', () => {
    const room = 2.5e9
    const found = fastestHomes(units, undefined, room, decode, calibration)!
    const streamed = place(
      units,
      units.map(({ kind }) => (kind === 'head' ? 'resident' : 'streamed')),
      undefined,
      true,
    )
    expect(secondsOf(found, 1)).toBeLessThan(0.5 * secondsOf(streamed, 1))
    for (const [index, { kind }] of units.entries()) {
      if (kind !== 'feedForward') expect(found.homes[index]).not.toBe('cpu')
    }
  })

  test('what a smaller ring leaves serves residency, if that is faster', () => {
    const ringOf = (room: number, ring?: number) => fastestHomes(units, ring, room, decode, calibration)!
    const seconds = ({ homes, ringBytes }: Placed) =>
      simulatePass(
        units.map((unit, index) => ({ ...unit, home: homes[index]! })),
        ringBytes,
        decode,
        calibration,
      )
    for (const room of [1.8e9, 2.5e9, 3.2e9, 3.9e9]) {
      const found = ringOf(room)
      for (const ring of [2, 3, 4]) expect(seconds(found)).toBeLessThanOrEqual(seconds(ringOf(room, ring)) * 1.051)
    }
  })

  test('64 sequences leave the CPU alone: it would take longer than the link', () => {
    const found = fastestHomes(units, undefined, 2.5e9, { ...decode, rows: 64 }, calibration)!
    expect(found.homes).not.toContain('cpu')
  })

  test('the head is streamed where nothing else fits', () => {
    const small = unitsOf(4, 1e6, 4e6, 9e6)
    expect(fastestHomes(small, undefined, 19e6, decode, calibration)!.homes.at(-1)).toBe('resident')
    expect(fastestHomes(small, undefined, 13.5e6, decode, calibration)).toMatchObject({ ringBytes: 13e6 })
    expect(fastestHomes(small, undefined, 12e6, decode, calibration)).toBeUndefined()
    // A ring of one unit has room for the head by itself.
    expect(fastestHomes(small, 1, 9e6, decode, calibration)!.homes.at(-1)).toBe('streamed')
  })
})

test('the ring has room for more units beside the CPU', () => {
  const units = unitsOf(8, 10, 30, 20)
  const ring = (feedForward: 'cpu' | 'streamed') =>
    place(
      units,
      units.map(({ kind }) => (kind === 'head' ? 'resident' : kind === 'attention' ? 'streamed' : feedForward)),
      undefined,
      true,
    ).ringBytes
  expect([ring('streamed'), ring('cpu')]).toEqual([60, 120])
})

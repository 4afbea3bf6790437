/** Routing that is drawn, what a cache finds of it, and logs of it. */
import { describe, expect, test } from 'vitest'
import { parseRoutes, replayHits, routesThatHit, uniformRoutes } from '../../../lib/plan/routes.ts'

const sizes = { mixtures: 6, experts: 32, chosen: 4 }
const ALL = sizes.mixtures * sizes.experts

describe('routes that are drawn', () => {
  test('even ones choose every expert as often, none twice, and no other ones the next time', () => {
    const { ids, entries } = uniformRoutes(sizes, 2000)
    const counts = new Array(ALL).fill(0)
    for (let entry = 0; entry < entries; entry++) {
      for (let mixture = 0; mixture < sizes.mixtures; mixture++) {
        const at = (entry * sizes.mixtures + mixture) * sizes.chosen
        const row = [...ids.subarray(at, at + sizes.chosen)]
        expect(new Set(row).size).toBe(sizes.chosen)
        for (const expert of row) counts[mixture * sizes.experts + expert]++
      }
    }
    // 250 each: within five deviations of a binomial.
    for (const count of counts) expect(Math.abs(count - 250)).toBeLessThan(5 * Math.sqrt(250))
    expect(uniformRoutes(sizes, 2000).ids).toEqual(ids)
    expect(uniformRoutes(sizes, 2000, 2).ids).not.toEqual(ids)
  })

  test('a cache by recency finds of even ones the share that it holds', () => {
    const routes = uniformRoutes(sizes, 2000)
    for (const share of [0.25, 0.5, 0.75]) {
      expect(Math.abs(replayHits(routes, share * ALL) - share)).toBeLessThan(0.05)
    }
    expect(replayHits(routes, 0)).toBe(0)
    expect(replayHits(routes, ALL)).toBe(1)
  })

  test.each([0.5, 0.65, 0.9, 0.97])('of others it finds %d', (hits) => {
    const routes = routesThatHit(sizes, 1000, ALL / 3, hits)
    expect(Math.abs(replayHits(routes, ALL / 3) - hits)).toBeLessThan(0.02)
  })

  test('rows of one pass ask for an expert once', () => {
    const ids = Uint16Array.from([0, 1, 0, 1, 2, 3, 0, 1])
    const one = { mixtures: 1, experts: 4, chosen: 2, entries: 4, ids }
    // One row a pass: of 2 3 nothing, of 0 1 all. Two: of 0 1 2 3 the first two.
    expect(replayHits({ ...one, passes: Uint32Array.from([0, 1, 2, 3]) }, 4)).toBe(0.5)
    expect(replayHits({ ...one, passes: Uint32Array.from([0, 0, 1, 1]) }, 4)).toBe(0.5)
    expect(replayHits({ ...one, passes: Uint32Array.from([0, 0, 1, 1]) }, 2)).toBe(0)
  })
})

describe('a log of routes', () => {
  const file = (head: object, ...records: [pass: number, position: number, ids: number[]][]) => {
    const parts = records.map(([pass, position, ids]) =>
      Buffer.concat([Buffer.from(Uint32Array.of(pass, position).buffer), Buffer.from(Uint16Array.from(ids).buffer)]),
    )
    return Buffer.concat([Buffer.from(`${JSON.stringify(head)}\n`), ...parts])
  }

  test('is read as it was written', () => {
    const head = { millraceRoutes: 1, mixtures: 2, experts: 9, chosen: 2 }
    const found = parseRoutes(file(head, [7, 0, [1, 2, 3, 4]], [7, 1, [5, 6, 7, 8]], [8, 2, [0, 8, 1, 7]]), 'a log')
    expect(found).toEqual({
      mixtures: 2,
      experts: 9,
      chosen: 2,
      entries: 3,
      passes: Uint32Array.from([7, 7, 8]),
      ids: Uint16Array.from([1, 2, 3, 4, 5, 6, 7, 8, 0, 8, 1, 7]),
    })
  })

  test.each([
    ['of something else', Buffer.from('{"a": 1}\n12345678901234567890')],
    ['no text at all', Buffer.from([1, 2, 3])],
    ['without rows', file({ millraceRoutes: 1, mixtures: 2, experts: 9, chosen: 2 })],
  ])('%s is refused', (_, bytes) => {
    expect(() => parseRoutes(bytes, 'a log')).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
  })
})

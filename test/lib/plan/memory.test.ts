import { describe, expect, test } from 'vitest'
import { megabytesOf } from '../../../lib/plan/megabytes.ts'
import { checkMemory } from '../../../lib/plan/memory.ts'

const GB = 1e9
const need = { device: 'cpu', hostBytes: 4 * GB, kvBytes: 2 * GB, kvSwapBytes: 0, ringBytes: 0.5 * GB }
const memory = (availableBytes: number, limitBytes = 16 * GB) => ({ availableBytes, limitBytes })

describe('checkMemory', () => {
  test('what is free must hold weights, KV cache and ring on the CPU, and something to work in', () => {
    checkMemory(need, memory(6.8 * GB), false)
    expect(() => checkMemory(need, memory(6.5 * GB), false)).toThrow(
      expect.objectContaining({
        code: 'OUT_OF_MEMORY',
        message:
          'the model needs 6500 MB of RAM (weights 4000 MB, KV cache 2000 MB, ring 500 MB) and 268 MB to work in; of the 16000 MB that this process may use 6500 MB are free',
        remedy: expect.stringMatching(/^close other models or programs/),
      }),
    )
  })

  test('with a GPU the weights alone', () => {
    checkMemory({ ...need, device: 'cuda:0' }, memory(4.3 * GB), false)
    expect(() => checkMemory({ ...need, device: 'cuda:0' }, memory(4.1 * GB), false)).toThrow(
      /^the model needs 4000 MB of RAM \(weights 4000 MB\) and/,
    )
  })

  test('what preempted requests may take counts, on either', () => {
    const swap = { ...need, kvSwapBytes: 1 * GB }
    checkMemory(swap, memory(7.8 * GB), false)
    expect(() => checkMemory(swap, memory(7.6 * GB), false)).toThrow(/needs 7500 MB of RAM .*, kvSwap 1000 MB\)/)
    expect(() => checkMemory({ ...swap, device: 'cuda:0' }, memory(5.2 * GB), false)).toThrow(
      /needs 5000 MB of RAM \(weights 4000 MB, kvSwap 1000 MB\)/,
    )
  })

  test('weights that this process has already are not taken again', () => {
    checkMemory(need, memory(2.8 * GB), true)
    expect(() => checkMemory(need, memory(2.4 * GB), true)).toThrow(
      /needs 2500 MB of RAM \(KV cache 2000 MB, ring 500 MB\)/,
    )
  })

  test('what can never fit is told apart, and small models need little to work in', () => {
    expect(() => checkMemory(need, memory(3 * GB, 6 * GB), false)).toThrow(
      expect.objectContaining({ remedy: expect.stringMatching(/or choose a smaller model$/) }),
    )
    checkMemory({ device: 'cpu', hostBytes: 8e6, kvBytes: 2e6, kvSwapBytes: 0, ringBytes: 0 }, memory(12e6), false)
  })
})

test('what is told sums up to what is told of all', () => {
  const figures = (text: string) => [...text.matchAll(/([\d.]+) MB/g)].map(([, figure]) => Number(figure))
  for (const scale of [1e6, 1e7, 9.9e7, 1e8, 1e9, 1e11]) {
    for (let round = 1; round <= 50; round++) {
      const parts = { a: (scale * round) / 7, b: (scale * round) / 13, c: (scale * round) / 17, none: 0 }
      const told = megabytesOf(parts)
      const [sum] = figures(told.sum) as [number]
      const shown = figures(told.parts)
      expect(shown.reduce((all, one) => all + one, 0)).toBeCloseTo(sum, 6)
      const exact = (parts.a + parts.b + parts.c) / 1e6
      expect(Math.abs(sum - exact)).toBeLessThan(exact < 100 ? 0.1501 : 1.5001)
      expect(told.parts).not.toContain('none')
    }
  }
})

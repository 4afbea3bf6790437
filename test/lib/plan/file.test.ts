import { describe, expect, test } from 'vitest'
import type { Home } from '../../../lib/binding.ts'
import { fileBytesPerPass, unitsInFile } from '../../../lib/plan/file.ts'
import { type Machine, makePlan } from '../../../lib/plan/plan.ts'
import { prefillWithDisk, withDisk } from '../../../lib/plan/predict.ts'
import * as fixture from './fixture.ts'

const MiB = 2 ** 20
const KINDS = ['attention', 'feedForward'] as const
/** Layers of 1 and 3 MiB, and a head of 8. */
function units(homes: readonly Home[], device = 'cpu') {
  const layers = homes.slice(0, -1).map((home, index) => {
    const kind = KINDS[index % 2]!
    return { name: '', kind, layer: index >> 1, bytes: (kind === 'attention' ? 1 : 3) * MiB, home }
  })
  const head = { name: 'head', kind: 'head' as const, layer: -1, bytes: 8 * MiB, home: homes.at(-1)! }
  return [...layers, head].map((unit) => ({ ...unit, kvClass: 0, types: ['q4' as const], device }))
}
const all = (home: Home) => new Array<Home>(17).fill(home)

describe('which units stay in the file', () => {
  test('evenly over the pass, with room for the window that they are read into', () => {
    const chosen = unitsInFile(units(all('resident')), ['cpu'], 7 * MiB)!
    // Three of the largest: 9 MiB, so half of the 32 MiB of the layers have to go.
    expect(chosen.windowBytes).toEqual([9 * MiB])
    const bytes = units(all('resident')).map((unit, index) => (chosen.inFile[index] ? unit.bytes / MiB : 0))
    expect(bytes.reduce((sum, one) => sum + one, 0)).toBeGreaterThanOrEqual(16)
    for (let layer = 0; layer < 8; layer += 2) {
      const four = bytes.slice(2 * layer, 2 * layer + 4).reduce((sum, one) => sum + one, 0)
      expect(four).toBeGreaterThanOrEqual(3)
      expect(four).toBeLessThanOrEqual(5)
    }
    expect(chosen.inFile.at(-1)).toBe(false)
  })

  test('where RAM is short the window is smaller, and at its end there is no way', () => {
    // All of 32 MiB: less 9 leaves 23 MiB, less 6 leaves 26, less 3 leaves 29.
    for (const [excess, window] of [
      [23, 9],
      [24, 6],
      [26, 6],
      [29, 3],
    ] as const) {
      const chosen = unitsInFile(units(all('resident')), ['cpu'], excess * MiB)!
      expect(chosen.windowBytes).toEqual([window * MiB])
      expect(chosen.inFile.slice(0, 16).filter(Boolean).length).toBeGreaterThan(14)
    }
    expect(unitsInFile(units(all('resident')), ['cpu'], 29 * MiB + 1)).toBeUndefined()
  })

  test('what a GPU has for good goes first: passes read nothing of it', () => {
    const homes = all('streamed').map((home, index) => (index % 4 < 2 ? 'resident' : home))
    const on = units(homes, 'cuda:0')
    const chosen = unitsInFile(on, ['cuda:0'], 6 * MiB)!
    expect(chosen.inFile.map((file, index) => (file ? homes[index] : '')).filter(Boolean)).toEqual(
      new Array(8).fill('resident'),
    )
    const filed = on.map((unit, index) => (chosen.inFile[index] ? { ...unit, inFile: true } : unit))
    expect(fileBytesPerPass(filed)).toBe(0)
    // 16 MiB of them, 9 for the window: a byte more has to be streamed from the file.
    const more = unitsInFile(on, ['cuda:0'], 7 * MiB + 1)!
    const read = on.map((unit, index) => (more.inFile[index] ? { ...unit, inFile: true } : unit))
    expect(fileBytesPerPass(read)).toBe(1 * MiB)
  })

  test('never what a CPU computes beside a GPU, and experts on demand', () => {
    for (const home of ['cpu', 'demand'] as const) {
      expect(unitsInFile(units(all(home), 'cuda:0'), ['cuda:0'], 1)).toBeUndefined()
    }
  })
})

describe('a plan within ramBudget', () => {
  const { program, slabs, machine } = fixture
  const large = { ...slabs, units: slabs.units.map((unit) => ({ ...unit, bytes: unit.bytes * 1024 })) }
  const on = (options: object, more: Partial<Machine> = {}) =>
    makePlan(program, large, { kvSwap: 0, ...options }, { ...machine, ...more })
  const whole = on({})

  test('takes no more than that', () => {
    const beside = whole.kvBytes
    const ramBudget = whole.hostBytes + beside - 4 * MiB
    const made = on({ ramBudget })
    expect(made.fileBytes).toBeGreaterThan(4 * MiB)
    expect(made.hostBytes).toBe(whole.hostBytes - made.fileBytes)
    expect(made.hostBytes + made.windowBytes + beside).toBeLessThanOrEqual(ramBudget)
    expect(made.fileBytesPerPass).toBe(made.fileBytes)
    expect(made.units.filter(({ inFile }) => inFile).reduce((sum, { bytes }) => sum + bytes, 0)).toBe(made.fileBytes)
  })

  test('keeps all in RAM where it fits, and is refused where not even the rest does', () => {
    expect(on({ ramBudget: whole.hostBytes + whole.kvBytes })).toMatchObject({ fileBytes: 0, windowBytes: 0 })
    expect(() => on({ ramBudget: 1000 })).toThrow(/ramBudget is/)
    // Without a budget nothing is left there: it is slow, and the user's word.
    expect(() => on({}, { memoryLimitBytes: whole.hostBytes - 1 })).toThrow(/this process may use/)
  })

  test('is as fast as the disk, where that is slower than all else', () => {
    const ramBudget = whole.hostBytes + whole.kvBytes - 4 * MiB
    const made = on({ ramBudget }, { diskBytesPerSecond: 1e6 })
    const seconds = made.fileBytesPerPass / 1e6
    expect(made.prediction.single).toMatchObject({ boundBy: 'disk', diskSeconds: seconds, passSeconds: seconds })
    expect(made.prediction.single.tokensPerSecond).toBeCloseTo(1 / seconds, 9)
    const fast = on({ ramBudget }, { diskBytesPerSecond: 1e15 })
    expect(fast.prediction.single).toMatchObject({ boundBy: 'cpu', passSeconds: whole.prediction.single.passSeconds })
  })
})

test('reading goes on beside a pass', () => {
  const pass = {
    batch: 4,
    tokensPerSecond: 40,
    passSeconds: 0.1,
    linkSeconds: 0,
    gpuSeconds: 0.1,
    cpuSeconds: 0,
    hopSeconds: 0,
    diskSeconds: 0,
    boundBy: 'gpu' as const,
  }
  expect(withDisk(pass, 0.05)).toEqual({ ...pass, diskSeconds: 0.05 })
  expect(withDisk(pass, 0.4)).toMatchObject({ tokensPerSecond: 10, passSeconds: 0.4, boundBy: 'disk' })
  const prompt = { tokens: 1000, tokensPerSecond: 500, boundBy: 'gpu' as const }
  expect(prefillWithDisk(prompt, 1.9)).toEqual(prompt)
  expect(prefillWithDisk(prompt, 4)).toEqual({ tokens: 1000, tokensPerSecond: 250, boundBy: 'disk' })
})

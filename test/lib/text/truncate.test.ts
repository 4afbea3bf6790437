import fc from 'fast-check'
import { expect, test } from 'vitest'
import { promptRoom, truncatePrompt } from '../../../lib/text/truncate.ts'

const tokens = (count: number) => Int32Array.from({ length: count }, (_, index) => index)

test('takes from the start or from the middle, and spares the first token if asked to', () => {
  expect([...truncatePrompt(tokens(8), 4, 'start', false)]).toEqual([4, 5, 6, 7])
  expect([...truncatePrompt(tokens(8), 4, 'start', true)]).toEqual([0, 5, 6, 7])
  expect([...truncatePrompt(tokens(8), 4, 'middle', false)]).toEqual([0, 1, 6, 7])
  expect([...truncatePrompt(tokens(8), 5, 'middle', true)]).toEqual([0, 1, 2, 6, 7])
  expect([...truncatePrompt(tokens(8), 1, 'start', true)]).toEqual([7])
})

test('gives the room exactly, in order, and leaves alone what fits', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 50 }),
      fc.integer({ min: 1, max: 50 }),
      fc.constantFrom('start' as const, 'middle' as const),
      fc.boolean(),
      (length, room, which, keepFirst) => {
        const kept = truncatePrompt(tokens(length), room, which, keepFirst)
        expect(kept).toHaveLength(Math.min(length, room))
        expect([...kept]).toEqual([...kept].sort((a, b) => a - b))
        expect(new Set(kept).size).toBe(kept.length)
        expect(kept.at(-1)).toBe(which === 'middle' && room === 1 && length > 1 ? 0 : length - 1)
      },
    ),
  )
})

test('the answer gets what it asks for up to half of the context, a quarter unasked', () => {
  expect(promptRoom(1000, 100)).toBe(900)
  expect(promptRoom(1000, 800)).toBe(500)
  expect(promptRoom(1000, undefined)).toBe(750)
  expect(promptRoom(2, undefined)).toBe(1)
})

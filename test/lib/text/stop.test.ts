import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { StopMatcher } from '../../../lib/text/stop.ts'

function run(stops: string[], parts: string[]) {
  const matcher = new StopMatcher(stops)
  const pushed = parts.map((part) => matcher.push(part))
  return { text: pushed.join('') + matcher.flush(), stopped: matcher.stopped, pushed }
}

/** One character at a time, by the definition: stop where the first stop string is complete. */
function expected(stops: string[], text: string) {
  for (let end = 1; end <= text.length; end++) {
    const seen = text.slice(0, end)
    const starts = stops.filter((stop) => seen.endsWith(stop)).map((stop) => end - stop.length)
    if (starts.length > 0) return { text: text.slice(0, Math.min(...starts)), stopped: true }
  }
  return { text, stopped: false }
}

describe('StopMatcher', () => {
  test('cuts the text before the stop string', () => {
    expect(run(['END'], ['one ', 'two END three'])).toMatchObject({ text: 'one two ', stopped: true })
  })
  test('holds back what may become a stop string, and only that', () => {
    expect(run(['</s>'], ['a <', '/', 'x', ' <'])).toMatchObject({
      text: 'a </x <',
      stopped: false,
      pushed: ['a ', '', '</x', ' '],
    })
  })
  test('drops what comes after', () => {
    expect(run(['.'], ['a', '.', 'b.'])).toMatchObject({ text: 'a', stopped: true })
  })
  test('the stop string that is complete first wins', () => {
    expect(run(['bc', 'abcd'], ['xabcd'])).toMatchObject({ text: 'xa', stopped: true })
    expect(run(['bc', 'abc'], ['xabc'])).toMatchObject({ text: 'x', stopped: true })
  })

  test('hidden parts are looked at and not passed on', () => {
    const matcher = new StopMatcher(['ab'])
    expect([
      matcher.push('xa', { hidden: true }),
      matcher.push('a'),
      matcher.push('a', { hidden: true }),
      matcher.push('c'),
    ]).toEqual(['', '', 'a', 'c'])
    expect([matcher.push('a'), matcher.push('b', { hidden: true }), matcher.stopped]).toEqual(['', '', true])
  })

  test('the outcome depends on the text alone, not on how it is cut', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 40 })
    const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 5 }), {
      maxLength: 4,
    })
    fc.assert(
      fc.property(letters, stops, fc.array(fc.nat({ max: 40 })), (text, stops, cuts) => {
        const points = [...new Set([0, ...cuts.filter((cut) => cut < text.length), text.length])].sort((a, b) => a - b)
        const parts = points.slice(1).map((point, index) => text.slice(points[index], point))
        const { text: found, stopped } = run(stops, parts)
        expect({ text: found, stopped }).toEqual(expected(stops, text))
      }),
      { numRuns: 2000 },
    )
  })
})

describe('text that does not count', () => {
  /** The text that is passed on, its last part alone counting. */
  const passed = (stops: string[], before: string[], after: string[]) => {
    const matcher = new StopMatcher(stops)
    const seen = [
      ...before.map((part) => matcher.push(part, { counts: false })),
      ...after.map((part) => matcher.push(part)),
    ]
    return { text: seen.join('') + matcher.flush(), stopped: matcher.stopped }
  }

  test('no stop string ends there', () => {
    expect(passed(['ab'], ['xaby'], ['z'])).toEqual({ text: 'xabyz', stopped: false })
    expect(passed(['ab'], ['xa', 'b', 'y'], ['zab', 'c'])).toEqual({ text: 'xabyz', stopped: true })
  })

  test('one may begin there', () => {
    expect(passed(['abc'], ['xab'], ['cd'])).toEqual({ text: 'x', stopped: true })
    expect(passed(['abc'], ['xa', 'b'], ['d'])).toEqual({ text: 'xabd', stopped: false })
  })

  test('what ended there stays passed, while a longer one is waited for', () => {
    expect(passed(['bc', 'abcd'], ['abc'], ['x'])).toEqual({ text: 'abcx', stopped: false })
    expect(passed(['bc', 'abcd'], ['abc'], ['d'])).toEqual({ text: '', stopped: true })
    expect(passed(['bc', 'abcd'], ['abc'], ['xbc'])).toEqual({ text: 'abcx', stopped: true })
    expect(passed(['aa'], ['aa'], ['a'])).toEqual({ text: 'a', stopped: true })
  })
})

/** Sets of code points: ascending ranges [first, last, first, last, ...] that do not touch. */
export type CharSet = readonly number[]

export const LAST = 0x10ffff
export const EVERY: CharSet = [0, LAST]
export const NONE: CharSet = []

export function charSet(ranges: readonly (readonly [number, number])[]): CharSet {
  const sorted = [...ranges].sort((a, b) => a[0] - b[0])
  const out: number[] = []
  for (const [first, last] of sorted) {
    if (out.length > 0 && first <= out.at(-1)! + 1) out[out.length - 1] = Math.max(out.at(-1)!, last)
    else out.push(first, last)
  }
  return out
}

export const single = (point: number): CharSet => [point, point]

export function pairs(set: CharSet): [number, number][] {
  const out: [number, number][] = []
  for (let at = 0; at < set.length; at += 2) out.push([set[at]!, set[at + 1]!])
  return out
}

export const union = (...sets: CharSet[]): CharSet => charSet(sets.flatMap(pairs))

export function complement(set: CharSet): CharSet {
  const out: number[] = []
  let next = 0
  for (let at = 0; at < set.length; at += 2) {
    if (set[at]! > next) out.push(next, set[at]! - 1)
    next = set[at + 1]! + 1
  }
  if (next <= LAST) out.push(next, LAST)
  return out
}

export const intersect = (a: CharSet, b: CharSet): CharSet => complement(union(complement(a), complement(b)))

export const DIGIT: CharSet = [0x30, 0x39]
export const WORD: CharSet = charSet([
  [0x30, 0x39],
  [0x41, 0x5a],
  [0x5f, 0x5f],
  [0x61, 0x7a],
])
export const SPACE: CharSet = charSet([
  [0x09, 0x0d],
  [0x20, 0x20],
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
  [0xfeff, 0xfeff],
])
export const LINE_ENDS: CharSet = charSet([
  [0x0a, 0x0a],
  [0x0d, 0x0d],
  [0x2028, 0x2029],
])

const properties = new Map<string, CharSet>()

/** \p{name}, as the engine itself knows it; undefined of an unknown name. */
export function property(name: string): CharSet | undefined {
  const known = properties.get(name)
  if (known) return known
  let test: RegExp
  try {
    test = new RegExp(`^\\p{${name}}$`, 'u')
  } catch {
    return undefined
  }
  const ranges: [number, number][] = []
  for (let point = 0; point <= LAST; point++) {
    if (point >= 0xd800 && point < 0xe000) continue
    if (!test.test(String.fromCodePoint(point))) continue
    const last = ranges.at(-1)
    if (last && last[1] === point - 1) last[1] = point
    else ranges.push([point, point])
  }
  const set = charSet(ranges)
  properties.set(name, set)
  return set
}

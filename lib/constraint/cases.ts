/** What regular expressions take for one letter where the case does not matter, as the engine itself has it. */
import { type CharSet, charSet, pairs } from './charset.ts'

/** No letter beyond has another case. */
const LAST_CASED = 0x1ffff
/** Equal by their folding alone. */
const OTHERS = [
  [0x390, 0x1fd3],
  [0x3b0, 0x1fe3],
  [0xfb05, 0xfb06],
] as const

const known = new Map<boolean, ReadonlyMap<number, readonly number[]>>()

/** Of each letter with others that are equal to it: all of those, in the letters' order. `unicode`: as the flag u has it. */
function equals(unicode: boolean): ReadonlyMap<number, readonly number[]> {
  let out = known.get(unicode)
  if (!out) {
    out = find(unicode)
    known.set(unicode, out)
  }
  return out
}

function find(unicode: boolean): ReadonlyMap<number, readonly number[]> {
  // A back reference compares by the engine's own table.
  const isSame = unicode ? /^(.)\1$/isu : /^([\s\S])\1$/i
  const groups = new Map<number, Set<number>>()
  const join = (a: number, b: number) => {
    if (a === b || groups.get(a)?.has(b) || !isSame.test(String.fromCodePoint(a, b))) return
    const group = new Set([...(groups.get(a) ?? [a]), ...(groups.get(b) ?? [b])])
    for (const point of group) groups.set(point, group)
  }
  for (let point = 0x41; point <= LAST_CASED; point++) {
    if (point >= 0xd800 && point < 0xe000) continue
    const text = String.fromCodePoint(point)
    for (const other of [text.toLowerCase(), text.toUpperCase()]) {
      if (other === text) continue
      const second = other.codePointAt(0)!
      if (other.length === String.fromCodePoint(second).length) join(point, second)
    }
  }
  for (const [a, b] of OTHERS) join(a, b)
  return new Map([...groups].sort(([a], [b]) => a - b).map(([point, group]) => [point, [...group]]))
}

/** A set with all that is equal to what is in it. */
export function foldCase(set: CharSet, unicode: boolean): CharSet {
  const all = equals(unicode)
  const isSingle = set.length === 2 && set[0] === set[1]
  if (isSingle) return charSet((all.get(set[0]!) ?? [set[0]!]).map((point) => [point, point]))
  const out = pairs(set)
  let at = 0
  for (const [point, group] of all) {
    while (at < set.length && set[at + 1]! < point) at += 2
    if (at < set.length && set[at]! <= point) for (const other of group) out.push([other, other])
  }
  return charSet(out)
}

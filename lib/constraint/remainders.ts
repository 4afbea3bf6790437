/** Automata that read digits and know what a number leaves when it is divided. */
import { type Dfa, pushArc } from './dfa.ts'
import { type Meter, tooLarge } from './problems.ts'

/** Of what more remainders would take, nothing is left of the time to compile. */
const MAX_MODULUS = 400_000

/**
 * Texts of digits whose number leaves one of the remainders that are `taken`; a minus says nothing. Remainders that no
 * digits behind them tell apart are one state: of those of 1,000 there are four.
 */
export function remainderDfa(modulus: number, isTaken: (remainder: number) => boolean, meter: Meter): Dfa {
  if (modulus > MAX_MODULUS) throw tooLarge(`remainders of ${modulus}`)
  meter.spend(12 * modulus)
  const step = new Int32Array(10 * modulus)
  for (let value = 0; value < modulus; value++) {
    let next = (value * 10) % modulus
    for (let digit = 0; digit < 10; digit++) {
      step[10 * value + digit] = next
      next = next + 1 === modulus ? 0 : next + 1
    }
  }
  const first = new Int32Array(modulus)
  for (let value = 0; value < modulus; value++) first[value] = isTaken(value) ? 1 : 0
  const { classes, members } = refine(first, step, meter)
  const arcs = members.map((value) => {
    const own: number[] = []
    if (classes[0] === classes[value]) own.push(MINUS, MINUS, classes[0]!)
    for (let digit = 0; digit < 10; digit++) {
      pushArc(own, ZERO + digit, ZERO + digit, classes[step[10 * value + digit]!]!)
    }
    return own
  })
  meter.states(members.length)
  return { start: classes[0]!, arcs, accepts: members.map((value) => first[value] === 1) }
}

const MINUS = 0x2d
const ZERO = 0x30

/** Splits classes until all of one lead to the same ones; `members`: one of each. */
function refine(first: Int32Array, step: Int32Array, meter: Meter): { classes: Int32Array; members: number[] } {
  const modulus = first.length
  let classes = first
  let size = 64
  while (size < 2 * modulus) size *= 2
  const slots = new Int32Array(size)
  for (let before = 0; ; ) {
    meter.spend(4 * modulus)
    slots.fill(0)
    const members: number[] = []
    const own = new Int32Array(modulus)
    for (let value = 0; value < modulus; value++) {
      let hash = classes[value]!
      for (let at = 10 * value; at < 10 * value + 10; at++) {
        hash = Math.imul(hash ^ classes[step[at]!]!, 0x5bd1e995)
        hash ^= hash >>> 15
      }
      let slot = hash & (size - 1)
      for (; slots[slot] !== 0; slot = (slot + 1) & (size - 1)) {
        if (areOne(members[slots[slot]! - 1]!, value, classes, step)) break
      }
      if (slots[slot] === 0) slots[slot] = members.push(value)
      own[value] = slots[slot]! - 1
    }
    if (members.length === before) return { classes: own, members }
    before = members.length
    classes = own
  }
}

function areOne(a: number, b: number, classes: Int32Array, step: Int32Array): boolean {
  if (classes[a] !== classes[b]) return false
  for (let digit = 0; digit < 10; digit++) {
    if (classes[step[10 * a + digit]!] !== classes[step[10 * b + digit]!]) return false
  }
  return true
}

/** Classes of characters, as csrc/constraint/classes.h has them: of which of them any text may follow in a state. */
import { LAST } from './charset.ts'
import type { Dfa } from './dfa.ts'
import type { Meter } from './problems.ts'

const SINGLES = "_-. /:,@+=#&?%'()*!$~;"
const OTHER_ASCII = 27
const CONTROLS = 28
const JSON_ENDS = 29
const BEYOND_ASCII = 30
const ASCII_END = 0x7f

/** Of what a JSON text has as it is. */
export const RAW = ~((1 << CONTROLS) | (1 << JSON_ENDS))

function classOf(point: number): number {
  const character = String.fromCharCode(point)
  if (point < 0x20) return CONTROLS
  if (character === '"' || character === '\\') return JSON_ENDS
  if (/\d/.test(character)) return 0
  if (/[a-z]/.test(character)) return character <= 'f' ? 1 : 2
  if (/[A-Z]/.test(character)) return character <= 'F' ? 3 : 4
  const single = SINGLES.indexOf(character)
  return single === -1 ? OTHER_ASCII : 5 + single
}

/** [first, last, bit of the class], ascending. Surrogates are no characters; 0x2028 and 0x2029 belong to no class. */
const SEGMENTS: readonly (readonly [number, number, number])[] = [
  ...Array.from({ length: ASCII_END }, (_, point) => [point, classOf(point)] as const).reduce<
    [number, number, number][]
  >((out, [point, own]) => {
    const before = out.at(-1)
    if (before?.[2] === 1 << own) before[1] = point
    else out.push([point, point, 1 << own])
    return out
  }, []),
  [ASCII_END, 0x2027, 1 << BEYOND_ASCII],
  [0x202a, 0xd7ff, 1 << BEYOND_ASCII],
  [0xe000, LAST, 1 << BEYOND_ASCII],
]

/** All classes that have none of these bytes; of those beyond ASCII the ones that text has count. */
export function classesWithout(bytes: Iterable<number>): number {
  let out = 0x7fffffff
  for (const byte of bytes) {
    if (byte < ASCII_END) out &= ~(1 << classOf(byte))
    else if (byte < 0xf8) out &= ~(1 << BEYOND_ASCII)
  }
  return out
}

/** Of a state: any text of so many characters of these classes, or fewer, may follow. */
export interface Run {
  classes: number
  length: number
}

/** Looked at in all; a large automaton of many classes has runs where it loops alone. */
const MAX_LOOKS = 400_000

export interface RunOptions {
  /** Runs that stay in one state, no others. */
  alone?: boolean | undefined
  /** States that runs do not lead through. */
  ends?: ((state: number) => boolean) | undefined
}

export function runsOf({ arcs }: Dfa, meter: Meter, { alone = false, ends = () => false }: RunOptions = {}): Run[] {
  const count = arcs.length
  // Of each state the classes all of whose characters lead on, and of each arc the classes that it has of them.
  const covered = new Int32Array(count)
  const before: number[][] = arcs.map(() => [])
  const steps: { to: number; classes: number }[][] = arcs.map((own, state) => {
    const out: { to: number; classes: number }[] = []
    let broken = 0
    let met = 0
    let at = 0
    for (const [first, last, bit] of SEGMENTS) {
      while (at < own.length && own[at + 1]! < first) at += 3
      let next = first
      for (let arc = at; arc < own.length && own[arc]! <= last; arc += 3) {
        if (own[arc]! > next) break
        const to = own[arc + 2]!
        const known = out.find((one) => one.to === to)
        if (known) known.classes |= bit
        else out.push({ to, classes: bit })
        next = own[arc + 1]! + 1
        if (next > last) break
      }
      if (next > last) met |= bit
      else broken |= bit
    }
    covered[state] = ends(state) ? 0 : met & ~broken
    for (const { to } of out) before[to]!.push(state)
    return out
  })
  meter.spend(10 * count)
  // Classes that come once only, such as a separator's, would make runs short.
  const wanted = steps.map((own, state) => {
    let classes = covered[state]!
    for (const step of own) classes &= ~(step.classes & ~covered[step.to]!)
    return classes
  })
  const runs: Run[] = wanted.map(() => ({ classes: 0, length: 0 }))
  const sets = new Set(wanted)
  sets.delete(0)
  if (!alone && sets.size * count <= MAX_LOOKS) {
    for (const classes of sets) {
      const lengths = distances(classes)
      wanted.forEach((own, state) => {
        if (own === classes) runs[state] = { classes: classes >>> 0, length: lengths[state]! }
      })
    }
  }
  // Alone, what leads back at once.
  steps.forEach((own, state) => {
    const rest = own.filter(({ to }) => to !== state).reduce((all, { classes }) => all | classes, 0)
    const loops = covered[state]! & ~rest
    if (bits(loops) >= bits(runs[state]!.classes) && loops !== 0) {
      runs[state] = { classes: loops >>> 0, length: Number.POSITIVE_INFINITY }
    }
  })
  return runs

  /** Characters of these classes that lead from each state to one which lacks some of them. */
  function distances(classes: number): number[] {
    const out = new Array<number>(count).fill(Number.POSITIVE_INFINITY)
    let open: number[] = []
    for (let state = 0; state < count; state++) {
      if ((classes & ~covered[state]!) === 0) continue
      out[state] = 0
      open.push(state)
    }
    meter.spend(count)
    for (let distance = 1; open.length > 0; distance++) {
      const next: number[] = []
      for (const state of open) {
        for (const from of before[state]!) {
          if (out[from]! <= distance) continue
          if (!steps[from]!.some((step) => step.to === state && (step.classes & classes) !== 0)) continue
          out[from] = distance
          next.push(from)
        }
      }
      open = next
    }
    return out
  }
}

function bits(set: number): number {
  let count = 0
  for (let rest = set; rest !== 0; rest &= rest - 1) count++
  return count
}

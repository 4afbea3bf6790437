/** Trees of regular expressions -> automata. */
import { type CharSet, EVERY, LAST } from './charset.ts'
import { ANY, type Dfa, follow, isAnyState, isNothing, pushArc, trim } from './dfa.ts'
import { without } from './dfa_algebra.ts'
import { type Cost, type Meter, tooLarge } from './problems.ts'
import { compareDuties, END, everyDuty, moveDuties, withDuty } from './regex_duties.ts'
import { EMPTY, parseRegex, type RegexFlags, type RegexNode } from './regex_parser.ts'

/** The texts that a regular expression matches: as a whole, or anywhere in them. */
export function regexDfa(source: string, how: 'whole' | 'anywhere', flags: RegexFlags, meter: Meter): Dfa {
  const set = Object.entries(flags).filter(([, isSet]) => isSet)
  const key = `${how} ${set.map(([flag]) => flag).join(' ')} /${source}`
  const known = recent.get(key)
  if (known) {
    recent.delete(key)
    recent.set(key, known)
    meter.again(known.cost)
    return known.dfa
  }
  const before = meter.spent
  const dfa = treeDfa(parseRegex(source, flags), how, meter)
  const { steps, states } = meter.spent
  if (dfa.arcs.length <= RECENT_STATES) {
    recent.set(key, { dfa, cost: { steps: steps - before.steps, states: states - before.states } })
    const [oldest] = recent.keys()
    if (recent.size > RECENT) recent.delete(oldest!)
  }
  return dfa
}

/**
 * Automata of late, the one used longest ago first: formats and the patterns of an application's tools come in one schema
 * after the other.
 */
const recent = new Map<string, { dfa: Dfa; cost: Cost }>()
const RECENT = 64
const RECENT_STATES = 2000

const EVERYTHING: RegexNode = {
  type: 'repeat',
  item: { type: 'set', set: EVERY },
  minimum: 0,
  maximum: Number.POSITIVE_INFINITY,
}

export function treeDfa(tree: RegexNode, how: 'whole' | 'anywhere', meter: Meter): Dfa {
  const items = how === 'whole' ? [tree] : [EVERYTHING, tree, EVERYTHING]
  return determinise(new Nfa({ type: 'sequence', items }, meter), meter)
}

/** What must hold where an edge without a character is taken. */
type Condition =
  | { type: 'begin' }
  | { type: 'end' }
  | { type: 'ahead'; look: number }
  | { type: 'behind'; look: number }

const MAX_NFA = 60_000

class Nfa {
  readonly sets: (CharSet | undefined)[] = []
  /** Of each state: where its set leads. */
  readonly next: number[] = []
  readonly free: { to: number; condition: Condition | undefined }[][] = []
  readonly ahead: Dfa[] = []
  readonly behind: Dfa[] = []
  readonly start: number
  readonly end: number
  /** From here on any text is accepted; -1: there is no such state. */
  readonly rest: number = -1
  readonly #meter: Meter

  constructor(tree: RegexNode, meter: Meter) {
    this.#meter = meter
    this.end = this.#state()
    const last = tree.type === 'sequence' ? tree.items.at(-1) : undefined
    if (last === EVERYTHING && tree.type === 'sequence') {
      const loop = this.#make(EVERYTHING, this.end)
      this.rest = this.free[loop]![0]!.to
      this.start = this.#make({ type: 'sequence', items: tree.items.slice(0, -1) }, loop)
    } else this.start = this.#make(tree, this.end)
  }

  #state(): number {
    this.#meter.spend(4)
    if (this.next.length > MAX_NFA) throw tooLarge('a regular expression of too many parts')
    this.sets.push(undefined)
    this.free.push([])
    return this.next.push(-1) - 1
  }

  #link(from: number, to: number, condition?: Condition): void {
    this.free[from]!.push({ to, condition })
  }

  /** The state from which the tree leads to `to`. */
  #make(tree: RegexNode, to: number): number {
    switch (tree.type) {
      case 'set': {
        const state = this.#state()
        this.sets[state] = tree.set
        this.next[state] = to
        return state
      }
      case 'sequence':
        return tree.items.reduceRight((next, item) => this.#make(item, next), to)
      case 'choice': {
        const state = this.#state()
        for (const item of tree.items) this.#link(state, this.#make(item, to))
        return state
      }
      case 'repeat':
        return this.#repeat(tree, to)
      case 'begin':
      case 'end': {
        const state = this.#state()
        this.#link(state, to, { type: tree.type })
        return state
      }
      case 'look': {
        const state = this.#state()
        const items = tree.behind ? [EVERYTHING, tree.item] : [tree.item, EVERYTHING]
        const dfa = determinise(new Nfa({ type: 'sequence', items }, this.#meter), this.#meter)
        const wanted = tree.negative ? without(ANY, dfa, this.#meter) : dfa
        const list = tree.behind ? this.behind : this.ahead
        this.#link(state, to, { type: tree.behind ? 'behind' : 'ahead', look: list.push(wanted) - 1 })
        return state
      }
    }
  }

  #repeat({ item, minimum, maximum }: Extract<RegexNode, { type: 'repeat' }>, to: number): number {
    if (maximum === 0) return to
    let next = to
    if (maximum === Number.POSITIVE_INFINITY) {
      const loop = this.#state()
      this.#link(loop, this.#make(item, loop))
      this.#link(loop, to)
      next = loop
    } else {
      for (let count = minimum; count < maximum; count++) {
        const state = this.#state()
        this.#link(state, this.#make(item, next))
        this.#link(state, to)
        next = state
      }
    }
    for (let count = 0; count < minimum; count++) {
      const before = this.#make(item, next)
      // What reads nothing does so however often.
      if (before === next) break
      next = before
    }
    return next
  }
}

/** Way through the expression: a state, and what the rest of the text must fulfil: [look, state of its automaton]. */
interface Way {
  state: number
  /** END: the text ends here. */
  duties: readonly number[]
}

interface State {
  ways: Way[]
  behind: number[]
}

function determinise(nfa: Nfa, meter: Meter): Dfa {
  const plain = nfa.ahead.length === 0 && nfa.behind.length === 0
  const keyOf = ({ ways, behind }: State) => {
    if (plain) {
      // There are fewer states of an expression than code units.
      let key = ''
      for (const { state, duties } of ways)
        key += String.fromCharCode(state) + (duties.length > 0 ? `\uffff${duties}` : '')
      return key
    }
    return `${ways.map(({ state, duties }) => (duties.length ? `${state}(${duties})` : state)).join(' ')}|${behind}`
  }
  const numbers = new Map<string, number>()
  const states: State[] = []
  const numberOf = (state: State): number => {
    const key = keyOf(state)
    let number = numbers.get(key)
    if (number === undefined) {
      number = states.push(state) - 1
      numbers.set(key, number)
      meter.states(1)
      meter.spend(key.length)
    }
    return number
  }

  const marks = new Uint32Array(nfa.next.length)
  let round = 0
  /** All that ways come to without a character. */
  const close = (seeds: Way[], behind: number[], first: boolean): Way[] => {
    round++
    const met = plain ? undefined : new Set<string>()
    const out: Way[] = []
    const open: Way[] = []
    const add = (way: Way) => {
      if (way.duties.length === 0) {
        if (marks[way.state] === round) return
        marks[way.state] = round
      } else {
        const key = `${way.state}:${way.duties}`
        if (met?.has(key)) return
        if (met) met.add(key)
        else if (marks[way.state] === round) return
      }
      open.push(way)
    }
    for (const seed of seeds) add(seed)
    for (let way = open.pop(); way !== undefined; way = open.pop()) {
      meter.spend(1)
      if (nfa.sets[way.state] !== undefined || way.state === nfa.end) out.push(way)
      for (const { to, condition } of nfa.free[way.state]!) {
        if (condition === undefined) add({ state: to, duties: way.duties })
        else if (condition.type === 'begin') {
          if (first) add({ state: to, duties: way.duties })
        } else if (condition.type === 'behind') {
          const at = behind[condition.look]!
          if (at !== -1 && nfa.behind[condition.look]!.accepts[at]) add({ state: to, duties: way.duties })
        } else if (condition.type === 'end') {
          add({ state: to, duties: withDuty(way.duties, END, 0) })
        } else {
          const dfa = nfa.ahead[condition.look]!
          if (isNothing(dfa)) continue
          const done = isAnyState(dfa, dfa.start)
          add({ state: to, duties: done ? way.duties : withDuty(way.duties, condition.look, dfa.start) })
        }
      }
    }
    if (nfa.rest !== -1 && marks[nfa.rest] === round) {
      return [nfa.end, nfa.rest].map((state) => ({ state, duties: [] }))
    }
    return out.sort((a, b) => a.state - b.state || compareDuties(a.duties, b.duties))
  }

  const behindStart = nfa.behind.map((dfa) => dfa.start)
  numberOf({ ways: close([{ state: nfa.start, duties: [] }], behindStart, true), behind: behindStart })
  const arcs: number[][] = []
  const accepting: boolean[] = []
  for (let at = 0; at < states.length; at++) {
    const { ways, behind } = states[at]!
    const own: number[] = []
    const isSettled = nfa.rest !== -1 && ways.length === 2 && ways[1]!.state === nfa.rest && ways[0]!.state === nfa.end
    accepting.push(
      ways.some(
        ({ state, duties }) =>
          state === nfa.end && everyDuty(duties, (look, at) => look === END || nfa.ahead[look]!.accepts[at]!),
      ),
    )
    const edges = cuts(nfa, ways, isSettled ? [] : behind)
    for (let cut = 0; cut < edges.length; cut++) {
      const first = edges[cut]!
      const last = cut + 1 < edges.length ? edges[cut + 1]! - 1 : LAST
      meter.spend(ways.length)
      const seeds: Way[] = []
      for (const way of ways) {
        const set = nfa.sets[way.state]
        if (set === undefined || !holds(set, first)) continue
        const duties = moveDuties(nfa.ahead, way.duties, first)
        if (duties) seeds.push({ state: nfa.next[way.state]!, duties })
      }
      if (seeds.length === 0) continue
      const moved = behind.map((state, look) => (state === -1 ? -1 : follow(nfa.behind[look]!.arcs[state]!, first)))
      const closed = close(seeds, moved, false)
      if (closed.length === 0) continue
      const isRest = nfa.rest !== -1 && closed.length === 2 && closed[1]!.state === nfa.rest
      pushArc(own, first, last, numberOf({ ways: closed, behind: isRest ? behindStart : moved }))
    }
    arcs.push(own)
  }
  return trim({ start: 0, arcs, accepts: accepting })
}

function holds(set: CharSet, point: number): boolean {
  for (let at = 0; at < set.length && set[at]! <= point; at += 2) if (point <= set[at + 1]!) return true
  return false
}

/** Code points between which nothing changes for these ways: where ranges begin, from 0 on. */
function cuts(nfa: Nfa, ways: readonly Way[], behind: readonly number[]): number[] {
  const found = new Set<number>([0])
  const ranges = (flat: readonly number[], width: number) => {
    for (let at = 0; at < flat.length; at += width) {
      found.add(flat[at]!)
      if (flat[at + 1]! < LAST) found.add(flat[at + 1]! + 1)
    }
  }
  const seen = new Set<CharSet>()
  for (const { state, duties } of ways) {
    const set = nfa.sets[state]
    if (set === undefined) continue
    if (!seen.has(set)) ranges(set, 2)
    seen.add(set)
    everyDuty(duties, (look, at) => {
      if (look !== END) ranges(nfa.ahead[look]!.arcs[at]!, 3)
      return true
    })
  }
  behind.forEach((state, look) => {
    if (state !== -1) ranges(nfa.behind[look]!.arcs[state]!, 3)
  })
  return [...found].sort((a, b) => a - b)
}

export { EMPTY }

/** The names of an object's members as one automaton: which member a name is, or which kind of other names it belongs to. */

import { LAST } from '../charset.ts'
import type { Dfa } from '../dfa.ts'
import { type Meter, tooLarge } from '../problems.ts'
import { joinReach, type Reach } from '../utf8.ts'

export interface Names {
  dfa: Dfa
  /** Of each state: the member whose name ends there, members first, then kinds of others; -1: none. */
  labels: number[]
  reach: Reach[]
}

interface TrieNode {
  children: Map<number, TrieNode>
  /** Index among the names, -1: none. */
  name: number
  id: number
}

/** As patterns tell them apart. */
const MAX_KINDS = 2000

const byCodePoints = (a: string, b: string) => {
  const [x, y] = [[...a], [...b]]
  for (let at = 0; at < Math.min(x.length, y.length); at++) {
    const difference = x[at]!.codePointAt(0)! - y[at]!.codePointAt(0)!
    if (difference !== 0) return difference
  }
  return x.length - y.length
}

export const sortNames = (names: Iterable<string>) => [...names].sort(byCodePoints)

/**
 * Kinds of other names are told apart by which of the automata accept them: a text of '0' and '1', one an automaton.
 * `label`: of a name's index, its member or -1; of a kind, its number or -1, which is asked once.
 */
export function nameAutomaton(
  names: readonly string[],
  automata: readonly Dfa[],
  memberOf: (name: number) => number,
  kindOf: (kind: string) => number,
  meter: Meter,
): Names {
  const root: TrieNode = { children: new Map(), name: -1, id: 0 }
  let nodes = 1
  names.forEach((name, index) => {
    let node = root
    for (const character of name) {
      const point = character.codePointAt(0)!
      let child = node.children.get(point)
      if (!child) {
        child = { children: new Map(), name: -1, id: nodes++ }
        node.children.set(point, child)
      }
      node = child
    }
    node.name = index
  })
  const kinds = new Map<string, number>()

  interface Key {
    node: TrieNode | undefined
    states: readonly number[]
  }
  const keys: Key[] = []
  const numbers = new Map<string | number, number>()
  const width = automata.length === 1 ? automata[0]!.arcs.length + 1 : 1
  /** With one automaton or none, as nearly always, a number. */
  const nameOf = ({ node, states }: Key) =>
    states.length > 1 ? `${node?.id ?? ''}|${states}` : ((node?.id ?? -1) + 1) * width + (states[0] ?? -1) + 1
  const numberOf = (key: Key) => {
    const name = nameOf(key)
    let number = numbers.get(name)
    if (number === undefined) {
      number = keys.push(key) - 1
      numbers.set(name, number)
      meter.states(1)
    }
    return number
  }
  numberOf({ node: root, states: automata.map(({ start }) => start) })
  const arcs: number[][] = []
  const labels: number[] = []
  for (let at = 0; at < keys.length; at++) {
    const { node, states } = keys[at]!
    if (node && node.name !== -1) labels.push(memberOf(node.name))
    else {
      const kind = automata
        .map(({ accepts }, index) => (states[index] !== -1 && accepts[states[index]!] ? 1 : 0))
        .join('')
      let label = kinds.get(kind)
      if (label === undefined) {
        label = kindOf(kind)
        kinds.set(kind, label)
      }
      if (kinds.size > MAX_KINDS) throw tooLarge(`more than ${MAX_KINDS} kinds of property names`)
      labels.push(label)
    }
    const own: number[] = []
    arcs.push(own)
    if (states.length === 0) {
      // Of the names' tree alone.
      let next = 0
      for (const point of [...(node?.children.keys() ?? [])].sort((a, b) => a - b)) {
        if (point > next) own.push(next, point - 1, numberOf({ node: undefined, states }))
        own.push(point, point, numberOf({ node: node!.children.get(point), states }))
        next = point + 1
      }
      if (next <= LAST) own.push(next, LAST, numberOf({ node: undefined, states }))
      meter.spend(own.length)
      continue
    }
    const cuts = new Set([0])
    for (const point of node?.children.keys() ?? []) {
      cuts.add(point)
      if (point < LAST) cuts.add(point + 1)
    }
    states.forEach((state, index) => {
      const arcs = state === -1 ? [] : automata[index]!.arcs[state]!
      for (let arc = 0; arc < arcs.length; arc += 3) {
        cuts.add(arcs[arc]!)
        if (arcs[arc + 1]! < LAST) cuts.add(arcs[arc + 1]! + 1)
      }
    })
    const sorted = [...cuts].sort((a, b) => a - b)
    const places = states.map(() => 0)
    for (let cut = 0; cut < sorted.length; cut++) {
      const first = sorted[cut]!
      const last = cut + 1 < sorted.length ? sorted[cut + 1]! - 1 : LAST
      const to = states.map((state, index) => {
        if (state === -1) return -1
        const arcs = automata[index]!.arcs[state]!
        let place = places[index]!
        while (place < arcs.length && arcs[place + 1]! < first) place += 3
        places[index] = place
        return place < arcs.length && arcs[place]! <= first ? arcs[place + 2]! : -1
      })
      own.push(first, last, numberOf({ node: node?.children.get(first), states: to }))
      meter.spend(2 + states.length)
    }
  }
  return { dfa: { start: 0, arcs, accepts: labels.map((label) => label !== -1) }, labels, reach: [] }
}

/** Without the states from which no name can be come to. Labels as `label` changes them; -1: no name. */
export function liveNames({ dfa, labels }: Names, relabel: (label: number) => number, members: number): Names {
  const now = labels.map((label) => (label === -1 ? -1 : relabel(label)))
  const before: number[][] = dfa.arcs.map(() => [])
  dfa.arcs.forEach((own, state) => {
    for (let at = 2; at < own.length; at += 3) before[own[at]!]!.push(state)
  })
  const none: Reach = { first: 0, end: 0, others: 0 }
  const reach = now.map((label): Reach => {
    if (label === -1) return none
    return label < members ? { first: label, end: label + 1, others: 0 } : { ...none, others: 1 << (label - members) }
  })
  const open = now.map((_, state) => state).filter((state) => now[state] !== -1)
  for (let state = open.pop(); state !== undefined; state = open.pop()) {
    for (const from of before[state]!) {
      const own = reach[from]!
      const joined = joinReach(own, reach[state]!)
      if (joined.first === own.first && joined.end === own.end && joined.others === own.others) continue
      reach[from] = joined
      open.push(from)
    }
  }
  const isLive = (state: number) => reach[state]!.first !== reach[state]!.end || reach[state]!.others !== 0
  const numbers = new Map<number, number>()
  const order: number[] = []
  const numberOf = (state: number) => {
    let number = numbers.get(state)
    if (number === undefined) {
      number = order.push(state) - 1
      numbers.set(state, number)
    }
    return number
  }
  numberOf(dfa.start)
  const arcs: number[][] = []
  for (let at = 0; at < order.length; at++) {
    const own = dfa.arcs[order[at]!]!
    const out: number[] = []
    for (let arc = 0; arc < own.length; arc += 3) {
      const target = own[arc + 2]!
      if (!isLive(target)) continue
      const to = numberOf(target)
      const end = out.length
      if (end > 0 && out[end - 1] === to && out[end - 2] === own[arc]! - 1) out[end - 2] = own[arc + 1]!
      else out.push(own[arc]!, own[arc + 1]!, to)
    }
    arcs.push(out)
  }
  return {
    dfa: { start: 0, arcs, accepts: order.map((state) => now[state] !== -1) },
    labels: order.map((state) => now[state]!),
    reach: order.map((state) => reach[state]!),
  }
}

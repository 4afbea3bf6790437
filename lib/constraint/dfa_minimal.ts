/**
 * The fewest states that accept the same texts: states are split into blocks until all of a block lead to the same
 * blocks. Only states that lead to what was split last are looked at again.
 */
import { type Dfa, predecessors, pushArc } from './dfa.ts'
import type { Meter } from './problems.ts'

export function minimal(dfa: Dfa, meter: Meter): Dfa {
  const { arcs, accepts } = dfa
  const count = arcs.length
  const before = predecessors(arcs)
  const blocks = Int32Array.from(accepts, (is) => (is ? 1 : 0))
  const sizes = [0, 0]
  for (const block of blocks) sizes[block]!++
  const isDirty = new Uint8Array(count).fill(1)
  let dirty = Array.from({ length: count }, (_, state) => state)
  const signatures = new Signatures()
  while (dirty.length > 0) {
    // Of each block its states that are looked at, by where they lead.
    const groups = new Map<number, Map<number, number[]>>()
    signatures.clear()
    for (const state of dirty) {
      isDirty[state] = 0
      const own = arcs[state]!
      meter.spend(2 + own.length)
      const signature = signatures.of(own, blocks)
      let bySignature = groups.get(blocks[state]!)
      if (!bySignature) {
        bySignature = new Map()
        groups.set(blocks[state]!, bySignature)
      }
      const group = bySignature.get(signature)
      if (group) group.push(state)
      else bySignature.set(signature, [state])
    }
    const moved: number[] = []
    for (const [block, bySignature] of groups) {
      let left = sizes[block]!
      for (const group of bySignature.values()) left -= group.length
      // Those that were not looked at stay, or the largest group.
      let staying: number[] | undefined
      if (left === 0)
        for (const group of bySignature.values()) if (group.length > (staying?.length ?? 0)) staying = group
      for (const group of bySignature.values()) {
        if (group === staying) continue
        sizes[block]! -= group.length
        const number = sizes.push(group.length) - 1
        for (const state of group) blocks[state] = number
        moved.push(...group)
      }
    }
    dirty = []
    for (const state of moved) {
      for (let at = before.begins[state]!; at < before.begins[state + 1]!; at++) {
        const from = before.list[at]!
        if (isDirty[from]) continue
        isDirty[from] = 1
        dirty.push(from)
      }
    }
  }
  if (sizes.length === count) return dfa
  const numbers = new Int32Array(sizes.length).fill(-1)
  const order: number[] = []
  const numberOf = (state: number) => {
    const block = blocks[state]!
    if (numbers[block] === -1) numbers[block] = order.push(state) - 1
    return numbers[block]!
  }
  numberOf(dfa.start)
  const out: number[][] = []
  for (let at = 0; at < order.length; at++) {
    const own = arcs[order[at]!]!
    const merged: number[] = []
    for (let arc = 0; arc < own.length; arc += 3) pushArc(merged, own[arc]!, own[arc + 1]!, numberOf(own[arc + 2]!))
    out.push(merged)
  }
  return { start: 0, arcs: out, accepts: order.map((state) => accepts[state]!) }
}

/** Numbers of lists: arcs with blocks for states, ranges of one block that touch put together. */
class Signatures {
  #values = new Int32Array(1024)
  #used = 0
  readonly #begins: number[] = [0]
  readonly #hashes: number[] = []
  #slots = new Int32Array(256)

  clear(): void {
    this.#used = 0
    this.#begins.length = 1
    this.#hashes.length = 0
    this.#slots.fill(0)
  }

  of(arcs: readonly number[], blocks: Int32Array): number {
    if (this.#used + arcs.length > this.#values.length) {
      const larger = new Int32Array(2 * (this.#used + arcs.length))
      larger.set(this.#values.subarray(0, this.#used))
      this.#values = larger
    }
    const values = this.#values
    const begin = this.#used
    let end = begin
    for (let at = 0; at < arcs.length; at += 3) {
      const block = blocks[arcs[at + 2]!]!
      if (end > begin && values[end - 1] === block && values[end - 2] === arcs[at]! - 1) values[end - 2] = arcs[at + 1]!
      else {
        values[end++] = arcs[at]!
        values[end++] = arcs[at + 1]!
        values[end++] = block
      }
    }
    let hash = end - begin
    for (let at = begin; at < end; at++) {
      hash = Math.imul(hash ^ values[at]!, 0x5bd1e995)
      hash ^= hash >>> 15
    }
    let slots = this.#slots
    let slot = hash & (slots.length - 1)
    for (; slots[slot] !== 0; slot = (slot + 1) & (slots.length - 1)) {
      const known = slots[slot]! - 1
      if (this.#hashes[known] === hash && this.#isSame(known, begin, end)) return known
    }
    const number = this.#hashes.push(hash) - 1
    this.#begins.push(end)
    this.#used = end
    slots[slot] = number + 1
    if (2 * this.#hashes.length > slots.length) {
      slots = new Int32Array(2 * slots.length)
      this.#hashes.forEach((own, index) => {
        let at = own & (slots.length - 1)
        while (slots[at] !== 0) at = (at + 1) & (slots.length - 1)
        slots[at] = index + 1
      })
      this.#slots = slots
    }
    return number
  }

  #isSame(known: number, begin: number, end: number): boolean {
    const values = this.#values
    const first = this.#begins[known]!
    if (this.#begins[known + 1]! - first !== end - begin) return false
    for (let at = 0; at < end - begin; at++) if (values[first + at] !== values[begin + at]) return false
    return true
  }
}

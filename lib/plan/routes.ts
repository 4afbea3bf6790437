/**
 * What rows choose of a model's mixtures: logs that traceRoutes() wrote, routing that is drawn for benchmarks, and how
 * often a cache of experts finds what it is asked for.
 */
import { invalidArgument } from '../options/validate.ts'

export interface MixtureSizes {
  mixtures: number
  /** Of a mixture, at most; and how many of them answer a row. */
  experts: number
  chosen: number
}

export interface Routes extends MixtureSizes {
  entries: number
  /** [entries, mixtures, chosen]. */
  ids: Uint16Array
  /** [entries]: entries of one pass have the same number. */
  passes: Uint32Array
}

/** Of a file of traceRoutes(). Throws INVALID_ARGUMENT. */
export function parseRoutes(bytes: Uint8Array, path: string): Routes {
  const refuse = (received: string) =>
    invalidArgument('a log of routes, as model.traceRoutes() writes it', 'replay', path, `it ${received}`)
  const end = bytes.indexOf(0x0a)
  let head: Partial<MixtureSizes & { millraceRoutes: number }> = {}
  try {
    head = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, Math.max(end, 0)).toString())
  } catch {
    throw refuse('begins otherwise')
  }
  const { millraceRoutes, mixtures = 0, experts = 0, chosen = 0 } = head
  if (millraceRoutes !== 1 || !(mixtures > 0) || !(chosen > 0)) throw refuse('begins otherwise')
  const routed = mixtures * chosen
  const record = 8 + 2 * routed
  const entries = Math.floor((bytes.length - end - 1) / record)
  if (entries === 0) throw refuse('has no rows')
  const view = new DataView(bytes.buffer, bytes.byteOffset + end + 1)
  const ids = new Uint16Array(entries * routed)
  const passes = new Uint32Array(entries)
  for (let entry = 0; entry < entries; entry++) {
    passes[entry] = view.getUint32(entry * record, true)
    for (let i = 0; i < routed; i++) ids[entry * routed + i] = view.getUint16(entry * record + 8 + 2 * i, true)
  }
  return { mixtures, experts, chosen, entries, ids, passes }
}

/** mulberry32. */
function randomOf(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Experts of all mixtures, those used longest ago first to go. */
class RecencyCache {
  readonly #frames: number
  readonly #used = new Set<number>()
  constructor(frames: number) {
    this.#frames = frames
  }
  has(expert: number): boolean {
    return this.#used.has(expert)
  }
  /** Whether it was there. */
  use(expert: number): boolean {
    const hit = this.#used.delete(expert)
    this.#used.add(expert)
    if (this.#used.size > this.#frames) this.#used.delete(this.#used.values().next().value!)
    return hit
  }
}

const routesOf = (sizes: MixtureSizes, entries: number, ids: Uint16Array): Routes => ({
  ...sizes,
  entries,
  ids,
  passes: Uint32Array.from({ length: entries }, (_, entry) => entry),
})

/** Each row chooses evenly among all experts, and independently of the others. */
export function uniformRoutes(sizes: MixtureSizes, entries: number, seed = 1): Routes {
  return drawnRoutes(sizes, entries, seed, () => undefined, 0)
}

/**
 * Rows one after the other, of whose choices a cache of `frames` experts that gives up what was used longest ago finds
 * the share `hits`, once it is full; as near as the sizes allow.
 */
export function routesThatHit(sizes: MixtureSizes, entries: number, frames: number, hits: number, seed = 1): Routes {
  const cache = new RecencyCache(frames)
  return drawnRoutes(sizes, entries, seed, (expert, used) => (used ? cache.use(expert) : cache.has(expert)), hits)
}

/** `cache`: whether it has the expert of that number among all, or makes it the one used last. */
function drawnRoutes(
  sizes: MixtureSizes,
  entries: number,
  seed: number,
  cache: (expert: number, used: boolean) => boolean | undefined,
  hits: number,
): Routes {
  const { mixtures, experts, chosen } = sizes
  const random = randomOf(seed)
  const ids = new Uint16Array(entries * mixtures * chosen)
  let at = 0
  for (let entry = 0; entry < entries; entry++) {
    for (let mixture = 0; mixture < mixtures; mixture++) {
      const left = Array.from({ length: experts }, (_, expert) => expert)
      const there = left.map((expert) => cache(mixture * experts + expert, false) === true)
      for (let rank = 0; rank < chosen; rank++) {
        const wanted = hits > 0 && random() < hits
        const fitting = hits > 0 ? left.filter((expert) => there[expert] === wanted) : left
        const from = fitting.length > 0 ? fitting : left
        const expert = from[Math.floor(random() * from.length)]!
        left.splice(left.indexOf(expert), 1)
        ids[at++] = expert
      }
      for (let rank = 0; rank < chosen; rank++) cache(mixture * experts + ids[at - chosen + rank]!, true)
    }
  }
  return routesOf(sizes, entries, ids)
}

/** The share of what passes choose that a cache of so many experts has by then, from the second half of the log on. */
export function replayHits({ mixtures, experts, chosen, entries, ids, passes }: Routes, frames: number): number {
  const cache = new RecencyCache(frames)
  let hits = 0
  let asked = 0
  for (let begin = 0; begin < entries; ) {
    let end = begin + 1
    while (end < entries && passes[end] === passes[begin]) end++
    for (let mixture = 0; mixture < mixtures; mixture++) {
      const pass = new Set<number>()
      for (let entry = begin; entry < end; entry++) {
        for (let rank = 0; rank < chosen; rank++) {
          pass.add(mixture * experts + ids[(entry * mixtures + mixture) * chosen + rank]!)
        }
      }
      for (const expert of pass) {
        const hit = cache.use(expert)
        if (2 * begin < entries) continue
        asked++
        if (hit) hits++
      }
    }
    begin = end
  }
  return asked === 0 ? 0 : hits / asked
}

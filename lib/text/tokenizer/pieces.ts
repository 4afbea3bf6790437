/**
 * The table of tokens: for every id the bytes that it stands for and its own text, in one piece of memory that the
 * tokenizer's thread writes and every other one reads. Working in bytes makes streaming exact: a code point is whole
 * when its last byte is there, whatever tokens it came in.
 *
 *   header: u32 x 4      number of tokens, slots, bytes of all pieces, bytes of all texts
 *   byteOffsets: u32     one a token and one more: where its bytes begin
 *   textOffsets: u32     the same of its text
 *   slots: u32           open addressing by the hash of the text: id + 1, 0 for none; a power of two
 *   flags: u8            one a token
 *   bytes, texts: u8
 */
import type { DecodeRules } from './decoder.ts'

const KNOWN = 1
const SPECIAL = 2
const HEADER = 4

const utf8 = new TextEncoder()

/** A token as the table is made from it. */
export interface TableEntry {
  id: number
  /** As the vocabulary spells it: 'Ġthe', '▁the', '<|im_end|>'. */
  text: string
  bytes: Uint8Array
  /** Decoding leaves it out. */
  special: boolean
}

/** The table in shared memory. Of entries with one id, or one text, the last counts. */
export function makeTable(entries: Iterable<TableEntry>): SharedArrayBuffer {
  const byId: TableEntry[] = []
  const ordered = [...entries]
  for (const entry of ordered) byId[entry.id] = entry
  const count = byId.length
  const texts = byId.map(({ text }) => utf8.encode(text))
  let slots = 16
  while (slots < 2 * count) slots *= 2
  let byteSize = 0
  let textSize = 0
  byId.forEach((entry, id) => {
    byteSize += entry.bytes.length
    textSize += texts[id]!.length
  })
  const views = layOut(new SharedArrayBuffer(sizeOf(count, slots, byteSize, textSize)), [
    count,
    slots,
    byteSize,
    textSize,
  ])
  let byteAt = 0
  let textAt = 0
  for (let id = 0; id < count; id++) {
    views.byteOffsets[id] = byteAt
    views.textOffsets[id] = textAt
    const entry = byId[id]
    if (!entry) continue
    views.flags[id] = KNOWN | (entry.special ? SPECIAL : 0)
    views.bytes.set(entry.bytes, byteAt)
    views.texts.set(texts[id]!, textAt)
    byteAt += entry.bytes.length
    textAt += texts[id]!.length
  }
  views.byteOffsets[count] = byteAt
  views.textOffsets[count] = textAt
  for (const entry of ordered) {
    if (byId[entry.id] === entry) views.slots[slotOf(views, texts[entry.id]!)] = entry.id + 1
  }
  return views.header.buffer as SharedArrayBuffer
}

interface Views {
  header: Uint32Array
  byteOffsets: Uint32Array
  textOffsets: Uint32Array
  slots: Uint32Array
  flags: Uint8Array
  bytes: Uint8Array
  texts: Uint8Array
}

function sizeOf(count: number, slots: number, byteSize: number, textSize: number): number {
  return 4 * (HEADER + 2 * (count + 1) + slots) + count + byteSize + textSize
}

function layOut(shared: SharedArrayBuffer, sizes?: readonly [number, number, number, number]): Views {
  const header = new Uint32Array(shared, 0, HEADER)
  if (sizes) header.set(sizes)
  const [count = 0, slots = 0, byteSize = 0, textSize = 0] = header
  let at = header.byteLength
  const words = (length: number) => {
    const view = new Uint32Array(shared, at, length)
    at += view.byteLength
    return view
  }
  const octets = (length: number) => {
    const view = new Uint8Array(shared, at, length)
    at += length
    return view
  }
  return {
    header,
    byteOffsets: words(count + 1),
    textOffsets: words(count + 1),
    slots: words(slots),
    flags: octets(count),
    bytes: octets(byteSize),
    texts: octets(textSize),
  }
}

/** The slot of a text: its own, or the free one where it would be. */
function slotOf({ slots, textOffsets, texts }: Views, text: Uint8Array): number {
  let hash = 0x811c9dc5
  for (const byte of text) hash = Math.imul(hash ^ byte, 0x01000193)
  for (let slot = hash & (slots.length - 1); ; slot = (slot + 1) & (slots.length - 1)) {
    const id = slots[slot]! - 1
    if (id === -1) return slot
    const start = textOffsets[id]!
    if (textOffsets[id + 1]! - start !== text.length) continue
    let same = 0
    while (same < text.length && texts[start + same] === text[same]) same++
    if (same === text.length) return slot
  }
}

/** The table as it is read. */
export class Pieces {
  readonly shared: SharedArrayBuffer
  readonly rules: DecodeRules
  readonly #views: Views
  #specials: ReadonlyMap<number, string> | undefined

  constructor(shared: SharedArrayBuffer, rules: DecodeRules) {
    this.shared = shared
    this.rules = rules
    this.#views = layOut(shared)
  }

  /** Of nothing, for models without a tokenizer. */
  static none(): Pieces {
    return new Pieces(makeTable([]), { separator: '', firstLoses: undefined, strip: undefined, cleanUp: false })
  }

  /** Ids from 0 on; some may be of no token. */
  get size(): number {
    return this.#views.flags.length
  }

  /** What the token shows; undefined of special tokens and of ids of no token. */
  bytes(token: number): Uint8Array | undefined {
    const { flags, bytes, byteOffsets } = this.#views
    return flags[token] === KNOWN ? bytes.subarray(byteOffsets[token], byteOffsets[token + 1]) : undefined
  }

  /** The token's own text; undefined of ids of no token. */
  text(token: number): string | undefined {
    const { flags, texts, textOffsets } = this.#views
    if (!flags[token]) return undefined
    return Buffer.from(texts.subarray(textOffsets[token], textOffsets[token + 1])).toString()
  }

  /** The tokens that show nothing, and their texts. */
  get specials(): ReadonlyMap<number, string> {
    if (this.#specials) return this.#specials
    const found = new Map<number, string>()
    this.#views.flags.forEach((flag, token) => {
      if (flag & SPECIAL) found.set(token, this.text(token)!)
    })
    this.#specials = found
    return found
  }

  /** The token of exactly this text. */
  idOf(text: string): number | undefined {
    const token = this.#views.slots[slotOf(this.#views, utf8.encode(text))]! - 1
    return token === -1 ? undefined : token
  }
}

/**
 * Byte pair encoding: of a word's characters those two neighbours become one symbol whose merge has the lowest rank, and of
 * one rank the leftmost, until none is left. The symbols are those of the tokenizers library; its own way there takes
 * 5 to 15 us a character of a long word, and this one takes 0.3.
 */
import { PairTable } from './pair_table.ts'

export interface BpeConfig {
  vocabulary: ReadonlyMap<string, number>
  /** In the order of their ranks. */
  merges: readonly (readonly [left: string, right: string])[]
  /** Ends the last character of a word. */
  endOfWord: string
  /** A word that is a token is that token, whatever merges say. */
  ignoreMerges: boolean
  /** What is no token is spelt in tokens of its bytes, where the vocabulary has all of them. */
  byteFallback: boolean
}

/** A symbol of which the vocabulary has no token. */
export const UNKNOWN = -1

/** Shorter words are remembered, up to so many of them. */
const CACHED_LENGTH = 256
const CACHED_WORDS = 10_000

/** A place in a word, beside a rank, in one number: 2^28 of the one, 2^24 of the other. */
const PLACES = 2 ** 28
const NONE = -1

/** Symbols of a word as a list of neighbours, by the place of their first character. */
interface Chain {
  /** A number of the pair table, or NONE of a character that no merge and no token has. */
  symbols: Int32Array
  /** Where the character begins in the word. */
  starts: Int32Array
  next: Int32Array
  previous: Int32Array
  /** Of the merge with the next symbol; NONE where there is no such merge. */
  ranks: Int32Array
  /** Merges to be done, as rank * PLACES + place: a heap, whose least is the first. */
  heap: Float64Array
}

export class Bpe {
  readonly #config: BpeConfig
  readonly #pairs: PairTable
  /** Numbers of symbols that are one character, or the last one of a word. */
  readonly #characters = new Map<string, number>()
  /** Token of a symbol, or UNKNOWN. */
  readonly #ids: Int32Array
  readonly #cache = new Map<string, readonly number[]>()
  #chain = makeChain(256)

  constructor(config: BpeConfig) {
    this.#config = config
    const numbers = new Map<string, number>()
    const numberOf = (text: string) => {
      const number = numbers.get(text) ?? numbers.size
      numbers.set(text, number)
      return number
    }
    for (const text of config.vocabulary.keys()) numberOf(text)
    this.#pairs = new PairTable(config.merges.length)
    for (const [rank, [left, right]] of config.merges.entries()) {
      this.#pairs.set(numberOf(left), numberOf(right), rank, numberOf(left + right))
    }
    this.#ids = new Int32Array(numbers.size)
    for (const [text, number] of numbers) {
      this.#ids[number] = config.vocabulary.get(text) ?? UNKNOWN
      if (isCharacter(text) || (config.endOfWord !== '' && text.endsWith(config.endOfWord))) {
        this.#characters.set(text, number)
      }
    }
  }

  /** Tokens of a word, or UNKNOWN. */
  encode(word: string): readonly number[] {
    if (word === '') return []
    const { ignoreMerges, vocabulary } = this.#config
    const whole = ignoreMerges ? vocabulary.get(word) : undefined
    if (whole !== undefined) return [whole]
    if (word.length >= CACHED_LENGTH) return this.#merge(word)
    const cached = this.#cache.get(word)
    if (cached) return cached
    const tokens = this.#merge(word)
    if (this.#cache.size >= CACHED_WORDS) this.#cache.clear()
    this.#cache.set(word, tokens)
    return tokens
  }

  #merge(word: string): number[] {
    if (this.#chain.symbols.length < word.length) this.#chain = makeChain(word.length)
    const chain = this.#chain
    const length = this.#spell(word, chain)
    mergeAll(chain, length, this.#pairs)
    const tokens: number[] = []
    for (let at = 0; at !== NONE; at = chain.next[at]!) {
      const symbol = chain.symbols[at]!
      const id = symbol === NONE ? UNKNOWN : this.#ids[symbol]!
      if (id === UNKNOWN && this.#config.byteFallback) this.#spellBytes(word, at, tokens)
      else tokens.push(id)
    }
    // One word of millions of letters is no reason to keep its memory.
    if (word.length > 2 ** 16) this.#chain = makeChain(256)
    return tokens
  }

  /** The word's characters, each a symbol. Returns how many. */
  #spell(word: string, chain: Chain): number {
    const { endOfWord } = this.#config
    let length = 0
    for (let start = 0; start < word.length; ) {
      const character = String.fromCodePoint(word.codePointAt(start)!)
      const end = start + character.length
      const text = end === word.length ? character + endOfWord : character
      chain.symbols[length] = this.#characters.get(text) ?? NONE
      chain.starts[length] = start
      chain.previous[length] = length - 1
      chain.next[length] = end === word.length ? NONE : length + 1
      start = end
      length++
    }
    return length
  }

  #spellBytes(word: string, at: number, tokens: number[]): void {
    const { vocabulary, endOfWord } = this.#config
    const { next, starts } = this.#chain
    const text = next[at] === NONE ? word.slice(starts[at]) + endOfWord : word.slice(starts[at], starts[next[at]!])
    const ids = Array.from(Buffer.from(text), (byte) =>
      vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`),
    )
    if (ids.every((id) => id !== undefined)) tokens.push(...ids)
    else tokens.push(UNKNOWN)
  }
}

function isCharacter(text: string): boolean {
  return text.length === 1 || (text.length === 2 && text.codePointAt(0)! > 0xffff)
}

function makeChain(length: number): Chain {
  const numbers = () => new Int32Array(length)
  return {
    symbols: numbers(),
    starts: numbers(),
    next: numbers(),
    previous: numbers(),
    ranks: numbers(),
    // Each merge takes one out and puts up to two in.
    heap: new Float64Array(2 * length),
  }
}

function mergeAll(chain: Chain, length: number, pairs: PairTable): void {
  const { symbols, next, previous, ranks, heap } = chain
  let size = 0
  const consider = (at: number) => {
    const rank = next[at] === NONE ? NONE : pairs.rank(symbols[at]!, symbols[next[at]!]!)
    ranks[at] = rank
    if (rank !== NONE) push(heap, size++, rank * PLACES + at)
  }
  for (let at = 0; at < length; at++) consider(at)
  while (size > 0) {
    const least = heap[0]!
    pop(heap, size--)
    const rank = Math.floor(least / PLACES)
    const at = least - rank * PLACES
    // One of the two is another symbol by now.
    if (ranks[at] !== rank) continue
    const other = next[at]!
    symbols[at] = pairs.merged(symbols[at]!, symbols[other]!)
    ranks[other] = NONE
    const after = next[other]!
    next[at] = after
    if (after !== NONE) previous[after] = at
    consider(at)
    if (previous[at] !== NONE) consider(previous[at]!)
  }
}

function push(heap: Float64Array, size: number, key: number): void {
  let at = size
  while (at > 0) {
    const parent = (at - 1) >>> 1
    if (heap[parent]! <= key) break
    heap[at] = heap[parent]!
    at = parent
  }
  heap[at] = key
}

function pop(heap: Float64Array, size: number): void {
  const last = size - 1
  const key = heap[last]!
  let at = 0
  for (let child = 1; child < last; child = 2 * at + 1) {
    if (child + 1 < last && heap[child + 1]! < heap[child]!) child++
    if (heap[child]! >= key) break
    heap[at] = heap[child]!
    at = child
  }
  heap[at] = key
}

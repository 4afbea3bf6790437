/** Merges by the two symbols that they take: a hash table without objects, with linear probing. */
export class PairTable {
  /** A row: left + 1, of which 0 is an empty row, right, rank, merged. */
  readonly #rows: Int32Array
  readonly #mask: number

  /** Of at most so many pairs. */
  constructor(pairs: number) {
    let capacity = 16
    while (capacity < 2 * pairs) capacity *= 2
    this.#rows = new Int32Array(4 * capacity)
    this.#mask = capacity - 1
  }

  /** The last that is said of a pair holds. Symbols are from 0 on. */
  set(left: number, right: number, rank: number, merged: number): void {
    this.#rows.set([left + 1, right, rank, merged], this.#find(left, right))
  }

  /** -1 where the two do not merge. */
  rank(left: number, right: number): number {
    const at = this.#find(left, right)
    return this.#rows[at] === 0 ? -1 : this.#rows[at + 2]!
  }

  /** Of two that merge. */
  merged(left: number, right: number): number {
    return this.#rows[this.#find(left, right) + 3]!
  }

  /** Where the pair's row begins, or would. */
  #find(left: number, right: number): number {
    const rows = this.#rows
    let row = Math.imul(Math.imul(left, 0x9e3779b1) ^ (right + 0x7f4a7c15), 0x85ebca6b)
    row = (row ^ (row >>> 15)) & this.#mask
    while (rows[4 * row] !== 0 && (rows[4 * row] !== left + 1 || rows[4 * row + 1] !== right)) {
      row = (row + 1) & this.#mask
    }
    return 4 * row
  }
}

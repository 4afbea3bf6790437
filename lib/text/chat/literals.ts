/** Literals in a text that is still being written. */

export type Match = number | 'partial' | undefined

const isSpace = (character: string | undefined) => character !== undefined && /\s/.test(character)

export function skipSpace(text: string, at: number): number {
  let end = at
  while (isSpace(text[end])) end++
  return end
}

/** Where a literal that begins at `at` ends; 'partial' if the text ends within it. */
export function matchAt(text: string, at: number, literal: string): Match {
  let position = at
  for (let index = 0; index < literal.length; index++) {
    if (isSpace(literal[index])) {
      if (isSpace(literal[index + 1])) continue
      position = skipSpace(text, position)
      continue
    }
    if (position >= text.length) return 'partial'
    if (text[position] !== literal[index]) return undefined
    position++
  }
  return position
}

export interface Found<T> {
  at: number
  end: number
  what: T
}

/**
 * The first of several literals in a text, the longest where two begin together; or from where on the text must wait,
 * since a literal may begin there.
 */
export function findFirst<T>(
  text: string,
  literals: readonly (readonly [literal: string, what: T])[],
): Found<T> | { wait: number } {
  const wanted = literals.filter(([literal]) => literal !== '').sort(([a], [b]) => b.length - a.length)
  const starts = [...new Set(wanted.map(([literal]) => literal[0]!))]
  const next = (from: number) => {
    const places = starts.map((start) => text.indexOf(start, from)).filter((at) => at !== -1)
    return places.length === 0 ? text.length : Math.min(...places)
  }
  for (let at = next(0); at < text.length; at = next(at + 1)) {
    let partial = false
    for (const [literal, what] of wanted) {
      if (text[at] !== literal[0]) continue
      const end = matchAt(text, at, literal)
      if (typeof end === 'number' && !partial) return { at, end, what }
      partial ||= end === 'partial'
    }
    if (partial) return { wait: at }
  }
  return { wait: text.length }
}

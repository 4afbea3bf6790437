/** What two texts have in common. */

const BOUNDARY = /[<[{(\s]/

/** What two texts begin with; no part of a tag. */
export function commonStart(a: string, b: string): string {
  let length = 0
  while (length < a.length && a[length] === b[length]) length++
  const rest = [a, b].some((text) => length < text.length)
  const open = Math.max(a.lastIndexOf('<', length - 1), a.lastIndexOf('[', length - 1))
  const isCut = rest && open !== -1 && open >= 0 && !/[>\]]/.test(a.slice(open, length))
  return a.slice(0, isCut ? open : length)
}

/** What two texts end with; no part of a tag. */
export function commonEnd(a: string, b: string): string {
  let length = 0
  while (length < Math.min(a.length, b.length) && a.at(-1 - length) === b.at(-1 - length)) length++
  const text = a.slice(a.length - length)
  if (length === a.length || length === b.length || BOUNDARY.test(text.slice(0, 1))) return text
  const start = text.search(BOUNDARY)
  return start === -1 ? '' : text.slice(start)
}

/** Where two texts differ: what is before, what the first has there, what is behind. The middle is whole words. */
export function difference(a: string, b: string): [head: string, middle: string, tail: string] {
  let start = 0
  while (start < a.length && a[start] === b[start]) start++
  while (/\w/.test(a[start - 1] ?? '')) start--
  let end = 0
  while (end < a.length - start && a.at(-1 - end) === b.at(-1 - end)) end++
  while (/\w/.test(a[a.length - end] ?? '')) end--
  return [a.slice(0, start), a.slice(start, a.length - end), a.slice(a.length - end)]
}

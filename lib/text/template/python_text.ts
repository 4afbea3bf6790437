/** What Python's texts can do, where JavaScript's do it otherwise. */
import { count, text } from './arguments.ts'
import { bounded, spend, spendText } from './meter.ts'
import { type Arguments, method } from './methods.ts'
import { valueError } from './problems.ts'
import { characters, Tuple, type Value } from './values.ts'

/** Python's white space, as a class of a regular expression: not quite JavaScript's. */
export const SPACE = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'

const LEADING = new RegExp(`^${SPACE}+`)

const isSpace = (character: string) => LEADING.test(character)

const BREAK = '[\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029]'

const LINE_END = new RegExp(`\\r\\n|${BREAK}`)

export function strip(value: string, side: 'both' | 'left' | 'right', set?: Value): string {
  if (set === undefined || set === null) {
    const rest = side === 'both' ? value.trim() : side === 'left' ? value.trimStart() : value.trimEnd()
    spendText(value.length - rest.length)
    if (!value.includes('\uFEFF') && !isSpace(rest.slice(0, 1)) && !isSpace(rest.slice(-1))) return rest
  }
  const wanted = set === undefined || set === null ? undefined : new Set(text(set))
  const drops = (character: string) => (wanted ? wanted.has(character) : isSpace(character))
  let [start, end] = [0, value.length]
  if (side !== 'right') {
    for (let next = first(value, start); start < end && drops(next); next = first(value, start)) start += next.length
  }
  if (side !== 'left') {
    for (let next = last(value, end); end > start && drops(next); next = last(value, end)) end -= next.length
  }
  spendText(value.length - (end - start))
  return value.slice(start, end)
}

const first = (value: string, start: number) => String.fromCodePoint(value.codePointAt(start) ?? 0)

const last = (value: string, end: number) =>
  end >= 2 && value.codePointAt(end - 2)! > 0xffff ? value.slice(end - 2, end) : value.charAt(end - 1)

/** The part of a text that find(), count() and startswith() look at. */
export function window(
  value: string,
  start: Value | undefined,
  stop: Value | undefined,
): [part: string, offset: number] {
  if (start === undefined && stop === undefined) return [value, 0]
  spendText(value.length)
  const all = [...characters(value)]
  const clamp = (bound: number) => Math.min(all.length, Math.max(0, bound < 0 ? bound + all.length : bound))
  const from = clamp(count(start, 0))
  return [all.slice(from, clamp(count(stop, all.length))).join(''), from]
}

export function split(value: string, separator: Value | undefined, limit: number, fromRight: boolean): Value[] {
  spendText(value.length)
  if (separator === undefined || separator === null) return splitWords(value, limit, fromRight)
  const by = text(separator)
  if (by === '') throw valueError('empty separator')
  const parts = value.split(by)
  spend(parts.length)
  if (limit < 0 || parts.length <= limit + 1) return parts
  if (fromRight) return [parts.slice(0, parts.length - limit).join(by), ...parts.slice(parts.length - limit)]
  return [...parts.slice(0, limit), parts.slice(limit).join(by)]
}

function splitWords(value: string, limit: number, fromRight: boolean): Value[] {
  const words = [...value.matchAll(new RegExp(`[^${SPACE.slice(1, -1)}]+`, 'g'))]
  spend(words.length)
  if (limit < 0 || words.length <= limit) return words.map(([word]) => word)
  if (fromRight) {
    const kept = words.slice(words.length - limit)
    const rest = strip(value.slice(0, kept[0]?.index ?? value.length), 'right')
    return [...(rest === '' ? [] : [rest]), ...kept.map(([word]) => word)]
  }
  const kept = words.slice(0, limit)
  const rest = strip(value.slice(words[limit]!.index), 'left')
  return [...kept.map(([word]) => word), rest]
}

export function splitLines(value: string, keepEnds = false): string[] {
  spendText(value.length)
  const lines: string[] = []
  let rest = value
  for (let match = LINE_END.exec(rest); match; match = LINE_END.exec(rest)) {
    spend()
    lines.push(rest.slice(0, match.index + (keepEnds ? match[0].length : 0)))
    rest = rest.slice(match.index + match[0].length)
  }
  return rest === '' ? lines : [...lines, rest]
}

export function occurrences(value: string, part: string): number {
  if (part === '') return characters(value).length + 1
  let found = 0
  for (let at = value.indexOf(part); at !== -1; at = value.indexOf(part, at + part.length)) found++
  return found
}

export function replace(value: string, old: string, next: string, limit = -1): string {
  spendText(value.length)
  const found = occurrences(value, old)
  const times = limit < 0 ? found : Math.min(found, limit)
  spendText(value.length + times * Math.max(0, next.length - old.length))
  if (old === '') {
    const all = [...characters(value)]
    return (
      all.map((character, index) => (index < times ? next : '') + character).join('') + (times > all.length ? next : '')
    )
  }
  if (times === found) return value.replaceAll(old, () => next)
  const parts = value.split(old)
  return (
    parts.slice(0, times + 1).join(next) +
    parts
      .slice(times + 1)
      .map((part) => old + part)
      .join('')
  )
}

export const capitalize = (value: string) => {
  const [first = '', ...rest] = characters(value)
  return first.toUpperCase() + rest.join('').toLowerCase()
}

export function justify(value: string, args: Arguments, share: (missing: number) => number): string {
  const missing = Math.max(0, count(args[0], 0) - characters(value).length)
  const fill = text(args[1], ' ')
  spendText(missing + value.length)
  const left = share(missing)
  return fill.repeat(left) + value + fill.repeat(missing - left)
}

/** Python puts the odd space to the left where both the width and what is missing are odd. */
export const center = (value: string, args: Arguments) =>
  justify(value, args, (missing) => Math.floor(missing / 2) + (missing & count(args[0], 0) & 1))

export function partition(value: string, separator: Value | undefined, fromRight: boolean): Value {
  const by = text(separator)
  if (by === '') throw valueError('empty separator')
  spendText(value.length)
  const at = fromRight ? value.lastIndexOf(by) : value.indexOf(by)
  if (at === -1) return new Tuple(fromRight ? ['', '', value] : [value, '', ''])
  return new Tuple([value.slice(0, at), by, value.slice(at + by.length)])
}

export function find(value: string, [part, start, stop]: Arguments, fromRight: boolean): number {
  spendText(value.length)
  const [seen, offset] = window(value, start, stop)
  const at = fromRight ? seen.lastIndexOf(text(part)) : seen.indexOf(text(part))
  return at === -1 ? -1 : offset + characters(seen.slice(0, at)).length
}

export function index(value: string, args: Arguments, fromRight: boolean): number {
  const at = find(value, args, fromRight)
  if (at === -1) throw valueError('substring not found')
  return at
}

export function hasEnd(
  value: string,
  [part, start, stop]: Arguments,
  test: (value: string, part: string) => boolean,
): boolean {
  const [seen] = window(value, start, stop)
  const parts = part instanceof Tuple ? part.items : [part]
  return parts.some((one) => {
    spendText(value.length)
    return test(seen, text(one))
  })
}

/** Every character is of a class, and there is one. */
export const every = (expression: RegExp) =>
  method<string>('', (value) => {
    spendText(value.length)
    return expression.test(value)
  })

/** Has letters, all of them in one case. */
export const cased = (unlike: RegExp) =>
  method<string>('', (value) => {
    spendText(value.length)
    return /[\p{Lu}\p{Ll}\p{Lt}]/u.test(value) && !unlike.test(value)
  })

export const title = (value: string) => value.replace(/\p{L}+/gu, (word) => capitalize(word))

export function joined(parts: string[], separator: string): string {
  const length = parts.reduce((sum, part) => sum + part.length, 0) + separator.length * Math.max(0, parts.length - 1)
  spend(parts.length)
  spendText(length)
  return parts.join(separator)
}

export function expandTabs(value: string, size: number): string {
  let column = 0
  let result = ''
  spendText(value.length)
  for (const character of value) {
    const piece = character === '\t' ? ' '.repeat(size > 0 ? size - (column % size) : 0) : character
    column = character === '\n' || character === '\r' ? 0 : column + piece.length
    result = bounded(result + piece)
  }
  return result
}

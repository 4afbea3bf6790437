/** Methods of Python's texts, lists, tuples and dicts. Those that change their object are refused, as transformers does. */
import { bind, count, text } from './arguments.ts'
import { bounded, spend, spendText } from './meter.ts'
import { equals } from './operators.ts'
import { Lacking, PythonError, typeError, undefinedError, valueError } from './problems.ts'
import { changed, formatFields } from './text.ts'
import {
  Callable,
  characters,
  Dict,
  Float,
  iterate,
  type Named,
  orElse,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.ts'

type Arguments = (Value | undefined)[]

interface Method<T> {
  names: readonly string[]
  run: (self: T, args: Arguments) => Value
}

const method = <T>(names: string, run: (self: T, args: Arguments) => Value): Method<T> => ({
  names: names.split(' ').filter(Boolean),
  run,
})

/** Python's white space, as a class of a regular expression: not quite JavaScript's. */
const SPACE = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
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
function window(value: string, start: Value | undefined, stop: Value | undefined): [part: string, offset: number] {
  if (start === undefined && stop === undefined) return [value, 0]
  const all = [...characters(value)]
  const clamp = (bound: number) => Math.min(all.length, Math.max(0, bound < 0 ? bound + all.length : bound))
  const from = clamp(count(start, 0))
  return [all.slice(from, clamp(count(stop, all.length))).join(''), from]
}

function split(value: string, separator: Value | undefined, limit: number, fromRight: boolean): Value[] {
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

function occurrences(value: string, part: string): number {
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

function justify(value: string, args: Arguments, share: (missing: number) => number): string {
  const missing = Math.max(0, count(args[0], 0) - characters(value).length)
  const fill = text(args[1], ' ')
  spendText(missing + value.length)
  const left = share(missing)
  return fill.repeat(left) + value + fill.repeat(missing - left)
}

/** Python puts the odd space to the left where both the width and what is missing are odd. */
export const center = (value: string, args: Arguments) =>
  justify(value, args, (missing) => Math.floor(missing / 2) + (missing & count(args[0], 0) & 1))

function partition(value: string, separator: Value | undefined, fromRight: boolean): Value {
  const by = text(separator)
  if (by === '') throw valueError('empty separator')
  spendText(value.length)
  const at = fromRight ? value.lastIndexOf(by) : value.indexOf(by)
  if (at === -1) return new Tuple(fromRight ? ['', '', value] : [value, '', ''])
  return new Tuple([value.slice(0, at), by, value.slice(at + by.length)])
}

function find(value: string, [part, start, stop]: Arguments, fromRight: boolean): number {
  spendText(value.length)
  const [seen, offset] = window(value, start, stop)
  const at = fromRight ? seen.lastIndexOf(text(part)) : seen.indexOf(text(part))
  return at === -1 ? -1 : offset + characters(seen.slice(0, at)).length
}

function index(value: string, args: Arguments, fromRight: boolean): number {
  const at = find(value, args, fromRight)
  if (at === -1) throw valueError('substring not found')
  return at
}

function hasEnd(
  value: string,
  [part, start, stop]: Arguments,
  test: (value: string, part: string) => boolean,
): boolean {
  spend()
  const [seen] = window(value, start, stop)
  const parts = part instanceof Tuple ? part.items : [part]
  return parts.some((one) => test(seen, text(one)))
}

/** Every character is of a class, and there is one. */
const every = (expression: RegExp) =>
  method<string>('', (value) => {
    spendText(value.length)
    return expression.test(value)
  })

/** Has letters, all of them in one case. */
const cased = (unlike: RegExp) =>
  method<string>('', (value) => {
    spendText(value.length)
    return /[\p{Lu}\p{Ll}\p{Lt}]/u.test(value) && !unlike.test(value)
  })

const title = (value: string) => value.replace(/\p{L}+/gu, (word) => capitalize(word))

const TEXTS: Record<string, Method<string>> = {
  capitalize: method('', (value) => {
    spendText(value.length)
    return capitalize(value)
  }),
  casefold: method('', (value) => changed(value, (part) => part.toLowerCase().replaceAll('ß', 'ss'))),
  center: method('width fillchar', center),
  count: method('sub start end', (value, [part, start, stop]) => {
    spendText(value.length)
    const [seen] = window(value, start, stop)
    return occurrences(seen, text(part))
  }),
  endswith: method('suffix start end', (value, args) => hasEnd(value, args, (seen, part) => seen.endsWith(part))),
  expandtabs: method('tabsize', (value, [size]) => expandTabs(value, count(size, 8))),
  find: method('sub start end', (value, args) => find(value, args, false)),
  index: method('sub start end', (value, args) => index(value, args, false)),
  isalnum: every(/^[\p{L}\p{N}]+$/u),
  isalpha: every(/^\p{L}+$/u),
  isascii: every(/^[\0-\x7f]*$/),
  isdecimal: every(/^\p{Nd}+$/u),
  isdigit: every(/^[\p{Nd}²³¹⁰⁴-⁹₀-₉①-⑨]+$/u),
  isidentifier: every(/^[\p{ID_Start}_]\p{ID_Continue}*$/u),
  islower: cased(/[\p{Lu}\p{Lt}]/u),
  isnumeric: every(/^\p{N}+$/u),
  isprintable: every(/^(?: |[^\p{C}\p{Z}])*$/u),
  isspace: every(new RegExp(`^${SPACE}+$`)),
  istitle: method('', (value) => /\p{L}/u.test(value) && title(value) === value),
  isupper: cased(/[\p{Ll}\p{Lt}]/u),
  join: method('iterable', (value, [items]) => {
    const parts = iterate(items!).map((item, position) => {
      if (typeof item === 'string') return item
      if (item instanceof Undefined) throw item.problem()
      throw typeError(`sequence item ${position}: expected str instance, ${typeName(item)} found`)
    })
    return joined(parts, value)
  }),
  ljust: method('width fillchar', (value, args) => justify(value, args, () => 0)),
  lower: method('', (value) => changed(value, (part) => part.toLowerCase())),
  lstrip: method('chars', (value, [set]) => strip(value, 'left', set)),
  partition: method('sep', (value, [by]) => partition(value, by, false)),
  removeprefix: method('prefix', (value, [part]) =>
    value.startsWith(text(part)) ? value.slice(text(part).length) : value,
  ),
  removesuffix: method('suffix', (value, [part]) =>
    part !== '' && value.endsWith(text(part)) ? value.slice(0, value.length - text(part).length) : value,
  ),
  replace: method('old new count', (value, [old, next, limit]) =>
    replace(value, text(old), text(next), count(limit, -1)),
  ),
  rfind: method('sub start end', (value, args) => find(value, args, true)),
  rindex: method('sub start end', (value, args) => index(value, args, true)),
  rjust: method('width fillchar', (value, args) => justify(value, args, (missing) => missing)),
  rpartition: method('sep', (value, [by]) => partition(value, by, true)),
  rsplit: method('sep maxsplit', (value, [by, limit]) => split(value, by, count(limit, -1), true)),
  rstrip: method('chars', (value, [set]) => strip(value, 'right', set)),
  split: method('sep maxsplit', (value, [by, limit]) => split(value, by, count(limit, -1), false)),
  splitlines: method('keepends', (value, [keep]) => splitLines(value, keep === true || keep === 1)),
  startswith: method('prefix start end', (value, args) => hasEnd(value, args, (seen, part) => seen.startsWith(part))),
  strip: method('chars', (value, [set]) => strip(value, 'both', set)),
  swapcase: method('', (value) =>
    changed(value, (part) =>
      part.replace(/\p{L}/gu, (letter) =>
        letter === letter.toLowerCase() ? letter.toUpperCase() : letter.toLowerCase(),
      ),
    ),
  ),
  title: method('', (value) => changed(value, title)),
  upper: method('', (value) => changed(value, (part) => part.toUpperCase())),
  zfill: method('width', (value, [width]) => {
    const [, sign, digits] = /^([+-]?)(.*)$/s.exec(value)!
    return sign + justify(digits!, [count(width, 0) - sign!.length, '0'], (missing) => missing)
  }),
}

export function joined(parts: string[], separator: string): string {
  const length = parts.reduce((sum, part) => sum + part.length, 0) + separator.length * Math.max(0, parts.length - 1)
  spend(parts.length)
  spendText(length)
  return parts.join(separator)
}

function expandTabs(value: string, size: number): string {
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

type Sequence = Value[]

const SEQUENCES: Record<string, Method<Sequence>> = {
  count: method('value', (items, [value]) => items.filter((item) => equals(item, value!)).length),
  index: method('value', (items, [value]) => {
    const at = items.findIndex((item) => equals(item, value!))
    if (at === -1) throw valueError('the value is not in the list')
    return at
  }),
}

const LISTS: Record<string, Method<Sequence>> = { ...SEQUENCES, copy: method('', (items) => [...items]) }

const view = (type: string, pick: (entry: [Value, Value]) => Value) =>
  method<Dict>('', (dict) => {
    spend(dict.size)
    return new View(type, dict.entries().map(pick), false)
  })

const DICTS: Record<string, Method<Dict>> = {
  copy: method('', (dict) => new Dict(dict.entries())),
  get: method('key default', (dict, [key, fallback = null]) => orElse(dict.get(key!), () => fallback)),
  items: view('dict_items', (entry) => new Tuple(entry)),
  keys: view('dict_keys', ([key]) => key),
  values: view('dict_values', ([, value]) => value),
}

const FLOATS: Record<string, Method<Float>> = {
  is_integer: method('', (float) => Number.isInteger(float.value)),
}

/** Methods that change what they belong to. */
const CHANGING: Record<string, readonly string[]> = {
  list: ['append', 'clear', 'extend', 'insert', 'pop', 'remove', 'reverse', 'sort'],
  dict: ['clear', 'pop', 'popitem', 'setdefault', 'update'],
}

/** Methods that Python has and templates hardly use. */
const ABSENT: Record<string, readonly string[]> = {
  str: ['encode', 'maketrans', 'translate'],
  dict: ['fromkeys'],
  int: ['as_integer_ratio', 'bit_count', 'bit_length', 'conjugate', 'to_bytes'],
  float: ['as_integer_ratio', 'hex'],
}

function makeMethod<T>(name: string, self: T, { names, run }: Method<T>): Callable {
  return new Callable(name, (args, named) => run(self, bind(name, names, args, named)))
}

/** The method of a value, if Python has one of that name. */
export function methodOf(value: Value, name: string): Value | undefined {
  const type = typeName(value)
  if (CHANGING[type]?.includes(name)) {
    return new Undefined(
      () =>
        new Lacking(`${type}.${name}() changes its object, which templates may not do (transformers refuses it too)`),
    )
  }
  if (ABSENT[type]?.includes(name)) {
    return new Callable(name, () => {
      throw new Lacking(`the method ${type}.${name}() is not supported`)
    })
  }
  if (typeof value === 'string') {
    if (name === 'format' || name === 'format_map') return formatMethod(value, name)
    return own(TEXTS, name, value)
  }
  if (Array.isArray(value)) return own(LISTS, name, value)
  if (value instanceof Tuple) return own(SEQUENCES, name, value.items)
  if (value instanceof Dict) return own(DICTS, name, value)
  return value instanceof Float ? own(FLOATS, name, value) : undefined
}

function own<T>(table: Record<string, Method<T>>, name: string, self: T): Callable | undefined {
  return Object.hasOwn(table, name) ? makeMethod(name, self, table[name]!) : undefined
}

function formatMethod(value: string, name: string): Callable {
  return new Callable(name, (args, named) => {
    const [mapping] = args
    const values: Named =
      name === 'format' || !(mapping instanceof Dict)
        ? named
        : new Map(mapping.entries().map(([key, item]) => [String(key), item]))
    let automatic = 0
    return formatFields(value, (field) => {
      const [, base, path] = /^([^.[]*)(.*)$/s.exec(field)!
      const key = base === '' ? String(automatic++) : base!
      const start = /^\d+$/.test(key) ? args[Number(key)] : values.get(key)
      if (start === undefined) {
        throw /^\d+$/.test(key)
          ? new PythonError('IndexError', 'Replacement index out of range for positional args')
          : new PythonError('KeyError', `'${key}'`)
      }
      return [...path!.matchAll(/\.([^.[]+)|\[([^\]]*)\]/g)].reduce<Value>((owner, [, attribute, item]) => {
        const found = attribute !== undefined ? fieldOf(owner, attribute) : fieldOf(owner, item!)
        if (found === undefined)
          throw undefinedError(`'${typeName(owner)} object' has no attribute '${attribute ?? item}'`)
        return found
      }, start)
    })
  })
}

function fieldOf(owner: Value, name: string): Value | undefined {
  if (owner instanceof Dict) return owner.get(/^\d+$/.test(name) ? Number(name) : name)
  const items = Array.isArray(owner) ? owner : owner instanceof Tuple ? owner.items : undefined
  return /^\d+$/.test(name) ? items?.[Number(name)] : undefined
}

/** Jinja's filters, and tojson as transformers has it. */

import { attributePath } from './access.ts'
import { bind, count, text } from './arguments.ts'
import { jsonStyle, parseJson, toJson } from './json.ts'
import { bounded, spend, spendText } from './meter.ts'
import { capitalize, center, joined, replace, splitLines, strip } from './methods.ts'
import { binary, compare, equals } from './operators.ts'
import { Lacking, typeError, valueError } from './problems.ts'
import { TESTS, testNamed } from './tests.ts'
import { changed, fixed, percent, repr, str, toNumber } from './text.ts'
import {
  Dict,
  Float,
  integer,
  isInteger,
  isNumber,
  iterate,
  lengthOf,
  type Named,
  orElse,
  Tuple,
  truth,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.ts'

type Arguments = readonly (Value | undefined)[]

export type Filter = (value: Value, args: readonly Value[], named: Named) => Value

/** A filter with arguments that have names. */
const filter =
  (names: string, run: (value: Value, args: Arguments) => Value): Filter =>
  (value, args, named) =>
    run(value, bind('the filter', names.split(' ').filter(Boolean), args, named))

/** A filter on the text of a value. */
const onText = (names: string, run: (value: string, args: Arguments) => Value) =>
  filter(names, (value, args) => run(str(value), args))

const isTrue = (value: Value | undefined) => value !== undefined && truth(value)

/** For orders and comparisons that pass over case. */
const folded = (value: Value): Value => (typeof value === 'string' ? value.toLowerCase() : value)

/** The part of an item that a filter looks at: an attribute's path, folded unless case counts. */
function keyed(attribute: Value | undefined, caseSensitive: boolean, fallback?: Value): (item: Value) => Value {
  const fold = (value: Value) => (caseSensitive ? value : folded(value))
  if (attribute === undefined || attribute === null) return fold
  return (item) => fold(attributePath(item, attribute, fallback))
}

/** Stable, by the order of Python. */
function sorted(items: Value[], key: (item: Value) => Value, reverse: boolean): Value[] {
  const keys = items.map((item) => [key(item), item] as const)
  const sign = reverse ? -1 : 1
  return keys.sort(([a], [b]) => sign * compare(a, b)).map(([, item]) => item)
}

function sort(value: Value, [reverse, caseSensitive, attribute]: Arguments): Value {
  const paths = typeof attribute === 'string' ? attribute.split(',') : [attribute ?? null]
  const keys = paths.map((path) => keyed(path, isTrue(caseSensitive)))
  const key = (item: Value) => (keys.length === 1 ? keys[0]!(item) : new Tuple(keys.map((one) => one(item))))
  return sorted([...iterate(value)], key, isTrue(reverse))
}

function dictsort(value: Value, [caseSensitive, by = 'key', reverse]: Arguments): Value {
  if (!(value instanceof Dict)) throw typeError(`dictsort takes a dict, not ${typeName(value)}`)
  if (by !== 'key' && by !== 'value') throw valueError('You can only sort by either "key" or "value"')
  const fold = keyed(null, isTrue(caseSensitive))
  const pairs = value.entries().map((entry): Value => new Tuple(entry))
  return sorted(pairs, (pair) => fold((pair as Tuple).items[by === 'key' ? 0 : 1]!), isTrue(reverse))
}

function extreme(value: Value, [caseSensitive, attribute]: Arguments, sign: number): Value {
  const items = iterate(value)
  if (items.length === 0) return new Undefined(() => typeError('No aggregated item, sequence was empty.'))
  const key = keyed(attribute, isTrue(caseSensitive))
  return items.reduce((best, item) => (sign * compare(key(item), key(best)) > 0 ? item : best))
}

function unique(value: Value, [caseSensitive, attribute]: Arguments): Value {
  const key = keyed(attribute, isTrue(caseSensitive))
  const seen = new Dict()
  const items = iterate(value).filter((item) => {
    spend()
    const one = key(item)
    const isNew = !seen.has(one)
    seen.set(one, true)
    return isNew
  })
  return View.generator(items)
}

function groupby(value: Value, [attribute, fallback, caseSensitive]: Arguments): Value {
  const exact = keyed(attribute, true, fallback)
  const key = keyed(attribute, isTrue(caseSensitive), fallback)
  const groups: [folded: Value, list: Value[]][] = []
  for (const item of sorted([...iterate(value)], key, false)) {
    const last = groups.at(-1)
    if (last && equals(last[0], key(item))) last[1].push(item)
    else groups.push([key(item), [item]])
  }
  return groups.map(([, list]) => new Tuple([exact(list[0]!), list], ['grouper', 'list']))
}

/** Items in rows of a length. */
function batch(value: Value, [length, fill]: Arguments): Value {
  const size = count(length, 1)
  if (!(size >= 1)) throw valueError('batch() takes rows of one item or more')
  const items = iterate(value)
  spend(items.length)
  const rows: Value[] = []
  for (let start = 0; start < items.length; start += size)
    rows.push(filled(items.slice(start, start + size), size, fill))
  return View.generator(rows)
}

function filled(row: Value[], size: number, fill: Value | undefined): Value[] {
  if (fill === undefined || fill === null) return row
  const missing = Math.max(0, size - row.length)
  spend(missing)
  return [...row, ...Array<Value>(missing).fill(fill)]
}

/** Items in a number of columns. */
function columns(value: Value, [slices, fill]: Arguments): Value {
  const items = iterate(value)
  const wanted = count(slices, 1)
  if (!(wanted >= 1)) throw valueError('slice() takes one column or more')
  spend(items.length + wanted)
  const each = Math.floor(items.length / wanted)
  const more = items.length % wanted
  let start = 0
  const all = Array.from({ length: wanted }, (_, index): Value => {
    const column = items.slice(start, start + each + (index < more ? 1 : 0))
    start += column.length
    return index >= more && fill !== undefined && fill !== null ? [...column, fill] : column
  })
  return View.generator(all)
}

/** The test that select() and its kin apply: by name with arguments, or truth itself. */
function chooser([name, ...args]: readonly Value[]): (value: Value) => boolean {
  if (name === undefined) return truth
  const test = testNamed(text(name))
  return (value) => test(value, args)
}

/** Items of what select() and map() go through: nothing at all passes for an empty list. */
function itemsOf(value: Value): Value[] {
  const items = truth(value) ? iterate(value) : []
  spend(items.length)
  return items
}

function chosen(value: Value, test: (item: Value) => boolean): View {
  const items = itemsOf(value)
  return View.generator(items.filter(test))
}

const select =
  (wanted: boolean): Filter =>
  (value, args) => {
    const test = chooser(args)
    return chosen(value, (item) => test(item) === wanted)
  }

const selectattr =
  (wanted: boolean): Filter =>
  (value, [attribute, ...args]) => {
    if (attribute === undefined) throw typeError('Missing parameter for attribute name')
    const test = chooser(args)
    return chosen(value, (item) => test(attributePath(item, attribute)) === wanted)
  }

const map: Filter = (value, [name, ...args], named) => {
  const items = itemsOf(value)
  if (name === undefined) {
    const [attribute, fallback] = bind('map', ['attribute', 'default'], [], named)
    if (attribute === undefined) throw typeError('map requires a filter argument')
    return View.generator(items.map((item) => attributePath(item, attribute, fallback)))
  }
  const apply = filterNamed(text(name))
  return View.generator(items.map((item) => apply(item, args, named)))
}

function sum(value: Value, [attribute, start = 0]: Arguments): Value {
  const key = keyed(attribute, true)
  return iterate(value).reduce((total, item) => binary('+', total, key(item)), start)
}

function join(value: Value, [separator = '', attribute]: Arguments): Value {
  const key = keyed(attribute, true)
  return joined(
    iterate(value).map((item) => str(key(item))),
    str(separator),
  )
}

function indent(value: string, [width = 4, isFirst, blank]: Arguments): string {
  const margin = typeof width === 'string' ? width : ' '.repeat(Math.min(10_000, Math.max(0, count(width, 4))))
  const lines = splitLines(`${value}\n`)
  spendText(value.length + margin.length * lines.length)
  return lines
    .map(
      (line, index) =>
        ((index > 0 || isTrue(isFirst)) && (line !== '' || isTrue(blank) || index === 0) ? margin : '') + line,
    )
    .join('\n')
}

function truncate(value: string, [length, killWords, end = '...', leeway]: Arguments): string {
  const size = count(length, 255)
  const tail = text(end)
  const all = Array.from(value)
  spend(all.length)
  if (all.length <= size + count(leeway, 5)) return value
  const kept = all.slice(0, size - tail.length).join('')
  if (isTrue(killWords)) return kept + tail
  const space = kept.lastIndexOf(' ')
  return (space === -1 ? kept : kept.slice(0, space)) + tail
}

function round(value: Value, [precision, method = 'common']: Arguments): Value {
  if (value instanceof Undefined) throw value.problem()
  if (!isNumber(value)) throw typeError(`type ${typeName(value)} doesn't define __round__ method`)
  if (typeof value === 'boolean') return Number(value)
  const digits = count(precision, 0)
  if (method === 'common') {
    if (!(value instanceof Float))
      return digits >= 0 ? value : Math.round(Number(value) / 10 ** -digits) * 10 ** -digits
    if (digits < 0) return new Float(Math.round(value.value / 10 ** -digits) * 10 ** -digits)
    const size = fixed(Math.abs(value.value), Math.min(digits, 60))
    return new Float(Math.sign(value.value) * Number(size))
  }
  if (method !== 'ceil' && method !== 'floor') throw valueError('method must be common, ceil or floor')
  return new Float(Math[method](toNumber(value) * 10 ** digits) / 10 ** digits)
}

function int(value: Value, [fallback = 0, base]: Arguments): Value {
  if (isInteger(value)) return value
  if (typeof value === 'boolean') return Number(value)
  if (value instanceof Float) return Number.isFinite(value.value) ? integer(BigInt(Math.trunc(value.value))) : fallback
  if (value instanceof Undefined) throw value.problem()
  const digits = typeof value === 'string' ? strip(value, 'both').replace(/(?<=\d)_(?=\d)/g, '') : ''
  if (digits.length > 4300) return fallback
  const radix = count(base, 10)
  const [, sign, plain] = /^([+-]?)(?:0[xX](?=.)|0[bB](?=.)|0[oO](?=.))?(.*)$/s.exec(digits)!
  const prefixed = radix !== 10
  const letters = prefixed ? plain! : digits.replace(/^[+-]/, '')
  const valid = new RegExp(`^[${'0123456789abcdefghijklmnopqrstuvwxyz'.slice(0, radix)}]+$`, 'i').test(letters)
  if (valid && radix === 10) return integer(BigInt(letters) * (sign === '-' ? -1n : 1n))
  if (valid) return Number.parseInt(letters, radix) * (sign === '-' ? -1 : 1)
  const float = toFloat(digits)
  return float === undefined || !Number.isFinite(float) ? fallback : integer(BigInt(Math.trunc(float)))
}

function toFloat(digits: string): number | undefined {
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(digits)) return Number(digits)
  const special = /^([+-]?)(inf(?:inity)?|nan)$/i.exec(digits)
  if (!special) return undefined
  return special[2]!.toLowerCase() === 'nan' ? Number.NaN : special[1] === '-' ? -Infinity : Infinity
}

function float(value: Value, [fallback = new Float(0)]: Arguments): Value {
  if (isNumber(value)) return new Float(toNumber(value))
  if (value instanceof Undefined) throw value.problem()
  const parsed = typeof value === 'string' ? toFloat(strip(value, 'both')) : undefined
  return parsed === undefined ? fallback : new Float(parsed)
}

function length(value: Value): Value {
  if (typeof value === 'string') spendText(value.length)
  const size = lengthOf(value)
  if (size === undefined) throw typeError(`object of type '${typeName(value)}' has no len()`)
  return size
}

function reverse(value: Value): Value {
  if (typeof value === 'string') return iterate(value).reverse().join('')
  const items = [...iterate(value)].reverse()
  spend(items.length)
  return new View('list_reverseiterator', items, true)
}

function first(value: Value): Value {
  const item = value instanceof View ? value.next() : iterate(value)[0]
  return orElse(item, () => new Undefined(() => typeError('No first item, sequence was empty.')))
}

const HTML: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', "'": '&#39;', '"': '&#34;' }
const escapeHtml = onText('', (value) =>
  changed(value, (part) => part.replace(/[&<>'"]/g, (character) => HTML[character]!)),
)

const quote = (value: string) =>
  encodeURIComponent(value.replace(/\p{Surrogate}/gu, '\uFFFD'))
    .replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
    .replaceAll('%2F', '/')

const quotePlus = (value: Value) => quote(str(value)).replaceAll('/', '%2F').replaceAll('%20', '+')

function urlencode(value: Value): Value {
  if (typeof value === 'string' || !(value instanceof Dict || Array.isArray(value))) return changed(str(value), quote)
  const pairs = value instanceof Dict ? value.entries() : value.map((pair) => iterate(pair))
  return joined(
    pairs.map((pair) => pair.map(quotePlus).join('=')),
    '&',
  )
}

function filesize(value: Value, [binaryUnits]: Arguments): string {
  const bytes = toNumber(float(value, []) as Float)
  const base = isTrue(binaryUnits) ? 1024 : 1000
  if (bytes === 1) return '1 Byte'
  if (bytes < base) return `${Math.trunc(bytes)} Bytes`
  const power = Math.min(8, Math.floor(Math.log(bytes) / Math.log(base) + 1e-9))
  const letter = 'kMGTPEZY'[power - 1]!
  return `${fixed(bytes / base ** power, 1)} ${isTrue(binaryUnits) ? `${letter.toUpperCase()}iB` : `${letter}B`}`
}

const title = onText('', (value) => changed(value, (part) => part.replace(/[^-\s({[<]+/g, (word) => capitalize(word))))

const wordcount = onText('', (value) => {
  spendText(value.length)
  return [...value.matchAll(/[\p{L}\p{N}_]+/gu)].length
})

const striptags = onText('', (value) => {
  spendText(value.length)
  const plain = value.replace(/<!--[\s\S]{0,100000}?-->/g, '').replace(/<[^>]{0,100000}>/g, '')
  return (plain.match(/\S+/g) ?? []).join(' ')
})

const formatFilter: Filter = (value, args, named) =>
  percent(str(value), named.size > 0 ? new Dict(named) : new Tuple([...args]))

const FILTERS: Record<string, Filter> = {
  abs: filter('', (value) => {
    if (value instanceof Float) return new Float(Math.abs(value.value))
    if (!isInteger(value) && typeof value !== 'boolean')
      throw typeError(`bad operand type for abs(): '${typeName(value)}'`)
    return typeof value !== 'boolean' && value < 0 ? binary('-', 0, value) : binary('+', 0, value)
  }),
  attr: filter('name', (value, [name]) => attributePath(value, name!, undefined, true)),
  batch: filter('linecount fill_with', batch),
  capitalize: onText('', (value) => {
    spendText(value.length)
    return capitalize(value)
  }),
  center: onText('width', (value, [width = 80]) => center(value, [width])),
  count: filter('', length),
  d: filter('default_value boolean', (value, args) => FILTERS.default!(value, args as Value[], new Map())),
  default: filter('default_value boolean', (value, [fallback = '', boolean]) =>
    value instanceof Undefined || (isTrue(boolean) && !truth(value)) ? fallback : value,
  ),
  dictsort: filter('case_sensitive by reverse', dictsort),
  e: escapeHtml,
  escape: escapeHtml,
  filesizeformat: filter('binary', filesize),
  first: filter('', first),
  float: filter('default', float),
  forceescape: escapeHtml,
  format: formatFilter,
  from_json: onText('', parseJson),
  groupby: filter('attribute default case_sensitive', groupby),
  indent: onText('width first blank', indent),
  int: filter('default base', int),
  items: filter('', (value) => {
    if (value instanceof Undefined) return View.generator([])
    if (!(value instanceof Dict)) throw typeError('Can only get item pairs from a mapping.')
    return View.generator(value.entries().map((entry) => new Tuple(entry)))
  }),
  join: filter('d attribute', join),
  last: filter('', (value) => {
    if (value instanceof View && value.once) throw typeError(`'${value.type}' object is not reversible`)
    return orElse(iterate(value).at(-1), () => new Undefined(() => typeError('No last item, sequence was empty.')))
  }),
  length: filter('', length),
  list: filter('', (value) => {
    const items = iterate(value)
    spend(items.length)
    return [...items]
  }),
  lower: onText('', (value) => changed(value, (part) => part.toLowerCase())),
  map,
  max: filter('case_sensitive attribute', (value, args) => extreme(value, args, 1)),
  min: filter('case_sensitive attribute', (value, args) => extreme(value, args, -1)),
  pprint: filter('', (value) => repr(value)),
  reject: select(false),
  rejectattr: selectattr(false),
  replace: onText('old new count', (value, [old, next, limit]) =>
    replace(value, str(old!), str(next!), count(limit, -1)),
  ),
  reverse: filter('', reverse),
  round: filter('precision method', round),
  safe: onText('', (value) => value),
  select: select(true),
  selectattr: selectattr(true),
  slice: filter('slices fill_with', columns),
  sort: filter('reverse case_sensitive attribute', sort),
  string: onText('', (value) => value),
  striptags,
  sum: filter('attribute start', sum),
  title,
  tojson: filter('ensure_ascii indent separators sort_keys', (value, [ascii, width, separators, sortKeys]) => {
    const style = jsonStyle(ascii, width, separators, sortKeys)
    return bounded(toJson(value, style))
  }),
  trim: onText('chars', (value, [set]) => strip(value, 'both', set)),
  truncate: onText('length killwords end leeway', truncate),
  unique: filter('case_sensitive attribute', unique),
  upper: onText('', (value) => changed(value, (part) => part.toUpperCase())),
  urlencode: filter('', urlencode),
  wordcount,
}

export function filterNamed(name: string): Filter {
  if (!Object.hasOwn(FILTERS, name)) throw new Lacking(`there is no filter '${name}'`)
  return FILTERS[name]!
}

TESTS.filter = (value) => typeof value === 'string' && Object.hasOwn(FILTERS, value)
TESTS.test = (value) => typeof value === 'string' && Object.hasOwn(TESTS, value)

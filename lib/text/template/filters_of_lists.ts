/** Filters on lists, and on what of their items is looked at. */
import { attributePath } from './access.ts'
import { bind, count, text } from './arguments.ts'
import type { Arguments, Filter } from './filter.ts'
import { filterNamed } from './filters.ts'
import { spend, spendText } from './meter.ts'
import { binary, compare, equals } from './operators.ts'
import { typeError, valueError } from './problems.ts'
import { joined } from './python_text.ts'
import { testNamed } from './tests.ts'
import { str } from './text.ts'
import { Dict, iterate, Tuple, truth, typeName, Undefined, type Value, View } from './values.ts'

export const isTrue = (value: Value | undefined) => value !== undefined && truth(value)

/** For orders and comparisons that pass over case. */
function folded(value: Value): Value {
  if (typeof value !== 'string') return value
  spendText(value.length)
  return value.toLowerCase()
}

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

export function sort(value: Value, [reverse, caseSensitive, attribute]: Arguments): Value {
  const paths = typeof attribute === 'string' ? attribute.split(',') : [attribute ?? null]
  const keys = paths.map((path) => keyed(path, isTrue(caseSensitive)))
  const key = (item: Value) => (keys.length === 1 ? keys[0]!(item) : new Tuple(keys.map((one) => one(item))))
  return sorted([...iterate(value)], key, isTrue(reverse))
}

export function dictsort(value: Value, [caseSensitive, by = 'key', reverse]: Arguments): Value {
  if (!(value instanceof Dict)) throw typeError(`dictsort takes a dict, not ${typeName(value)}`)
  if (by !== 'key' && by !== 'value') throw valueError('You can only sort by either "key" or "value"')
  const fold = keyed(null, isTrue(caseSensitive))
  const pairs = value.entries().map((entry): Value => new Tuple(entry))
  return sorted(pairs, (pair) => fold((pair as Tuple).items[by === 'key' ? 0 : 1]!), isTrue(reverse))
}

export function extreme(value: Value, [caseSensitive, attribute]: Arguments, sign: number): Value {
  const items = iterate(value)
  if (items.length === 0) return new Undefined(() => typeError('No aggregated item, sequence was empty.'))
  const key = keyed(attribute, isTrue(caseSensitive))
  return items.reduce((best, item) => (sign * compare(key(item), key(best)) > 0 ? item : best))
}

export function unique(value: Value, [caseSensitive, attribute]: Arguments): Value {
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

export function groupby(value: Value, [attribute, fallback, caseSensitive]: Arguments): Value {
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
export function batch(value: Value, [length, fill]: Arguments): Value {
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
export function columns(value: Value, [slices, fill]: Arguments): Value {
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

export const select =
  (wanted: boolean): Filter =>
  (value, args) => {
    const test = chooser(args)
    return chosen(value, (item) => test(item) === wanted)
  }

export const selectattr =
  (wanted: boolean): Filter =>
  (value, [attribute, ...args]) => {
    if (attribute === undefined) throw typeError('Missing parameter for attribute name')
    const test = chooser(args)
    return chosen(value, (item) => test(attributePath(item, attribute)) === wanted)
  }

export const map: Filter = (value, [name, ...args], named) => {
  const items = itemsOf(value)
  if (name === undefined) {
    const [attribute, fallback] = bind('map', ['attribute', 'default'], [], named)
    if (attribute === undefined) throw typeError('map requires a filter argument')
    return View.generator(items.map((item) => attributePath(item, attribute, fallback)))
  }
  const apply = filterNamed(text(name))
  return View.generator(items.map((item) => apply(item, args, named)))
}

export function sum(value: Value, [attribute, start = 0]: Arguments): Value {
  const key = keyed(attribute, true)
  return iterate(value).reduce((total, item) => binary('+', total, key(item)), start)
}

export function join(value: Value, [separator = '', attribute]: Arguments): Value {
  const key = keyed(attribute, true)
  return joined(
    iterate(value).map((item) => str(key(item))),
    str(separator),
  )
}

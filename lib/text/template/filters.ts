/** Jinja's filters, and tojson as transformers has it. */

import { attributePath } from './access.ts'
import { count } from './arguments.ts'
import { type Filter, filter, onText } from './filter.ts'
import {
  batch,
  columns,
  dictsort,
  extreme,
  groupby,
  isTrue,
  join,
  map,
  select,
  selectattr,
  sort,
  sum,
  unique,
} from './filters_of_lists.ts'
import {
  escapeHtml,
  filesize,
  float,
  indent,
  int,
  round,
  striptags,
  title,
  truncate,
  urlencode,
  wordcount,
} from './filters_of_texts.ts'
import { percent } from './format.ts'
import { jsonStyle, parseJson, toJson } from './json.ts'
import { bounded, spend, spendText } from './meter.ts'
import { binary } from './operators.ts'
import { Lacking, typeError } from './problems.ts'
import { capitalize, center, replace, strip } from './python_text.ts'
import { TESTS } from './tests.ts'
import { changed, repr, str } from './text.ts'
import {
  Dict,
  Float,
  isInteger,
  iterate,
  lengthOf,
  orElse,
  Tuple,
  truth,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.ts'

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
  random: () => {
    throw new Lacking("the filter 'random' would make another prompt of the same chat each time")
  },
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

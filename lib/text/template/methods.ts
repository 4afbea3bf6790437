/** Methods of Python's texts, lists, tuples and dicts. Those that change their object are refused, as transformers does. */
import { bind, count, text } from './arguments.ts'
import { formatFields } from './format.ts'
import { spend, spendText } from './meter.ts'
import { equals } from './operators.ts'
import { Lacking, PythonError, typeError, undefinedError, valueError } from './problems.ts'
import {
  capitalize,
  cased,
  center,
  every,
  expandTabs,
  find,
  hasEnd,
  index,
  joined,
  justify,
  occurrences,
  partition,
  replace,
  SPACE,
  split,
  splitLines,
  strip,
  title,
  window,
} from './python_text.ts'
import { changed } from './text.ts'
import {
  Callable,
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

export type Arguments = (Value | undefined)[]

interface Method<T> {
  names: readonly string[]
  run: (self: T, args: Arguments) => Value
}

export const method = <T>(names: string, run: (self: T, args: Arguments) => Value): Method<T> => ({
  names: names.split(' ').filter(Boolean),
  run,
})

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
  istitle: method('', (value) => {
    spendText(value.length)
    return /\p{L}/u.test(value) && title(value) === value
  }),
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

/** Python's operators on values. */

import { percent } from './format.ts'
import { bounded, spend, spendText } from './meter.ts'
import { PythonError, typeError, Unbounded } from './problems.ts'
import { str, toNumber } from './text.ts'
import {
  characters,
  Dict,
  Float,
  type Integer,
  integer,
  isInteger,
  isIterable,
  isNumber,
  iterate,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.ts'

/** Digits beyond which Python itself refuses to print an integer. */
const MAX_BITS = 14_000

export function equals(left: Value, right: Value): boolean {
  spend()
  if (left === right) return true
  if (isNumber(left) && isNumber(right)) {
    const [a, b] = [toComparable(left), toComparable(right)]
    return a <= b && a >= b
  }
  if (Array.isArray(left)) return Array.isArray(right) && sameItems(left, right)
  if (left instanceof Tuple) return right instanceof Tuple && sameItems(left.items, right.items)
  if (left instanceof Range) return right instanceof Range && sameItems(left.items, right.items)
  if (left instanceof Dict) {
    if (!(right instanceof Dict) || left.size !== right.size) return false
    return left.entries().every(([key, item]) => {
      const other = right.get(key)
      return other !== undefined && equals(item, other)
    })
  }
  if (typeof left === 'string' && typeof right === 'string') spendText(Math.min(left.length, right.length))
  return left instanceof Undefined && right instanceof Undefined
}

const toComparable = (value: Integer | Float | boolean) =>
  value instanceof Float ? value.value : isInteger(value) ? value : Number(value)

const sameItems = (left: Value[], right: Value[]) =>
  left.length === right.length && left.every((item, index) => equals(item, right[index]!))

/** Below, equal or above zero, as in sorting. Throws a TypeError where Python knows no order. */
export function compare(left: Value, right: Value, operator = '<'): number {
  spend()
  if (isNumber(left) && isNumber(right)) {
    const [a, b] = [toComparable(left), toComparable(right)]
    return a < b ? -1 : a > b ? 1 : a >= b ? 0 : Number.NaN
  }
  if (typeof left === 'string' && typeof right === 'string') return compareText(left, right)
  const pairs = listsOf(left, right)
  if (pairs) {
    const [a, b] = pairs
    const index = a.findIndex((item, position) => position >= b.length || !equals(item, b[position]!))
    if (index === -1) return a.length === b.length ? 0 : -1
    return index >= b.length ? 1 : compare(a[index]!, b[index]!, operator)
  }
  for (const side of [left, right]) if (side instanceof Undefined) throw side.problem()
  throw typeError(`'${operator}' not supported between instances of '${typeName(left)}' and '${typeName(right)}'`)
}

function listsOf(left: Value, right: Value): [Value[], Value[]] | undefined {
  if (Array.isArray(left) && Array.isArray(right)) return [left, right]
  if (left instanceof Tuple && right instanceof Tuple) return [left.items, right.items]
  return undefined
}

/** By code points; UTF-16 has another order above the surrogates. */
function compareText(left: string, right: string): number {
  spendText(Math.min(left.length, right.length))
  const [a, b] = [characters(left), characters(right)]
  if (typeof a === 'string' && typeof b === 'string') return a < b ? -1 : a > b ? 1 : 0
  for (let index = 0; index < Math.min(a.length, b.length); index++) {
    const difference = a[index]!.codePointAt(0)! - b[index]!.codePointAt(0)!
    if (difference !== 0) return difference
  }
  return a.length - b.length
}

/** left in right */
export function contains(right: Value, left: Value): boolean {
  if (typeof right === 'string') {
    if (typeof left !== 'string') {
      throw typeError(`'in <string>' requires string as left operand, not ${typeName(left)}`)
    }
    spendText(right.length)
    return right.includes(left)
  }
  if (right instanceof Dict) return right.has(left)
  if (!isIterable(right)) throw typeError(`argument of type '${typeName(right)}' is not iterable`)
  return iterate(right).some((item) => equals(item, left))
}

export function binary(operator: string, left: Value, right: Value): Value {
  if (operator === '~') return bounded(str(left) + str(right))
  if (operator === '%' && typeof left === 'string') return percent(left, right)
  for (const side of [left, right]) if (side instanceof Undefined) throw side.problem()
  if (isNumber(left) && isNumber(right)) return arithmetic(operator, left, right)
  if (operator === '+') return concatenate(left, right)
  if (operator === '*') {
    const repeated = repeat(left, right) ?? repeat(right, left)
    if (repeated !== undefined) return repeated
  }
  throw unsupported(operator, left, right)
}

const unsupported = (operator: string, left: Value, right: Value) =>
  typeError(
    `unsupported operand type(s) for ${operator === '**' ? '** or pow()' : operator}: '${typeName(left)}' and '${typeName(right)}'`,
  )

function concatenate(left: Value, right: Value): Value {
  if (typeof left === 'string') {
    if (typeof right === 'string') return bounded(left + right)
    throw typeError(`can only concatenate str (not "${typeName(right)}") to str`)
  }
  const lists = listsOf(left, right)
  if (!lists) throw unsupported('+', left, right)
  const [a, b] = lists
  spend(a.length + b.length)
  return Array.isArray(left) ? [...a, ...b] : new Tuple([...a, ...b])
}

function repeat(value: Value, count: Value): Value | undefined {
  if (!isInteger(count) && typeof count !== 'boolean') return undefined
  const times = Math.max(0, Number(count))
  if (typeof value === 'string') {
    spendText(value.length * times)
    return value.repeat(times)
  }
  const items = Array.isArray(value) ? value : value instanceof Tuple ? value.items : undefined
  if (!items) return undefined
  spend(items.length * times)
  const all = Array.from({ length: times }, () => items).flat()
  return Array.isArray(value) ? all : new Tuple(all)
}

function arithmetic(operator: string, left: Integer | Float | boolean, right: Integer | Float | boolean): Value {
  if (left instanceof Float || right instanceof Float || operator === '/') {
    return new Float(floats(operator, toNumber(left), toNumber(right)))
  }
  const [a, b] = [wholeOf(left), wholeOf(right)]
  const exact = integers(operator, Number(a), Number(b))
  if (typeof a === 'number' && typeof b === 'number' && Number.isSafeInteger(exact)) return exact + 0
  return bigints(operator, BigInt(a), BigInt(b))
}

const wholeOf = (value: Integer | boolean): Integer => (typeof value === 'boolean' ? Number(value) : value)

const zeroDivision = (message: string) => new PythonError('ZeroDivisionError', message)

function floats(operator: string, left: number, right: number): number {
  if (right === 0 && '///%'.includes(operator)) throw zeroDivision('float division by zero')
  switch (operator) {
    case '+':
      return left + right
    case '-':
      return left - right
    case '*':
      return left * right
    case '/':
      return left / right
    case '//':
      return Math.floor(left / right)
    case '%':
      return left - right * Math.floor(left / right)
    case '**':
      return left ** right
  }
  throw typeError(`no operator ${operator}`)
}

/** NaN where the result is no exact integer. */
function integers(operator: string, left: number, right: number): number {
  if (operator === '**') return right < 0 ? Number.NaN : left ** right
  if (right === 0 && (operator === '//' || operator === '%')) throw zeroDivision('integer division or modulo by zero')
  if (operator === '%') return ((left % right) + right) % right
  return floats(operator, left, right)
}

function bigints(operator: string, left: bigint, right: bigint): Value {
  const bits = left.toString(2).length
  spend(bits / 64)
  switch (operator) {
    case '+':
      return integer(left + right)
    case '-':
      return integer(left - right)
    case '*':
      if (bits + right.toString(2).length > MAX_BITS) break
      return integer(left * right)
    case '%':
      return integer(((left % right) + right) % right)
    case '//': {
      const quotient = left / right
      return integer(left % right !== 0n && left < 0n !== right < 0n ? quotient - 1n : quotient)
    }
    case '**':
      if (right < 0n) return new Float(Number(left) ** Number(right))
      if (bits * Number(right) > MAX_BITS) break
      return integer(left ** right)
  }
  throw new Unbounded('an integer without bounds')
}

export function negate(value: Value): Value {
  if (value instanceof Float) return new Float(-value.value)
  if (typeof value === 'bigint') return integer(-value)
  if (typeof value === 'number' || typeof value === 'boolean') return 0 - Number(value)
  if (value instanceof Undefined) throw value.problem()
  throw typeError(`bad operand type for unary -: '${typeName(value)}'`)
}

/** value[start:stop:step] */
export function slice(value: Value, start: Value, stop: Value, step: Value): Value {
  if (value instanceof Undefined) throw value.problem()
  const items = sliceable(value)
  if (!items) throw typeError(`'${typeName(value)}' object is not subscriptable`)
  const bound = (end: Value) => {
    if (end === null) return undefined
    if (isInteger(end) || typeof end === 'boolean') return Number(end)
    throw typeError('slice indices must be integers or None or have an __index__ method')
  }
  const by = bound(step) ?? 1
  if (by === 0) throw new PythonError('ValueError', 'slice step cannot be zero')
  const [low, high] = by > 0 ? [0, items.length] : [-1, items.length - 1]
  const clamp = (end: number) => Math.min(high, Math.max(low, end < 0 ? end + items.length : end))
  const [from, to] = [bound(start), bound(stop)]
  const first = from === undefined ? (by > 0 ? low : high) : clamp(from)
  const last = to === undefined ? (by > 0 ? high : low) : clamp(to)
  if (typeof items === 'string' && by === 1) {
    spend()
    return items.slice(first, Math.max(first, last))
  }
  const picked: Value[] = []
  for (let index = first; by > 0 ? index < last : index > last; index += by) picked.push(items[index]!)
  spend(1 + picked.length / 8)
  if (typeof value === 'string') return picked.join('')
  return Array.isArray(value) ? picked : new Tuple(picked)
}

function sliceable(value: Value): Value[] | string[] | string | undefined {
  if (typeof value === 'string') {
    spendText(value.length)
    return characters(value)
  }
  if (Array.isArray(value)) return value
  return value instanceof Tuple || value instanceof Range ? value.items : undefined
}

/** value[index], of things that are counted; undefined where there is none. */
export function itemAt(value: Value, index: Value): Value | undefined {
  if (!isInteger(index) && typeof index !== 'boolean') return undefined
  if (value instanceof View) return undefined
  const items = sliceable(value)
  return items?.at(Number(index))
}

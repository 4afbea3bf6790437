/** Jinja's tests: what stands after `is`. */

import { spendText } from './meter.ts'
import { compare, contains, equals } from './operators.ts'
import { Lacking, typeError } from './problems.ts'
import { str, toNumber } from './text.ts'
import {
  Callable,
  Dict,
  Float,
  isAttributes,
  isInteger,
  isIterable,
  isNumber,
  lengthOf,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.ts'

export type Test = (value: Value, args: readonly Value[]) => boolean

const remainder = (value: Value, by: Value) => {
  if (value instanceof Undefined) throw value.problem()
  if (!isNumber(value) || !isNumber(by)) throw typeError(`a number was expected, not '${typeName(value)}'`)
  return toNumber(value) % toNumber(by)
}

const order =
  (operator: string, test: (difference: number) => boolean): Test =>
  (value, [other]) =>
    test(compare(value, other!, operator))

const equal: Test = (value, [other]) => equals(value, other!)
const differs: Test = (value, args) => !equal(value, args)
const above = order('>', (difference) => difference > 0)
const atLeast = order('>=', (difference) => difference >= 0)
const below = order('<', (difference) => difference < 0)
const atMost = order('<=', (difference) => difference <= 0)

function isCased(text: string, change: (text: string) => string): boolean {
  spendText(text.length)
  return /[\p{Lu}\p{Ll}\p{Lt}]/u.test(text) && text === change(text)
}

/** Values that are one object, as far as templates can tell. */
const same = (value: Value, other: Value) =>
  value === other || (value instanceof Float && other instanceof Float && value.value === other.value)

export const TESTS: Record<string, Test> = {
  boolean: (value) => typeof value === 'boolean',
  callable: (value) =>
    value instanceof Callable || value instanceof Undefined || (isAttributes(value) && value.call !== undefined),
  defined: (value) => !(value instanceof Undefined),
  divisibleby: (value, [by]) => remainder(value, by!) === 0,
  eq: equal,
  equalto: equal,
  '==': equal,
  escaped: () => false,
  even: (value) => remainder(value, 2) === 0,
  false: (value) => value === false,
  float: (value) => value instanceof Float,
  ge: atLeast,
  '>=': atLeast,
  gt: above,
  greaterthan: above,
  '>': above,
  in: (value, [among]) => contains(among!, value),
  integer: (value) => isInteger(value),
  iterable: (value) => isIterable(value),
  le: atMost,
  '<=': atMost,
  lower: (value) => isCased(str(value), (text) => text.toLowerCase()),
  lt: below,
  lessthan: below,
  '<': below,
  mapping: (value) => value instanceof Dict,
  ne: differs,
  '!=': differs,
  none: (value) => value === null,
  number: (value) => isNumber(value),
  odd: (value) => Math.abs(remainder(value, 2)) === 1,
  sameas: (value, [other]) => same(value, other!),
  // What has a length and items by number or key.
  sequence: (value) => lengthOf(value) !== undefined && !(value instanceof View),
  string: (value) => typeof value === 'string',
  true: (value) => value === true,
  undefined: (value) => value instanceof Undefined,
  upper: (value) => isCased(str(value), (text) => text.toUpperCase()),
  // `filter` and `test` are added by name in filters.ts, which knows the filters.
}

const ARGUMENTS: Record<string, number> = Object.fromEntries(
  'divisibleby eq equalto == ge >= gt greaterthan > in le <= lt lessthan < ne != sameas'
    .split(' ')
    .map((name) => [name, 1]),
)

export function testNamed(name: string): Test {
  if (!Object.hasOwn(TESTS, name)) throw new Lacking(`there is no test '${name}'`)
  const wanted = ARGUMENTS[name] ?? 0
  const test = TESTS[name]!
  return (value, args) => {
    if (args.length !== wanted) throw typeError(`the test '${name}' takes ${wanted} arguments, not ${args.length}`)
    return test(value, args)
  }
}

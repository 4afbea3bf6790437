/** Arguments of calls, by place or by name, as Python's functions take them. */
import { typeError } from './problems.ts'
import { toNumber } from './text.ts'
import { type Integer, isNumber, type Named, typeName, Undefined, type Value } from './values.ts'

/** Values in the order of `names`; undefined for those left out. */
export function bind(
  label: string,
  names: readonly string[],
  args: readonly Value[],
  named: Named,
): (Value | undefined)[] {
  if (args.length > names.length) {
    throw typeError(`${label}() takes at most ${names.length} arguments (${args.length} given)`)
  }
  const bound: (Value | undefined)[] = names.map((_, index) => args[index])
  for (const [name, value] of named) {
    const index = names.indexOf(name)
    if (index === -1) throw typeError(`${label}() got an unexpected keyword argument '${name}'`)
    if (index < args.length) throw typeError(`${label}() got multiple values for argument '${name}'`)
    bound[index] = value
  }
  return bound
}

/** A whole number, not above 2 ** 53. */
export function count(value: Value | undefined, fallback: number): number {
  if (value === undefined || value === null) return fallback
  if (value instanceof Undefined) throw value.problem()
  if (!isNumber(value)) throw typeError(`'${typeName(value)}' object cannot be interpreted as an integer`)
  return Math.trunc(toNumber(value as Integer))
}

export function text(value: Value | undefined, fallback?: string): string {
  if (typeof value === 'string') return value
  if (value === undefined && fallback !== undefined) return fallback
  if (value instanceof Undefined) throw value.problem()
  throw typeError(`a string was expected, not '${value === undefined ? 'nothing' : typeName(value)}'`)
}

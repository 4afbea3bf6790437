/** Values of JavaScript -> those of templates. */
import { typeError } from './problems.ts'
import { Callable, Dict, Float, integer, type Value } from './values.ts'

/** A value of JavaScript, as JSON has them. */
export function fromJs(value: unknown): Value {
  if (value === null || value === undefined) return null
  if (typeof value === 'boolean' || typeof value === 'string') return value
  if (typeof value === 'bigint') return integer(value)
  if (typeof value === 'number') {
    if (Number.isSafeInteger(value)) return value + 0
    // JSON writes whole numbers below 1e21 without a point, so they were integers.
    return Number.isInteger(value) && Math.abs(value) < 1e21 ? BigInt(value) : new Float(value)
  }
  if (Array.isArray(value)) return value.map(fromJs)
  if (value instanceof Callable || value instanceof Float) return value
  if (value instanceof Date) return value.toISOString()
  if (typeof value === 'object') {
    return new Dict(
      Object.entries(value)
        .filter(([, item]) => item !== undefined && typeof item !== 'function')
        .map(([key, item]) => [key, fromJs(item)]),
    )
  }
  throw typeError(`a ${typeof value} has no meaning in a template`)
}

/** How Python writes its values: str(), repr(), floats, and the two ways to format. */
import { bounded, spend, spendText } from './meter.ts'
import {
  Callable,
  Dict,
  Float,
  type Integer,
  isInteger,
  Namespace,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.ts'

/** Runs on texts that stand for others (see marks.ts), so that escapes see what they stand for. */
export type Through = (text: string, change: (text: string) => string) => string

let through: Through = (text, change) => change(text)

/** For the time of one rendering. */
export function setThrough(value: Through | undefined): void {
  through = value ?? ((text, change) => change(text))
}

/** A change of a text, character by character. */
export function changed(text: string, change: (text: string) => string): string {
  spendText(text.length)
  return bounded(through(text, change))
}

/** str() */
export function str(value: Value): string {
  if (typeof value === 'string') return value
  if (value instanceof Undefined) return ''
  return repr(value)
}

export function repr(value: Value): string {
  spend()
  if (value === null) return 'None'
  if (value === true) return 'True'
  if (value === false) return 'False'
  if (isInteger(value)) return String(value)
  if (value instanceof Float) return floatText(value.value)
  if (typeof value === 'string') return quoted(value)
  if (Array.isArray(value)) return bounded(`[${value.map(repr).join(', ')}]`)
  if (value instanceof Tuple) {
    const items = value.items.map(repr)
    return bounded(items.length === 1 ? `(${items[0]},)` : `(${items.join(', ')})`)
  }
  if (value instanceof Dict) return dictText(value.entries())
  if (value instanceof Range) return value.text
  if (value instanceof Namespace) return `<Namespace ${dictText([...value.values])}>`
  if (value instanceof Undefined) return 'Undefined'
  if (value instanceof View && !value.once) return `${value.type}(${repr(value.take())})`
  return `<${value instanceof Callable ? `function ${value.name}` : typeName(value)}>`
}

const dictText = (entries: [Value, Value][]) =>
  bounded(`{${entries.map(([key, item]) => `${repr(key)}: ${repr(item)}`).join(', ')}}`)

const ESCAPES: Record<string, string> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\\': '\\\\' }

/** As repr() quotes a text. */
export function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  const escaped = (part: string) =>
    part.replace(/[\\'"\p{C}\p{Z}]/gu, (character) => {
      if (character === ' ') return character
      if (character === "'" || character === '"') return character === quote ? `\\${character}` : character
      return ESCAPES[character] ?? hexEscape(character.codePointAt(0)!)
    })
  return quote + changed(text, escaped) + quote
}

export function hexEscape(code: number): string {
  const hex = code.toString(16)
  if (code < 0x100) return `\\x${hex.padStart(2, '0')}`
  return code < 0x10000 ? `\\u${hex.padStart(4, '0')}` : `\\U${hex.padStart(8, '0')}`
}

/** repr() of a float: the shortest digits that give it back, with exponents where Python has them. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan'
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf'
  const [digits, exponent] = value.toExponential().split('e') as [string, string]
  const power = Number(exponent)
  if (power < -4 || power >= 16) {
    return `${Object.is(value, -0) ? '-' : ''}${digits}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`
  }
  const text = Object.is(value, -0) ? '-0' : power < 0 ? value.toFixed(digitsAfter(digits, power)) : String(value)
  return text.includes('.') ? text : `${text}.0`
}

const digitsAfter = (digits: string, power: number) => Math.max(0, digits.replace(/^-?\d\.?/, '').length - power)

export function toNumber(value: Integer | Float | boolean): number {
  return value instanceof Float ? value.value : Number(value)
}

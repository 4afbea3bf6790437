/** Python's two ways to put values into a text: '%s' % value, and '{}'.format(value). */
import { bounded, spendText } from './meter.ts'
import { formatValue, numberText, pad, type Spec } from './number_text.ts'
import { PythonError, typeError, valueError } from './problems.ts'
import { hexEscape, repr, str, toNumber } from './text.ts'
import { characters, Dict, Float, type Integer, isNumber, Tuple, typeName, Undefined, type Value } from './values.ts'

const PERCENT = /%(?:\(([^)]{0,1000})\))?([-+ 0#]*)(\*|\d+)?(?:\.(\*|\d+)?)?[hlL]?(.)?/gsu

/** text % values */
export function percent(text: string, values: Value): string {
  spendText(text.length)
  const list = values instanceof Tuple ? values.items : [values]
  let used = 0
  const next = () => {
    if (used >= list.length) throw typeError('not enough arguments for format string')
    return list[used++]!
  }
  const star = (count: string | undefined) => (count === '*' ? toNumber(asNumber(next(), 'd')) : Number(count))
  let named = false
  const result = text.replace(PERCENT, (whole, name, flags, width, precision, type) => {
    if (type === '%') return '%'
    if (type === undefined) throw valueError('incomplete format')
    const spec: Spec = {
      fill: flags.includes('0') && !flags.includes('-') ? '0' : ' ',
      align: flags.includes('-') ? '<' : flags.includes('0') && !/[src]/.test(type) ? '=' : '>',
      sign: flags.includes('+') ? '+' : flags.includes(' ') ? ' ' : '-',
      alternate: flags.includes('#'),
      width: width === undefined ? 0 : star(width),
      grouping: '',
      precision: precision !== undefined ? star(precision) : whole.includes('.') ? 0 : undefined,
      type,
    }
    let value: Value
    if (name !== undefined) {
      if (!(values instanceof Dict)) throw typeError('format requires a mapping')
      named = true
      const item = values.get(name)
      if (item === undefined) throw new PythonError('KeyError', `'${name}'`)
      value = item
    } else value = next()
    return percentOne(value, spec)
  })
  const isMapping = values instanceof Dict || Array.isArray(values) || values instanceof Undefined
  if (!named && used < list.length && !isMapping) {
    throw typeError('not all arguments converted during string formatting')
  }
  return bounded(result)
}

function percentOne(value: Value, spec: Spec): string {
  const { type } = spec
  if (type === 's' || type === 'r' || type === 'a') {
    const text = type === 's' ? str(value) : type === 'r' ? repr(value) : ascii(repr(value))
    const cut = spec.precision === undefined ? text : [...characters(text)].slice(0, spec.precision).join('')
    return pad('', cut, { ...spec, fill: ' ' })
  }
  if (type === 'c') return pad('', typeof value === 'string' ? value : numberText(asNumber(value, type), spec)[1], spec)
  const number = asNumber(value, type)
  if (/[diu]/.test(type)) {
    const whole = number instanceof Float ? BigInt(Math.trunc(number.value)) : number
    const [sign, digits] = numberText(whole, { ...spec, type: 'd' })
    return pad(sign, digits.padStart(spec.precision ?? 0, '0'), spec)
  }
  if (/[xXo]/.test(type) && number instanceof Float)
    throw typeError(`%${type} format: an integer is required, not float`)
  if (/[xXoeEfFgG]/.test(type)) return pad(...numberText(number, spec), spec)
  throw valueError(`unsupported format character '${type}'`)
}

function asNumber(value: Value, type: string): Integer | Float | boolean {
  if (value instanceof Undefined) throw value.problem()
  if (!isNumber(value)) throw typeError(`%${type} format: a real number is required, not ${typeName(value)}`)
  return value
}

/** repr() in ASCII alone. */
export const ascii = (text: string) => text.replace(/[^\0-\x7f]/gu, (character) => hexEscape(character.codePointAt(0)!))

/** text.format(...): `get` finds a field's value, 'name', '0', 'a.b[c]', or the next one's for ''. */
export function formatFields(text: string, get: (field: string) => Value, depth = 0): string {
  spendText(text.length)
  if (depth > 1) throw valueError('Max string recursion exceeded')
  let result = ''
  let position = 0
  while (position < text.length) {
    const character = text[position]!
    if ((character === '{' || character === '}') && text[position + 1] === character) {
      result += character
      position += 2
    } else if (character === '{') {
      const end = closingBrace(text, position)
      result += formatField(text.slice(position + 1, end), get, depth)
      position = end + 1
    } else if (character === '}') {
      throw valueError("Single '}' encountered in format string")
    } else {
      const next = text.slice(position).search(/[{}]/)
      const stop = next === -1 ? text.length : position + next
      result += text.slice(position, stop)
      position = stop
    }
    bounded(result)
  }
  return result
}

function closingBrace(text: string, start: number): number {
  let depth = 0
  for (let position = start; position < text.length; position++) {
    if (text[position] === '{') depth++
    else if (text[position] === '}' && --depth === 0) return position
  }
  throw valueError("expected '}' before end of string")
}

function formatField(field: string, get: (field: string) => Value, depth: number): string {
  const end = endOfName(field)
  const [, conversion, spec = ''] = /^(?:!([rsa]))?(?::(.*))?$/s.exec(field.slice(end)) ?? []
  if (end < field.length && conversion === undefined && field[end] !== ':') {
    throw valueError(`cannot read the format field '{${field}}'`)
  }
  const value = get(field.slice(0, end))
  const inner = spec === '' ? '' : formatFields(spec, get, depth + 1)
  if (conversion === undefined) return formatValue(value, inner)
  return formatValue(conversion === 's' ? str(value) : conversion === 'r' ? repr(value) : ascii(repr(value)), inner)
}

/** Where a field's name ends: at the first '!' or ':' outside of brackets. */
function endOfName(field: string): number {
  let bracket = false
  for (let position = 0; position < field.length; position++) {
    const character = field[position]
    if (character === '[') bracket = true
    else if (character === ']') bracket = false
    else if (!bracket && (character === '!' || character === ':')) return position
  }
  return field.length
}

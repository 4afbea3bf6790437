/** How Python writes its values: str(), repr(), floats, and the two ways to format. */
import { bounded, spend, spendText } from './meter.ts'
import { PythonError, typeError, valueError } from './problems.ts'
import {
  Callable,
  characters,
  Dict,
  Float,
  type Integer,
  isInteger,
  isNumber,
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

function hexEscape(code: number): string {
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

interface Spec {
  fill: string
  align: string
  sign: string
  alternate: boolean
  width: number
  grouping: string
  precision: number | undefined
  type: string
}

const SPEC = /^(?:(.)?([<>=^]))?([-+ ])?z?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([a-zA-Z%])?$/su

/** format(value, spec), the language after the colon in '{:>8.2f}'. */
export function formatValue(value: Value, spec: string): string {
  if (spec === '') return str(value)
  const match = SPEC.exec(spec)
  if (!match) throw valueError(`Invalid format specifier '${spec}'`)
  const [, fill, align, sign, alternate, zero, width, grouping, precision, type] = match
  const parsed: Spec = {
    fill: fill ?? (zero ? '0' : ' '),
    align: align ?? (zero ? '=' : isNumber(value) ? '>' : '<'),
    sign: sign ?? '-',
    alternate: alternate !== undefined,
    width: Number(width ?? 0),
    grouping: grouping ?? '',
    precision: precision === undefined ? undefined : Number(precision),
    type: type ?? '',
  }
  if (isNumber(value)) return pad(...numberText(value, parsed), parsed)
  if (value instanceof Undefined || typeof value !== 'string') {
    throw typeError(`unsupported format string passed to ${typeName(value)}.__format__`)
  }
  if (parsed.type !== '' && parsed.type !== 's') {
    throw valueError(`Unknown format code '${parsed.type}' for object of type '${typeName(value)}'`)
  }
  if (grouping || sign || align === '=') throw valueError(`Invalid format specifier '${spec}' for a text`)
  const cut = parsed.precision === undefined ? value : [...characters(value)].slice(0, parsed.precision).join('')
  return pad('', cut, { ...parsed, align: parsed.align === '=' ? '<' : parsed.align })
}

function pad(sign: string, body: string, { fill, align, width }: Pick<Spec, 'fill' | 'align' | 'width'>): string {
  const missing = width - characters(sign + body).length
  if (!(missing > 0)) return sign + body
  spendText(missing)
  if (align === '=') return sign + fill.repeat(missing) + body
  const left = align === '>' ? missing : align === '^' ? Math.floor(missing / 2) : 0
  return fill.repeat(left) + sign + body + fill.repeat(missing - left)
}

/** Sign and digits of a number. */
function numberText(value: Integer | Float | boolean, spec: Spec): [sign: string, body: string] {
  const { type } = spec
  const isFloat = value instanceof Float
  if (type === 'c') return ['', String.fromCodePoint(toNumber(value))]
  const radix = { b: 2, o: 8, x: 16, X: 16, d: 10, n: 10, '': 10 }[type]
  const negative = isFloat ? value.value < 0 || Object.is(value.value, -0) : BigInt(value) < 0n
  const sign = negative ? '-' : spec.sign === '-' ? '' : spec.sign
  if (!isFloat && radix !== undefined) {
    const digits = BigInt(value).toString(radix).replace('-', '')
    const prefix = spec.alternate && radix !== 10 ? `0${type}` : ''
    return [sign + prefix, group(type === 'X' ? digits.toUpperCase() : digits, spec.grouping, radix === 10 ? 3 : 4)]
  }
  const text = floatFormat(Math.abs(toNumber(value)), type, spec.precision, spec.alternate)
  const [whole, rest] = [/^\d*/.exec(text)![0], text.replace(/^\d*/, '')]
  return [sign, group(whole, spec.grouping, 3) + rest]
}

const group = (digits: string, separator: string, size: number) =>
  separator === '' ? digits : digits.replace(new RegExp(`\\B(?=(.{${size}})+$)`, 'g'), separator)

function floatFormat(value: number, type: string, precision: number | undefined, alternate: boolean): string {
  if (!Number.isFinite(value)) {
    const text = Number.isNaN(value) ? 'nan' : 'inf'
    return /[A-Z]/.test(type) ? text.toUpperCase() : text
  }
  if ((precision ?? 0) > 100) throw valueError('precision too big')
  const lower = type.toLowerCase()
  if (lower === 'f') return fixed(value, precision ?? 6)
  if (lower === '%') return `${fixed(value * 100, precision ?? 6)}%`
  if (lower === 'e') return upper(exponential(value, precision ?? 6), type)
  if (lower === 'g' || (lower === '' && precision !== undefined)) {
    const digits = precision === 0 ? 1 : (precision ?? 6)
    const power = value === 0 ? 0 : Number(value.toExponential(digits - 1).split('e')[1])
    const plain = power >= -4 && power < digits
    let text = plain ? fixed(value, Math.max(0, digits - 1 - power)) : exponential(value, digits - 1)
    if (!alternate) text = text.replace(/\.?0+(?=e|$)/, (zeros) => (text.split('e')[0]!.includes('.') ? '' : zeros))
    return upper(lower === '' && plain && !text.includes('.') ? `${text}.0` : text, type)
  }
  if (lower === '') return floatText(value)
  throw valueError(`Unknown format code '${type}' for object of type 'float'`)
}

const upper = (text: string, type: string) => (/[A-Z]/.test(type) ? text.toUpperCase() : text)

/** toFixed() rounds exact ties up where Python rounds them to even. */
export function fixed(value: number, precision: number): string {
  if (value >= 1e21) return BigInt(value).toString() + (precision > 0 ? `.${'0'.repeat(precision)}` : '')
  const text = value.toFixed(precision)
  if (precision > 60) return text
  const exact = value.toFixed(Math.min(100, precision + 40))
  const cut = exact.length - Math.min(100, precision + 40) + precision
  const isTie = /^50*$/.test(exact.slice(cut))
  if (!isTie) return text
  const floor = exact.slice(0, precision === 0 ? exact.indexOf('.') : cut)
  return Number(floor.at(-1)) % 2 === 0 ? floor : text
}

const exponential = (value: number, precision: number) =>
  value.toExponential(precision).replace(/e([+-])(\d)$/, 'e$10$2')

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

/** Numbers as format() and % write them. */
import { spendText } from './meter.ts'
import { typeError, valueError } from './problems.ts'
import { floatText, str, toNumber } from './text.ts'
import { characters, Float, type Integer, isNumber, typeName, Undefined, type Value } from './values.ts'

export interface Spec {
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

export function pad(
  sign: string,
  body: string,
  { fill, align, width }: Pick<Spec, 'fill' | 'align' | 'width'>,
): string {
  const missing = width - characters(sign + body).length
  if (!(missing > 0)) return sign + body
  spendText(missing)
  if (align === '=') return sign + fill.repeat(missing) + body
  const left = align === '>' ? missing : align === '^' ? Math.floor(missing / 2) : 0
  return fill.repeat(left) + sign + body + fill.repeat(missing - left)
}

/** Sign and digits of a number. */
export function numberText(value: Integer | Float | boolean, spec: Spec): [sign: string, body: string] {
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

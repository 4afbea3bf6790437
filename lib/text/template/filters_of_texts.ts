/** Filters on texts and numbers. */
import { count, text } from './arguments.ts'
import { type Arguments, onText } from './filter.ts'
import { isTrue } from './filters_of_lists.ts'
import { spend, spendText } from './meter.ts'
import { fixed } from './number_text.ts'
import { typeError, valueError } from './problems.ts'
import { capitalize, joined, splitLines, strip } from './python_text.ts'
import { changed, str, toNumber } from './text.ts'
import { Dict, Float, integer, isInteger, isNumber, iterate, typeName, Undefined, type Value } from './values.ts'

export function indent(value: string, [width = 4, isFirst, blank]: Arguments): string {
  const margin = typeof width === 'string' ? width : ' '.repeat(Math.min(10_000, Math.max(0, count(width, 4))))
  const lines = splitLines(`${value}\n`)
  spendText(value.length + margin.length * lines.length)
  return lines
    .map(
      (line, index) =>
        ((index > 0 || isTrue(isFirst)) && (line !== '' || isTrue(blank) || index === 0) ? margin : '') + line,
    )
    .join('\n')
}

export function truncate(value: string, [length, killWords, end = '...', leeway]: Arguments): string {
  const size = count(length, 255)
  const tail = text(end)
  const all = Array.from(value)
  spend(all.length)
  if (all.length <= size + count(leeway, 5)) return value
  const kept = all.slice(0, size - tail.length).join('')
  if (isTrue(killWords)) return kept + tail
  const space = kept.lastIndexOf(' ')
  return (space === -1 ? kept : kept.slice(0, space)) + tail
}

export function round(value: Value, [precision, method = 'common']: Arguments): Value {
  if (value instanceof Undefined) throw value.problem()
  if (!isNumber(value)) throw typeError(`type ${typeName(value)} doesn't define __round__ method`)
  if (typeof value === 'boolean') return Number(value)
  const digits = count(precision, 0)
  if (method === 'common') {
    if (!(value instanceof Float))
      return digits >= 0 ? value : Math.round(Number(value) / 10 ** -digits) * 10 ** -digits
    if (digits < 0) return new Float(Math.round(value.value / 10 ** -digits) * 10 ** -digits)
    const size = fixed(Math.abs(value.value), Math.min(digits, 60))
    return new Float(Math.sign(value.value) * Number(size))
  }
  if (method !== 'ceil' && method !== 'floor') throw valueError('method must be common, ceil or floor')
  return new Float(Math[method](toNumber(value) * 10 ** digits) / 10 ** digits)
}

export function int(value: Value, [fallback = 0, base]: Arguments): Value {
  if (isInteger(value)) return value
  if (typeof value === 'boolean') return Number(value)
  if (value instanceof Float) return Number.isFinite(value.value) ? integer(BigInt(Math.trunc(value.value))) : fallback
  if (value instanceof Undefined) throw value.problem()
  const digits = typeof value === 'string' ? stripped(value).replace(/(?<=\d)_(?=\d)/g, '') : ''
  if (digits.length > 4300) return fallback
  const radix = count(base, 10)
  const [, sign, plain] = /^([+-]?)(?:0[xX](?=.)|0[bB](?=.)|0[oO](?=.))?(.*)$/s.exec(digits)!
  const prefixed = radix !== 10
  const letters = prefixed ? plain! : digits.replace(/^[+-]/, '')
  const valid = new RegExp(`^[${'0123456789abcdefghijklmnopqrstuvwxyz'.slice(0, radix)}]+$`, 'i').test(letters)
  if (valid && radix === 10) return integer(BigInt(letters) * (sign === '-' ? -1n : 1n))
  if (valid) return Number.parseInt(letters, radix) * (sign === '-' ? -1 : 1)
  const float = toFloat(digits)
  return float === undefined || !Number.isFinite(float) ? fallback : integer(BigInt(Math.trunc(float)))
}

/** All of it is read. */
function stripped(value: string): string {
  spendText(value.length)
  return strip(value, 'both')
}

function toFloat(digits: string): number | undefined {
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(digits)) return Number(digits)
  const special = /^([+-]?)(inf(?:inity)?|nan)$/i.exec(digits)
  if (!special) return undefined
  return special[2]!.toLowerCase() === 'nan' ? Number.NaN : special[1] === '-' ? -Infinity : Infinity
}

export function float(value: Value, [fallback = new Float(0)]: Arguments): Value {
  if (isNumber(value)) return new Float(toNumber(value))
  if (value instanceof Undefined) throw value.problem()
  const parsed = typeof value === 'string' ? toFloat(stripped(value)) : undefined
  return parsed === undefined ? fallback : new Float(parsed)
}

const HTML: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', "'": '&#39;', '"': '&#34;' }

export const escapeHtml = onText('', (value) =>
  changed(value, (part) => part.replace(/[&<>'"]/g, (character) => HTML[character]!)),
)

const quote = (value: string) =>
  encodeURIComponent(value.replace(/\p{Surrogate}/gu, '\uFFFD'))
    .replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
    .replaceAll('%2F', '/')

const quotePlus = (value: Value) => quote(str(value)).replaceAll('/', '%2F').replaceAll('%20', '+')

export function urlencode(value: Value): Value {
  if (typeof value === 'string' || !(value instanceof Dict || Array.isArray(value))) return changed(str(value), quote)
  const pairs = value instanceof Dict ? value.entries() : value.map((pair) => iterate(pair))
  return joined(
    pairs.map((pair) => pair.map(quotePlus).join('=')),
    '&',
  )
}

export function filesize(value: Value, [binaryUnits]: Arguments): string {
  const bytes = toNumber(float(value, []) as Float)
  const base = isTrue(binaryUnits) ? 1024 : 1000
  if (bytes === 1) return '1 Byte'
  if (bytes < base) return `${Math.trunc(bytes)} Bytes`
  const power = Math.min(8, Math.floor(Math.log(bytes) / Math.log(base) + 1e-9))
  const letter = 'kMGTPEZY'[power - 1]!
  return `${fixed(bytes / base ** power, 1)} ${isTrue(binaryUnits) ? `${letter.toUpperCase()}iB` : `${letter}B`}`
}

export const title = onText('', (value) =>
  changed(value, (part) => part.replace(/[^-\s({[<]+/g, (word) => capitalize(word))),
)

export const wordcount = onText('', (value) => {
  spendText(value.length)
  return [...value.matchAll(/[\p{L}\p{N}_]+/gu)].length
})

export const striptags = onText('', (value) => {
  spendText(value.length)
  const plain = value.replace(/<!--[\s\S]{0,100000}?-->/g, '').replace(/<[^>]{0,100000}>/g, '')
  return (plain.match(/\S+/g) ?? []).join(' ')
})

/** json.dumps() and json.loads(), as the filters tojson and from_json have them. */

import { fromJs } from './from_js.ts'
import { bounded, spend } from './meter.ts'
import { typeError, valueError } from './problems.ts'
import { changed, floatText, str } from './text.ts'
import { Dict, Float, isInteger, Tuple, truth, typeName, type Value } from './values.ts'

export interface JsonStyle {
  ascii: boolean
  /** One level's indentation; undefined for one line. */
  indent: string | undefined
  separators: readonly [item: string, key: string]
  sorted: boolean
}

/** The style of tojson's arguments. */
export function jsonStyle(
  ascii: Value = false,
  indent: Value = null,
  separators: Value = null,
  sorted: Value = false,
): JsonStyle {
  const step = isInteger(indent) ? ' '.repeat(Math.min(1000, Math.max(0, Number(indent)))) : indent
  if (step !== null && typeof step !== 'string') throw typeError('indent must be a number or a text')
  const pair = separators instanceof Tuple ? separators.items : separators
  return {
    ascii: truth(ascii),
    indent: step ?? undefined,
    separators: Array.isArray(pair) ? [str(pair[0]!), str(pair[1]!)] : [step === null ? ', ' : ',', ': '],
    sorted: truth(sorted),
  }
}

export function toJson(value: Value, style: JsonStyle, margin = '\n'): string {
  spend()
  if (value === null) return 'null'
  if (typeof value === 'boolean' || isInteger(value)) return String(value)
  if (value instanceof Float) return float(value.value)
  if (typeof value === 'string') return quote(value, style.ascii)
  const inner = margin + (style.indent ?? '')
  if (value instanceof Dict) {
    const entries = value.entries().map(([key, item]) => [keyText(key), item] as const)
    if (style.sorted) entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    const items = entries.map(
      ([key, item]) => quote(key, style.ascii) + style.separators[1] + toJson(item, style, inner),
    )
    return wrap('{', items, '}', style, margin, inner)
  }
  const items = Array.isArray(value) ? value : value instanceof Tuple ? value.items : undefined
  if (!items) throw typeError(`Object of type ${typeName(value)} is not JSON serializable`)
  return wrap(
    '[',
    items.map((item) => toJson(item, style, inner)),
    ']',
    style,
    margin,
    inner,
  )
}

function wrap(open: string, items: string[], close: string, style: JsonStyle, margin: string, inner: string): string {
  if (items.length === 0) return open + close
  const [separator] = style.separators
  if (style.indent === undefined) return bounded(open + items.join(separator) + close)
  return bounded(open + inner + items.join(separator + inner) + margin + close)
}

function float(value: number): string {
  if (Number.isNaN(value)) return 'NaN'
  return Number.isFinite(value) ? floatText(value) : value > 0 ? 'Infinity' : '-Infinity'
}

function keyText(key: Value): string {
  if (typeof key === 'string') return key
  if (key === null || typeof key === 'boolean' || isInteger(key)) return String(key)
  if (key instanceof Float) return float(key.value)
  throw typeError(`keys must be str, int, float, bool or None, not ${typeName(key)}`)
}

function quote(text: string, ascii: boolean): string {
  const escaped = (part: string) => {
    // JSON.stringify escapes lone surrogates, which Python writes as they are.
    const json = JSON.stringify(part).slice(1, -1)
    return ascii ? json.replace(/[\x7f-\uffff]/g, unicodeEscape) : json
  }
  return `"${changed(text, escaped)}"`
}

const unicodeEscape = (unit: string) =>
  unit === '\x7f' ? unit : `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`

export function parseJson(text: string): Value {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw valueError('from_json was given no JSON')
  }
  return fromJs(value)
}

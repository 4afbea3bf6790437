/** Numbers that JSON.stringify writes with an exponent, 1e+21 and above or below 1e-6, as regular expressions. */
import { neighbour } from './numbers.ts'

/** As many digits as JSON.stringify writes at most, so that no text stands for infinity. */
const MANTISSA = '[1-9](\\.\\d{1,17})?'
export const HUGE = `(${MANTISSA}e\\+(2[1-9]|[3-9]\\d|[12]\\d\\d|30[0-7])|1(\\.[0-6]\\d{0,17})?e\\+308)`
export const TINY = `${MANTISSA}e-([7-9]|[1-9]\\d|[12]\\d\\d|3[01]\\d|32[0-3])`
export const MAXIMAL = '1\\.7976931348623157e\\+308'
export const MINIMAL = '5e-324'

const LEAST_HUGE = 1e21
const MOST_TINY = neighbour(1e-6, -1)

/** Between two bounds, both above 0. */
type Texts = (lowest: number, highest: number) => string[]

export function hugeTexts(lowest: number, highest: number): string[] {
  if (highest < LEAST_HUGE) return []
  if (lowest <= LEAST_HUGE && highest === Number.MAX_VALUE) return [HUGE, MAXIMAL]
  return [between(Math.max(lowest, LEAST_HUGE), highest)]
}

export function tinyTexts(lowest: number, highest: number): string[] {
  if (lowest > MOST_TINY) return []
  if (lowest <= Number.MIN_VALUE && highest >= MOST_TINY) return [TINY, MINIMAL]
  return [between(lowest, Math.min(highest, MOST_TINY))]
}

export function bothSigns(lowest: number, highest: number, texts: Texts): string[] {
  const positive = highest > 0 ? texts(Math.max(lowest, Number.MIN_VALUE), highest) : []
  const negative = lowest < 0 ? texts(Math.max(-highest, Number.MIN_VALUE), -lowest) : []
  return [...positive, ...negative.map((text) => `-(${text})`)]
}

/** By exponents, and of a bound's own by its digits. */
function between(lowest: number, highest: number): string {
  const [low, lowExponent] = split(lowest)
  const [high, highExponent] = split(highest)
  const power = (exponent: number) => `e${exponent < 0 ? '-' : '\\+'}${Math.abs(exponent)}`
  const [above, below] = [atLeast(low), atMost(high)]
  const plain = `(?=${MANTISSA}e)`
  if (lowExponent === highExponent) return `${plain}(?=(${above})e)(${below})${power(lowExponent)}`
  const inside = Array.from({ length: highExponent - lowExponent - 1 }, (_, index) => power(lowExponent + 1 + index))
  return [
    `(${above})${power(lowExponent)}`,
    `(${below})${power(highExponent)}`,
    ...(inside.length > 0 ? [`${MANTISSA}(${inside.join('|')})`] : []),
  ]
    .map((text) => plain + text)
    .join('|')
}

function split(value: number): [digits: string, exponent: number] {
  const [mantissa, exponent] = value.toExponential().split('e') as [string, string]
  return [mantissa.replace('.', ''), Number(exponent)]
}

/** Mantissas that are not below one, of its digits. */
function atLeast(digits: string): string {
  const out = [exactly(digits, '\\d')]
  for (let at = 0; at < digits.length; at++) {
    if (digits[at] !== '9') out.push(exactly(`${digits.slice(0, at)}[${Number(digits[at]) + 1}-9]`, '\\d', at))
  }
  return out.join('|')
}

/** Those that are not above it: they may end earlier. */
function atMost(digits: string): string {
  const out = [exactly(digits, '0')]
  for (let at = 0; at < digits.length; at++) {
    if (at > 0) out.push(exactly(digits.slice(0, at), '0'))
    const lowest = at === 0 ? 1 : 0
    const highest = Number(digits[at]) - 1
    if (highest >= lowest) out.push(exactly(`${digits.slice(0, at)}[${lowest}-${highest}]`, '\\d', at))
  }
  return out.join('|')
}

/** Digits with a point behind the first one, and more digits behind them. `classAt`: where a class of digits stands. */
function exactly(digits: string, more: string, classAt = -1): string {
  const first = classAt === 0 ? digits : digits[0]!
  const rest = digits.slice(first.length)
  return rest === '' ? `${first}(\\.${more}+)?` : `${first}\\.${rest}${more}*`
}

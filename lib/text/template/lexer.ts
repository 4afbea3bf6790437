/**
 * A template's text -> texts and tags with their tokens, by Jinja's rules (trim_blocks and lstrip_blocks on, as
 * transformers sets them). The parser's own lexer works on the text by regular expressions: it knows no raw blocks, no
 * `{%+`, no exponents, and cuts white space inside of literals.
 */
import { Lacking, Unparsable } from './problems.ts'

/** What the parser reads; it compares `type` and `value` alone. */
export interface Token {
  type: string
  value: string
  /** Of brackets: operators of one comparison have the same. */
  group?: number
}

export type Segment = { kind: 'text'; text: string } | { kind: 'print' | 'tag'; tokens: Token[]; line: number }

/** Brackets within brackets, in one tag. */
const MAX_NESTING = 100

const TAG_START = /\{([%{#])([-+]?)/g
const RAW_START = /\{%([-+]?)[ \t\n\r\f\v]*raw[ \t\n\r\f\v]*(-%\}\s*|%\})/y
const RAW_END = /\{%([-+]?)[ \t\n\r\f\v]*endraw[ \t\n\r\f\v]*(?:\+%\}|-%\}\s*|%\}\n?)/g
const COMMENT_END = /(?:[-+]?)#\}/g
const TAG_END = /\+%\}|-%\}\s*|%\}\n?/y
const PRINT_END = /-\}\}\s*|\}\}/y

const SPACE = /\s+/y
const FLOAT = /(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy
const INTEGER = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy
const NAME = /[\p{ID_Start}_][\p{ID_Continue}]*/uy
const STRING = /'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"/sy
const OPERATOR = /\/\/|\*\*|==|!=|>=|<=|[-+*/%~()[\]{}<>=.:|,]/y

const OPERATOR_TYPES: Record<string, string> = {
  '(': 'OpenParen',
  ')': 'CloseParen',
  '[': 'OpenSquareBracket',
  ']': 'CloseSquareBracket',
  '{': 'OpenCurlyBracket',
  '}': 'CloseCurlyBracket',
  ',': 'Comma',
  '.': 'Dot',
  ':': 'Colon',
  '|': 'Pipe',
  '=': 'Equals',
  '+': 'AdditiveBinaryOperator',
  '-': 'AdditiveBinaryOperator',
  '~': 'AdditiveBinaryOperator',
  '**': 'ExponentiationBinaryOperator',
  '*': 'MultiplicativeBinaryOperator',
  '/': 'MultiplicativeBinaryOperator',
  '//': 'MultiplicativeBinaryOperator',
  '%': 'MultiplicativeBinaryOperator',
}

const CLOSING: Record<string, string> = { '(': ')', '[': ']', '{': '}' }

export function lex(template: string): Segment[] {
  const source = template.replace(/\r\n?/g, '\n').replace(/\n$/, '')
  const segments: Segment[] = []
  let position = 0
  let line = 1
  let counted = 0
  /** Whether what stands before `position` ended a line. */
  let lineStarting = true

  const lineAt = (place: number) => {
    for (; counted < place; counted++) if (source[counted] === '\n') line++
    return line
  }
  const pushText = (text: string) => {
    if (text !== '') segments.push({ kind: 'text', text })
  }
  /** Text before a tag, less the white space that the tag takes away. */
  const before = (text: string, sign: string, isBlock: boolean) => {
    if (sign === '-') return text.trimEnd()
    if (sign === '+' || !isBlock) return text
    const lastLine = text.lastIndexOf('\n') + 1
    return (lastLine > 0 || lineStarting) && /^\s+$/.test(text.slice(lastLine)) ? text.slice(0, lastLine) : text
  }
  const passed = (end: number) => {
    lineStarting = source[end - 1] === '\n'
    position = end
  }

  while (position < source.length) {
    TAG_START.lastIndex = position
    const start = TAG_START.exec(source)
    if (!start) {
      pushText(source.slice(position))
      break
    }
    const [opening, kind, sign] = start as unknown as [string, string, string]
    pushText(before(source.slice(position, start.index), sign, kind !== '{'))
    RAW_START.lastIndex = start.index
    const raw = kind === '%' ? RAW_START.exec(source) : null
    if (raw) {
      RAW_END.lastIndex = RAW_START.lastIndex
      const end = RAW_END.exec(source)
      if (!end) throw new Unparsable(`line ${lineAt(start.index)}: raw has no endraw`)
      passed(RAW_START.lastIndex)
      pushText(before(source.slice(position, end.index), end[1]!, true))
      passed(RAW_END.lastIndex)
    } else if (kind === '#') {
      COMMENT_END.lastIndex = start.index + 2
      const end = COMMENT_END.exec(source)
      if (!end) throw new Unparsable(`line ${lineAt(start.index)}: a comment has no end`)
      let after = COMMENT_END.lastIndex
      if (end[0][0] === '-') after = skip(SPACE, source, after)
      else if (end[0][0] !== '+' && source[after] === '\n') after++
      passed(after)
    } else {
      const at = lineAt(start.index)
      const [tokens, end] = lexTag(source, start.index + opening.length, kind === '{' ? PRINT_END : TAG_END, at)
      segments.push({ kind: kind === '{' ? 'print' : 'tag', tokens, line: at })
      passed(end)
    }
  }
  return segments
}

function skip(expression: RegExp, source: string, position: number): number {
  expression.lastIndex = position
  return expression.test(source) ? expression.lastIndex : position
}

/** The tokens of a tag, and where it ends. */
function lexTag(source: string, start: number, ending: RegExp, line: number): [tokens: Token[], end: number] {
  const tokens: Token[] = []
  const open: { closing: string; group: number }[] = []
  let groups = 0
  let position = start
  const match = (expression: RegExp) => {
    expression.lastIndex = position
    const found = expression.exec(source)?.[0]
    if (found !== undefined) position += found.length
    return found
  }
  while (position < source.length) {
    if (open.length === 0 && match(ending) !== undefined) return [tokens, position]
    if (match(SPACE) !== undefined) continue
    const group = open.at(-1)?.group ?? 0
    const isAfterDot = tokens.at(-1)?.type === 'Dot'
    const float = isAfterDot ? undefined : match(FLOAT)
    if (float !== undefined) {
      tokens.push(floatToken(float))
      continue
    }
    const integer = match(INTEGER)
    if (integer !== undefined) {
      tokens.push(integerToken(integer))
      continue
    }
    const name = match(NAME)
    if (name !== undefined) {
      tokens.push({ type: 'Identifier', value: name, group })
      continue
    }
    const string = match(STRING)
    if (string !== undefined) {
      tokens.push({ type: 'StringLiteral', value: unescaped(string.slice(1, -1)) })
      continue
    }
    const operator = match(OPERATOR)
    if (operator === undefined)
      throw new Unparsable(`line ${line}: unexpected character ${JSON.stringify(source[position])}`)
    if (operator in CLOSING) {
      open.push({ closing: CLOSING[operator]!, group: ++groups })
      if (open.length > MAX_NESTING) throw new Unparsable(`line ${line}: brackets more than ${MAX_NESTING} deep`)
    } else if (')]}'.includes(operator) && open.pop()?.closing !== operator) {
      throw new Unparsable(`line ${line}: unexpected '${operator}'`)
    }
    tokens.push({ type: OPERATOR_TYPES[operator] ?? 'ComparisonBinaryOperator', value: operator, group })
  }
  throw new Unparsable(`line ${line}: a tag has no end`)
}

/** The parser takes a number for a float where it has a point. */
function floatToken(text: string): Token {
  const plain = text.replaceAll('_', '')
  return { type: 'NumericLiteral', value: plain.includes('.') ? plain : plain.replace(/e/i, '.0e') }
}

/** Larger ones go as a name, since the parser keeps numbers as JavaScript does. */
function integerToken(text: string): Token {
  if (text.length > 4300) throw new Unparsable('an integer of more than 4300 digits')
  const value = BigInt(text.replaceAll('_', '').replace(/^0+(?=\d)/, ''))
  return value <= Number.MAX_SAFE_INTEGER
    ? { type: 'NumericLiteral', value: String(value) }
    : { type: 'Identifier', value: `int ${value}` }
}

const ESCAPES: Record<string, string> = { n: '\n', t: '\t', r: '\r', b: '\b', f: '\f', v: '\v', a: '\x07', '\n': '' }

/** Python's escapes in a text; unknown ones stay as they are. */
function unescaped(text: string): string {
  if (!text.includes('\\')) return text
  return text.replace(
    /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|([\s\S]))/g,
    (whole, byte?: string, short?: string, long?: string, octal?: string, other?: string) => {
      const hex = byte ?? short ?? long
      if (hex !== undefined || octal !== undefined) {
        const code = hex !== undefined ? Number.parseInt(hex, 16) : Number.parseInt(octal!, 8)
        if (code > 0x10ffff) throw new Unparsable(`illegal character ${whole}`)
        return String.fromCodePoint(code)
      }
      if (other === 'N') throw new Lacking('characters by name are not supported')
      if (other === 'x' || other === 'u' || other === 'U') throw new Unparsable(`malformed escape ${whole}`)
      return '\'"\\'.includes(other!) ? other! : (ESCAPES[other!] ?? whole)
    },
  )
}

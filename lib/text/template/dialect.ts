/**
 * Tags of Jinja -> tokens that the parser takes. Constructs that it does not know become calls of names with a space,
 * which no template can write; the evaluator knows them (SPECIAL).
 *
 *   x is divisibleby 3       ->  x | "is divisibleby"(3)
 *   for x in y if c          ->  for x in "each"(y, c)
 *   with a = 1 ... endwith   ->  call "with block"(a = 1) ... endcall
 *   (1,)                     ->  "a tuple"(1)
 */
import type { Segment, Token } from './lexer.ts'
import { Lacking, Unparsable } from './problems.ts'

export const SPECIAL = {
  each: 'each of',
  recursive: 'each of recursive',
  tuple: 'a tuple',
  with: 'with block',
  plain: 'plain block',
  named: 'named block',
  call: 'call block',
  filter: 'filter block',
  body: 'the body',
  do: 'do this',
} as const

/** Blocks within blocks. */
const MAX_BLOCKS = 100

const KEYWORDS = new Set(['and', 'or', 'not', 'in', 'is', 'if', 'else'])
const LACKING = new Set(['include', 'import', 'from', 'extends', 'trans', 'pluralize', 'autoescape', 'debug'])
const SUFFIXED = new Set(['OpenParen', 'OpenSquareBracket', 'Dot'])
const BOUNDARIES = new Set(['Comma', 'Colon', 'Equals', 'ComparisonBinaryOperator'])
const OPERANDS = new Set(['Identifier', 'NumericLiteral', 'StringLiteral'])
const CLOSINGS = new Set(['CloseParen', 'CloseSquareBracket', 'CloseCurlyBracket'])

const name = (value: string): Token => ({ type: 'Identifier', value })
const text = (value: string): Token => ({ type: 'StringLiteral', value })
const OPEN: Token = { type: 'OpenParen', value: '(' }
const CLOSE: Token = { type: 'CloseParen', value: ')' }
const COMMA: Token = { type: 'Comma', value: ',' }
const TAG: Token = { type: 'OpenStatement', value: '{%' }
const TAG_END: Token = { type: 'CloseStatement', value: '%}' }
const PRINT: Token = { type: 'OpenExpression', value: '{{' }
const PRINT_END: Token = { type: 'CloseExpression', value: '}}' }

interface Block {
  tag: string
  line: number
  /** 'else' was there. */
  closed?: boolean
}

const ENDS: Record<string, string> = {
  endif: 'if',
  endfor: 'for',
  endmacro: 'macro',
  endset: 'set',
  endcall: 'call',
  endfilter: 'filter',
  endwith: 'with',
  endgeneration: 'generation',
  endblock: 'block',
}

/** How the parser ends a block. */
const PARSER_ENDS: Record<string, string> = { if: 'endif', for: 'endfor', macro: 'endmacro', set: 'endset' }

export function translate(segments: readonly Segment[]): Token[] {
  const tokens: Token[] = []
  const blocks: Block[] = []
  const names = new Set<string>()
  for (const segment of segments) {
    if (segment.kind === 'text') tokens.push({ type: 'Text', value: segment.text })
    else if (segment.kind === 'print') tokens.push(PRINT, ...sequence(segment.tokens, segment.line), PRINT_END)
    else tokens.push(...statement(segment.tokens, segment.line, blocks, names))
  }
  const open = blocks.at(-1)
  if (open) throw new Unparsable(`line ${open.line}: '${open.tag}' has no 'end${open.tag}'`)
  return tokens
}

function statement([head, ...rest]: Token[], line: number, blocks: Block[], names: Set<string>): Token[] {
  if (head?.type !== 'Identifier') throw new Unparsable(`line ${line}: a tag begins with a name`)
  const tag = head.value
  const begin = (...tokens: Token[]) => {
    blocks.push({ tag, line })
    if (blocks.length > MAX_BLOCKS) throw new Unparsable(`line ${line}: blocks more than ${MAX_BLOCKS} deep`)
    return [TAG, ...tokens, TAG_END]
  }
  const wrapped = (special: string, inner: Token[]) => begin(name('call'), name(special), OPEN, ...inner, CLOSE)
  const ended = ENDS[tag]
  if (ended !== undefined) {
    const block = blocks.pop()
    if (block?.tag !== ended) {
      const instead = block ? `, where '${block.tag}' of line ${block.line} is open` : ''
      throw new Unparsable(`line ${line}: unexpected '${tag}'${instead}`)
    }
    if (rest.length > 0 && tag !== 'endblock') throw new Unparsable(`line ${line}: '${tag}' takes nothing`)
    return [TAG, name(PARSER_ENDS[ended] ?? 'endcall'), TAG_END]
  }
  switch (tag) {
    case 'if':
      return begin(head, ...sequence(rest, line))
    case 'elif':
    case 'else':
      return [TAG, ...branch(head, rest, line, blocks.at(-1)), TAG_END]
    case 'for':
      return begin(head, ...loop(rest, line))
    case 'set':
      if (find(rest, 'Equals') !== -1) return [TAG, head, ...assignment(rest, line), TAG_END]
      return begin(head, ...expression(rest, line))
    case 'macro':
      return begin(head, ...expression(rest, line))
    case 'call': {
      const end = rest[0]?.type === 'OpenParen' ? matching(rest, 0, line) : -1
      const parameters = end === -1 ? [] : [OPEN, ...expression(rest.slice(1, end), line), CLOSE]
      return begin(head, ...parameters, name(SPECIAL.call), OPEN, ...expression(rest.slice(end + 1), line), CLOSE)
    }
    case 'filter':
      return wrapped(SPECIAL.filter, expression([name(SPECIAL.body), { type: 'Pipe', value: '|' }, ...rest], line))
    case 'with':
      return wrapped(SPECIAL.with, expression(rest, line))
    case 'generation':
      return wrapped(SPECIAL.plain, [])
    case 'block': {
      const [called, ...words] = rest
      if (called?.type !== 'Identifier') throw new Unparsable(`line ${line}: 'block' has no name`)
      if (names.has(called.value)) throw new Unparsable(`line ${line}: the block '${called.value}' is there twice`)
      names.add(called.value)
      const isScoped = words.some(({ value }) => value === 'scoped')
      return wrapped(SPECIAL.named, [text(called.value), ...(isScoped ? [COMMA, text('scoped')] : [])])
    }
    case 'do':
      return [PRINT, name(SPECIAL.do), OPEN, ...sequence(rest, line), CLOSE, PRINT_END]
    case 'break':
    case 'continue':
      if (!isInLoop(blocks)) throw new Unparsable(`line ${line}: '${tag}' outside of a loop`)
      return [TAG, head, ...rest, TAG_END]
  }
  if (LACKING.has(tag)) throw new Lacking(`line ${line}: the tag '${tag}' is not supported`)
  throw new Unparsable(`line ${line}: unknown tag '${tag}'`)
}

function branch(head: Token, rest: Token[], line: number, block: Block | undefined): Token[] {
  const takes = block?.tag === 'if' || (block?.tag === 'for' && head.value === 'else')
  if (!block || !takes || block.closed) throw new Unparsable(`line ${line}: unexpected '${head.value}'`)
  if (head.value === 'elif') return [head, ...sequence(rest, line)]
  if (rest.length > 0) throw new Unparsable(`line ${line}: 'else' takes nothing`)
  block.closed = true
  return [head]
}

/** A macro or another body that becomes a function of its own ends what a `break` can see. */
function isInLoop(blocks: readonly Block[]): boolean {
  const inner = blocks.findLast(({ tag }) => tag !== 'if' && tag !== 'with')
  return inner?.tag === 'for'
}

function assignment(tokens: Token[], line: number): Token[] {
  const at = find(tokens, 'Equals')
  return [...expression(tokens.slice(0, at), line), tokens[at]!, ...expression(tokens.slice(at + 1), line)]
}

function loop(tokens: Token[], line: number): Token[] {
  const at = find(tokens, 'Identifier', 'in')
  if (at === -1) throw new Unparsable(`line ${line}: 'for' has no 'in'`)
  const isRecursive =
    tokens.at(-1)?.type === 'Identifier' && tokens.at(-1)!.value === 'recursive' && tokens.length > at + 2
  const body = tokens.slice(at + 1, isRecursive ? -1 : undefined)
  const condition = find(body, 'Identifier', 'if')
  const target = [...expression(tokens.slice(0, at), line), name('in')]
  if (condition === -1 && !isRecursive) return [...target, ...sequence(body, line)]
  const items = sequence(body.slice(0, condition === -1 ? undefined : condition), line)
  const test = condition === -1 ? [] : [COMMA, ...sequence(body.slice(condition + 1), line)]
  return [...target, name(isRecursive ? SPECIAL.recursive : SPECIAL.each), OPEN, ...items, ...test, CLOSE]
}

/** An expression, perhaps a tuple without its brackets. */
function sequence(tokens: Token[], line: number): Token[] {
  if (tokens.length === 0) throw new Unparsable(`line ${line}: an expression is missing`)
  return find(tokens, 'Comma') === -1 ? expression(tokens, line) : expression([OPEN, ...tokens, CLOSE], line)
}

function expression(tokens: readonly Token[], line: number): Token[] {
  return bindConcatenations(translated(tokens, line))
}

/** Jinja's ~ binds tighter than + and -, the parser's does not: a + b ~ c -> a + (b ~ c). */
function bindConcatenations(tokens: Token[]): Token[] {
  if (!tokens.some(({ value, type }) => value === '~' && type === 'AdditiveBinaryOperator')) return tokens
  const result: Token[] = []
  const runs: { start: number; joins: boolean; afterSum: boolean }[] = []
  let run = { start: 0, joins: false, afterSum: false }
  const end = (beforeSum: boolean) => {
    if (!run.joins || !(run.afterSum || beforeSum)) return
    result.splice(run.start, 0, OPEN)
    result.push(CLOSE)
  }
  tokens.forEach((token, index) => {
    const isSum = token.type === 'AdditiveBinaryOperator' && index > 0 && isOperandEnd(tokens, index - 1)
    if (isSum && token.value === '~') run.joins = true
    else if (token.type.startsWith('Open')) {
      runs.push(run)
      result.push(token)
      run = { start: result.length, joins: false, afterSum: false }
      return
    } else if (isSum || CLOSINGS.has(token.type) || BOUNDARIES.has(token.type) || keyword(token) !== undefined) {
      end(isSum)
      result.push(token)
      run = CLOSINGS.has(token.type) ? runs.pop()! : { start: result.length, joins: false, afterSum: isSum }
      return
    }
    result.push(token)
  })
  end(false)
  return result
}

function translated(tokens: readonly Token[], line: number): Token[] {
  const result: Token[] = []
  for (let index = 0; index < tokens.length; index++) {
    const token = tokens[index]!
    const previous = tokens[index - 1]
    const word = previous?.type === 'Dot' ? undefined : keyword(token)
    if (word === undefined && isOperandStart(token) && previous && isOperandEnd(tokens, index - 1)) {
      const isText = token.type === 'StringLiteral' && previous.type === 'StringLiteral'
      if (!isText) throw new Unparsable(`line ${line}: unexpected '${token.value}'`)
    }
    if (word === 'is') {
      const isNegated = keyword(tokens[index + 1]) === 'not'
      const test = tokens[index + (isNegated ? 2 : 1)]
      if (test?.type !== 'Identifier') throw new Unparsable(`line ${line}: 'is' without a test`)
      index += isNegated ? 2 : 1
      result.push({ type: 'Pipe', value: '|' }, name(`${isNegated ? 'is not' : 'is'} ${test.value}`))
      const end = argumentEnd(tokens, index + 1, line)
      if (tokens[index + 1]?.type !== 'OpenParen' && end > index + 1) {
        result.push(OPEN, ...expression(tokens.slice(index + 1, end), line), CLOSE)
        index = end - 1
      }
    } else if (word === 'not' && keyword(tokens[index + 1]) === 'in') {
      result.push({ ...token, type: 'ComparisonBinaryOperator', value: 'not in' })
      index++
    } else if (word === 'in') {
      result.push({ ...token, type: 'ComparisonBinaryOperator' })
    } else if (
      token.type === 'OpenParen' &&
      !(previous && isOperandEnd(tokens, index - 1)) &&
      isTuple(tokens, index, line)
    ) {
      result.push(name(SPECIAL.tuple), token)
    } else result.push(token)
  }
  return result
}

const keyword = (token: Token | undefined) =>
  token?.type === 'Identifier' && KEYWORDS.has(token.value) ? token.value : undefined

const isOperandStart = ({ type }: Token) => OPERANDS.has(type) || type === 'OpenCurlyBracket'

function isOperandEnd(tokens: readonly Token[], index: number): boolean {
  const token = tokens[index]!
  if (CLOSINGS.has(token.type)) return true
  return OPERANDS.has(token.type) && (keyword(token) === undefined || tokens[index - 1]?.type === 'Dot')
}

/** Brackets that hold nothing, or end with a comma. */
function isTuple(tokens: readonly Token[], open: number, line: number): boolean {
  const close = matching(tokens, open, line)
  return close === open + 1 || tokens[close - 1]!.type === 'Comma'
}

/** Where a test's argument without brackets ends: one operand with what is suffixed to it. */
function argumentEnd(tokens: readonly Token[], start: number, line: number): number {
  const first = tokens[start]
  if (!first || keyword(first) !== undefined) return start
  const isBracket = first.type === 'OpenSquareBracket' || first.type === 'OpenCurlyBracket'
  if (!isBracket && !OPERANDS.has(first.type)) return start
  let end = isBracket ? matching(tokens, start, line) + 1 : start + 1
  while (tokens[end] && SUFFIXED.has(tokens[end]!.type)) {
    end = tokens[end]!.type === 'Dot' ? end + 2 : matching(tokens, end, line) + 1
  }
  return end
}

function matching(tokens: readonly Token[], open: number, line: number): number {
  let depth = 0
  for (let index = open; index < tokens.length; index++) {
    if (tokens[index]!.type.startsWith('Open')) depth++
    else if (CLOSINGS.has(tokens[index]!.type) && --depth === 0) return index
  }
  throw new Unparsable(`line ${line}: a bracket has no end`)
}

/** The first token of a kind outside of all brackets, -1 if there is none. */
function find(tokens: readonly Token[], type: string, value?: string): number {
  let depth = 0
  return tokens.findIndex((token, index) => {
    if (token.type.startsWith('Open')) depth++
    else if (CLOSINGS.has(token.type)) depth--
    else if (depth === 0 && token.type === type && (value === undefined || token.value === value)) {
      return tokens[index - 1]?.type !== 'Dot'
    }
    return false
  })
}

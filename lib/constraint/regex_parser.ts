/** Regular expressions as JavaScript writes them -> trees. Lenient as JavaScript itself is without its flag u, but of code points. */
import { foldCase } from './cases.ts'
import {
  type CharSet,
  charSet,
  complement,
  DIGIT,
  EVERY,
  LINE_ENDS,
  property,
  SPACE,
  single,
  union,
  WORD,
} from './charset.ts'
import { invalid, unsupported } from './problems.ts'
import { boundary } from './regex_boundary.ts'

export type RegexNode =
  | { type: 'set'; set: CharSet }
  | { type: 'sequence' | 'choice'; items: RegexNode[] }
  | { type: 'repeat'; item: RegexNode; minimum: number; maximum: number }
  | { type: 'look'; behind: boolean; negative: boolean; item: RegexNode }
  | { type: 'begin' | 'end' }

export interface RegexFlags {
  ignoreCase?: boolean
  dotAll?: boolean
  multiline?: boolean
  /** The flag u, or v: of which letters are one where the case does not matter. */
  unicode?: boolean
  /** The flag v: classes within classes. */
  sets?: boolean
}

export const EMPTY: RegexNode = { type: 'sequence', items: [] }

const MAX_DEPTH = 200

/** Throws CONSTRAINT_INVALID and CONSTRAINT_UNSUPPORTED. */
export function parseRegex(source: string, flags: RegexFlags = {}): RegexNode {
  return new Parser(source, flags).parse()
}

class Parser {
  readonly #source: string
  readonly #points: string[]
  readonly #flags: RegexFlags
  #at = 0
  #depth = 0

  constructor(source: string, flags: RegexFlags) {
    this.#source = source
    this.#points = [...source]
    this.#flags = flags
  }

  parse(): RegexNode {
    const node = this.#choice()
    if (this.#at < this.#points.length) throw this.#fault(`unmatched '${this.#points[this.#at]}'`)
    return node
  }

  #fault(why: string): Error {
    return invalid(`the regular expression /${shorten(this.#source)}/ cannot be read: ${why}`)
  }

  #unsupported(what: string): Error {
    return unsupported(`${what} in the regular expression /${shorten(this.#source)}/`)
  }

  #peek(text: string): boolean {
    for (let index = 0; index < text.length; index++) if (this.#points[this.#at + index] !== text[index]) return false
    return true
  }

  #take(text: string): boolean {
    if (!this.#peek(text)) return false
    this.#at += text.length
    return true
  }

  #choice(): RegexNode {
    if (++this.#depth > MAX_DEPTH) throw this.#fault(`groups are nested more than ${MAX_DEPTH} deep`)
    const items = [this.#sequence()]
    while (this.#take('|')) items.push(this.#sequence())
    this.#depth--
    return items.length === 1 ? items[0]! : { type: 'choice', items }
  }

  #sequence(): RegexNode {
    const items: RegexNode[] = []
    while (this.#at < this.#points.length && !this.#peek('|') && !this.#peek(')')) items.push(this.#term())
    return items.length === 1 ? items[0]! : { type: 'sequence', items }
  }

  #term(): RegexNode {
    const isBegin = this.#take('^')
    if (isBegin || this.#take('$')) {
      if (this.#flags.multiline) throw this.#unsupported("the flag 'm'")
      return { type: isBegin ? 'begin' : 'end' }
    }
    const atom = this.#atom()
    const bounds = this.#quantifier()
    if (!bounds) return atom
    // A lazy quantifier matches the same texts.
    this.#take('?')
    if (this.#quantifier()) throw this.#fault('nothing to repeat')
    return { type: 'repeat', item: atom, minimum: bounds[0], maximum: bounds[1] }
  }

  #quantifier(): [number, number] | undefined {
    if (this.#take('*')) return [0, Number.POSITIVE_INFINITY]
    if (this.#take('+')) return [1, Number.POSITIVE_INFINITY]
    if (this.#take('?')) return [0, 1]
    if (!this.#peek('{')) return undefined
    const found = /^\{(\d+)(?:(,)(\d*))?\}/.exec(this.#points.slice(this.#at, this.#at + 30).join(''))
    if (!found) return undefined
    this.#at += found[0].length
    const minimum = Number(found[1])
    const maximum = found[2] === undefined ? minimum : found[3] === '' ? Number.POSITIVE_INFINITY : Number(found[3])
    if (minimum > maximum) throw this.#fault('numbers out of order in a quantifier')
    return [minimum, maximum]
  }

  #set(set: CharSet): RegexNode {
    return { type: 'set', set: this.#folded(set) }
  }

  #folded(set: CharSet): CharSet {
    const { ignoreCase, unicode = false } = this.#flags
    return ignoreCase ? foldCase(set, unicode) : set
  }

  /** What \\w has. */
  #word(): CharSet {
    return this.#flags.unicode ? this.#folded(WORD) : WORD
  }

  #atom(): RegexNode {
    const point = this.#points[this.#at]!
    if ('*+?'.includes(point)) throw this.#fault('nothing to repeat')
    this.#at++
    if (point === '.') return { type: 'set', set: this.#flags.dotAll ? EVERY : complement(LINE_ENDS) }
    if (point === '(') return this.#group()
    if (point === '[') return this.#class()
    if (point === '\\') return this.#escape()
    return this.#set(single(point.codePointAt(0)!))
  }

  #group(): RegexNode {
    const look = (['?=', '?!', '?<=', '?<!'] as const).find((mark) => this.#take(mark))
    if (look === undefined && this.#peek('?') && !this.#take('?:')) {
      const rest = this.#points.slice(this.#at, this.#at + 80).join('')
      const named = /^\?<[\p{ID_Start}$_][\p{ID_Continue}$]*>/u.exec(rest)
      if (!named) throw this.#unsupported(`(${rest.slice(0, 4)}`)
      this.#at += [...named[0]].length
    }
    const item = this.#choice()
    if (!this.#take(')')) throw this.#fault('a group is not closed')
    if (look === undefined) return item
    return { type: 'look', behind: look.includes('<'), negative: look.endsWith('!'), item }
  }

  #escape(): RegexNode {
    const point = this.#points[this.#at]
    if (point === 'b' || point === 'B') {
      this.#at++
      return boundary(point === 'B', this.#word())
    }
    if (point === 'k' && /^k<\w+>/.test(this.#points.slice(this.#at, this.#at + 80).join(''))) {
      throw this.#unsupported('a back reference')
    }
    if (point !== undefined && point >= '1' && point <= '9') throw this.#unsupported('a back reference')
    return this.#set(this.#classEscape(false))
  }

  /** What stands behind a backslash: a set of code points, of one alone as a rule. */
  #classEscape(inClass: boolean): CharSet {
    const point = this.#points[this.#at++]
    switch (point) {
      case undefined:
        throw this.#fault('it ends in a backslash')
      case 'd':
        return DIGIT
      case 'D':
        return complement(DIGIT)
      case 'w':
        return this.#word()
      case 'W':
        return complement(this.#word())
      case 's':
        return SPACE
      case 'S':
        return complement(SPACE)
      case 'n':
        return single(10)
      case 'r':
        return single(13)
      case 't':
        return single(9)
      case 'v':
        return single(11)
      case 'f':
        return single(12)
      case '0':
        return single(0)
      case 'p':
      case 'P': {
        const found = /^\{([\w=]+)\}/.exec(this.#points.slice(this.#at, this.#at + 80).join(''))
        if (!found) throw this.#fault(`\\${point} without the name of a property`)
        if (point === 'P' && this.#flags.sets && this.#flags.ignoreCase)
          throw this.#unsupported("\\P beside 'v' and 'i'")
        const set = property(found[1]!)
        if (!set) throw this.#fault(`\\${point}${found[0]} is not known`)
        this.#at += found[0].length
        return point === 'p' ? set : complement(set)
      }
      case 'x':
        return single(this.#hex(2) ?? this.#noEscape(point))
      case 'u':
        return single(this.#unicode() ?? this.#noEscape(point))
      case 'c': {
        const letter = this.#points[this.#at]
        if (letter === undefined || !/[a-zA-Z]/.test(letter)) this.#noEscape(point)
        this.#at++
        return single(letter!.codePointAt(0)! % 32)
      }
      case 'b':
        if (inClass) return single(8)
    }
    // Where JavaScript takes a letter for itself, others mean something by it.
    if (/[a-zA-Z]/.test(point)) this.#noEscape(point)
    return single(point.codePointAt(0)!)
  }

  #noEscape(point: string): never {
    throw this.#fault(`\\${point} is no escape of JavaScript's`)
  }

  #hex(digits: number): number | undefined {
    const text = this.#points.slice(this.#at, this.#at + digits).join('')
    if (text.length !== digits || !/^[0-9a-fA-F]+$/.test(text)) return undefined
    this.#at += digits
    return Number.parseInt(text, 16)
  }

  #unicode(): number | undefined {
    const braced = /^\{([0-9a-fA-F]+)\}/.exec(this.#points.slice(this.#at, this.#at + 12).join(''))
    if (braced) {
      const point = Number.parseInt(braced[1]!, 16)
      if (point > 0x10ffff) throw this.#fault(`\\u${braced[0]} is no code point`)
      this.#at += braced[0].length
      return point
    }
    const first = this.#hex(4)
    if (first === undefined || first < 0xd800 || first > 0xdbff || !this.#peek('\\u')) return first
    const start = this.#at
    this.#at += 2
    const second = this.#hex(4)
    if (second !== undefined && second >= 0xdc00 && second <= 0xdfff) {
      return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
    }
    this.#at = start
    return first
  }

  /** Of the flag v: classes within a class, and what it has of them. */
  #refuseSets(): void {
    if (this.#flags.sets && ['[', '--', '&&', '\\q'].some((mark) => this.#peek(mark))) {
      throw this.#unsupported('a class within a class')
    }
  }

  #class(): RegexNode {
    const negative = this.#take('^')
    const sets: CharSet[] = []
    const member = (): CharSet => {
      const point = this.#points[this.#at++]
      if (point === undefined) throw this.#fault('a class is not closed')
      return point === '\\' ? this.#classEscape(true) : single(point.codePointAt(0)!)
    }
    const isSingle = (set: CharSet) => set.length === 2 && set[0] === set[1]
    while (!this.#take(']')) {
      this.#refuseSets()
      const first = member()
      this.#refuseSets()
      const ranged = this.#peek('-') && this.#points[this.#at + 1] !== undefined && this.#points[this.#at + 1] !== ']'
      if (!ranged) {
        sets.push(first)
        continue
      }
      this.#at++
      const last = member()
      if (!isSingle(first) || !isSingle(last)) sets.push(first, single(0x2d), last)
      else if (first[0]! > last[0]!) throw this.#fault('a range of a class is out of order')
      else sets.push(charSet([[first[0]!, last[0]!]]))
    }
    const set = this.#folded(union(...sets))
    return { type: 'set', set: negative ? complement(set) : set }
  }
}

const shorten = (text: string) => (text.length > 60 ? `${text.slice(0, 57)}...` : text)

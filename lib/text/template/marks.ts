/**
 * Texts of users never become special tokens: before a template is rendered, every added token's text within them becomes
 * one code point of plane 16, which no vocabulary has; when the prompt has been cut at its real special tokens, the code
 * points become text again, in sections that are encoded without special tokens.
 */
import { MillraceError } from '../../errors.ts'
import type { Through } from './text.ts'

/** U+100000 to U+10FFFD, from the end: what texts hold of the plane is marked too. */
const LAST = 0x10fffd
const FIRST = 0x100000
const PLANE = /[\u{100000}-\u{10FFFF}]/u
const EACH = /[\u{100000}-\u{10FFFF}]/gu

export interface Section {
  text: string
  /** The text is one special token; otherwise it is to be encoded without any. */
  special: boolean
}

/** Which texts belong to the template's side: what a model itself has said. */
const isTrusted = (message: unknown) => (message as { role?: unknown }).role === 'assistant'

/** The added tokens of a tokenizer, prepared once. */
export class AddedTokens {
  readonly #expression: RegExp | undefined
  /** What tokens begin and end with, short of the whole. */
  readonly #beginnings = new Set<string>()
  readonly #endings = new Set<string>()
  readonly #longest: number
  readonly #all: readonly string[]

  /** Those of white space alone stay out: they are plain text, and templates trim it. */
  constructor(tokens: Iterable<string>) {
    this.#all = [...new Set(tokens)].filter((token) => token.trim() !== '').sort((a, b) => b.length - a.length)
    this.#longest = this.#all[0]?.length ?? 0
    for (const token of this.#all) {
      for (let cut = 1; cut < token.length; cut++) {
        this.#beginnings.add(token.slice(0, cut))
        this.#endings.add(token.slice(cut))
      }
    }
    const escaped = this.#all.map((token) => token.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
    this.#expression = escaped.length > 0 ? new RegExp(escaped.join('|'), 'g') : undefined
  }

  /** Changes every token's text, the longest where several begin. */
  replace(text: string, change: (token: string) => string): string {
    return this.#expression ? text.replace(this.#expression, change) : text
  }

  split(text: string): Section[] {
    const sections: Section[] = []
    let end = 0
    for (const match of this.#expression ? text.matchAll(this.#expression) : []) {
      if (match.index > end) sections.push({ text: text.slice(end, match.index), special: false })
      sections.push({ text: match[0], special: true })
      end = match.index + match[0].length
    }
    if (end < text.length) sections.push({ text: text.slice(end), special: false })
    return sections
  }

  /**
   * Indexes of characters at the edges of a text with which its neighbours could make a token, white space aside: that
   * may be trimmed. With `inner`, a text that could be the middle of a token counts too.
   */
  joints(text: string, inner: boolean): number[] {
    const start = text.length - text.trimStart().length
    const end = text.trimEnd().length
    if (end <= start) return []
    const lengths = Array.from({ length: Math.min(this.#longest, end - start) }, (_, index) => index + 1)
    const found: number[] = []
    if (lengths.some((length) => this.#endings.has(text.slice(start, start + length)))) found.push(start)
    if (lengths.some((length) => this.#beginnings.has(text.slice(end - length, end)))) found.push(end - 1)
    const whole = text.slice(start, end)
    const isInner = inner && found.length === 0 && lengths.length < this.#longest
    return isInner && this.#all.some((token) => token.includes(whole)) ? [start] : found
  }
}

/** The marks of one rendering. */
export class Marks {
  readonly #tokens: AddedTokens
  readonly #byText = new Map<string, string>()
  readonly #byMark = new Map<string, string>()

  constructor(tokens: AddedTokens) {
    this.#tokens = tokens
  }

  /** Messages with marks; those of the assistant keep the tokens that they hold. */
  messages<T>(messages: readonly T[]): T[] {
    return messages.map((message) => (isTrusted(message) ? this.trusted(message) : this.untrusted(message)))
  }

  /** Values in whose texts every token is marked: messages, descriptions of tools. */
  untrusted<T>(value: T): T {
    return each(value, (text, key) => this.#mark(text, key === 'content' || key === 'text'))
  }

  /** Other values: the code points that marks are made of are marked. */
  trusted<T>(value: T): T {
    return each(value, (text) => this.#plane(text))
  }

  #plane(text: string): string {
    return PLANE.test(text) ? text.replace(EACH, (character) => this.#of(character)) : text
  }

  /** Names stay where they could only be the middle of a token (`inner`): templates compare them. */
  #mark(text: string, inner: boolean): string {
    const marked = this.#tokens.replace(this.#plane(text), (token) => this.#of(token))
    return this.#tokens.joints(marked, inner).reduceRight((result, at) => {
      const start = /[\uDC00-\uDFFF]/.test(result[at]!) ? at - 1 : at
      const character = String.fromCodePoint(result.codePointAt(start)!)
      const mark = this.#byMark.has(character) ? character : this.#of(character)
      return result.slice(0, start) + mark + result.slice(start + character.length)
    }, marked)
  }

  #of(text: string): string {
    const known = this.#byText.get(text)
    if (known !== undefined) return known
    const code = LAST - this.#byText.size
    if (code < FIRST) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `the messages hold more than ${LAST - FIRST + 1} different special tokens and code points of plane 16`,
      })
    }
    const mark = String.fromCodePoint(code)
    this.#byText.set(text, mark)
    this.#byMark.set(mark, text)
    return mark
  }

  unmark(text: string): string {
    return this.#byMark.size === 0 ? text : text.replace(EACH, (mark) => this.#byMark.get(mark) ?? mark)
  }

  /** For escapes: what a mark stands for is escaped, and stays marked as far as it holds tokens. */
  readonly through: Through = (text, change) => {
    if (this.#byMark.size === 0 || !PLANE.test(text)) return change(text)
    return text
      .split(/([\u{100000}-\u{10FFFF}])/u)
      .map((part) => {
        const meaning = this.#byMark.get(part)
        if (meaning === undefined) return change(part)
        const changed = change(meaning)
        return changed === meaning ? part : this.#tokens.replace(changed, (token) => this.#of(token))
      })
      .join('')
  }

  /** The prompt in sections; together they are its text. */
  sections(rendered: string): Section[] {
    return this.#tokens.split(rendered).map(({ text, special }) => ({ text: this.unmark(text), special }))
  }
}

/** A copy with changed texts and keys; `key` is the nearest one above a text. */
function each<T>(value: T, change: (text: string, key: string) => string, key = ''): T {
  if (typeof value === 'string') return change(value, key) as T
  if (Array.isArray(value)) return value.map((item) => each(item, change, key)) as T
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [change(name, ''), each(item, change, name)]),
  ) as T
}

/** Grammars in llama.cpp's form (GBNF) -> rules. */
import { type CharSet, charSet, complement, EVERY } from './charset.ts'
import { Graph } from './graph.ts'
import { invalid, type Meter } from './problems.ts'
import type { RuleSet } from './rules.ts'

type Item =
  | { type: 'text'; text: string }
  | { type: 'set'; set: CharSet }
  | { type: 'rule'; name: string }
  | { type: 'choice'; ways: Item[][] }
  | { type: 'repeat'; item: Item; minimum: number; maximum: number }

const MAX_DEPTH = 200

/** The rule 'root' of a grammar. Throws CONSTRAINT_INVALID. */
export function compileGrammar(source: string, rules: RuleSet, meter: Meter): number {
  const parsed = new GrammarParser(source).parse()
  const numbers = new Map([...parsed.keys()].map((name) => [name, rules.declare()]))
  if (!numbers.has('root')) throw invalid("the grammar has no rule 'root'")
  checkEnds(parsed)
  for (const [name, ways] of parsed) {
    const graph = new Graph(meter)
    const ruleOf = (other: string) => {
      const rule = numbers.get(other)
      if (rule === undefined) throw invalid(`the grammar's rule '${name}' names '${other}', which is not there`)
      return rule
    }
    build(graph, { type: 'choice', ways }, graph.start, graph.end, ruleOf)
    rules.automaton(numbers.get(name)!, graph.fragment())
  }
  return numbers.get('root')!
}

/** Rules that go on for ever, whatever is chosen, are none. */
function checkEnds(rules: ReadonlyMap<string, Item[][]>): void {
  const ending = new Set<string>()
  const ends = (item: Item): boolean => {
    if (item.type === 'rule') return ending.has(item.name) || !rules.has(item.name)
    if (item.type === 'choice') return item.ways.some((way) => way.every(ends))
    if (item.type === 'repeat') return item.minimum === 0 || ends(item.item)
    return item.type === 'text' || item.set.length > 0
  }
  for (let size = -1; size !== ending.size; ) {
    size = ending.size
    for (const [name, ways] of rules) if (ways.some((way) => way.every(ends))) ending.add(name)
  }
  for (const name of rules.keys()) {
    if (!ending.has(name)) throw invalid(`the grammar's rule '${name}' never comes to an end`)
  }
}

function build(graph: Graph, item: Item, from: number, to: number, ruleOf: (name: string) => number): void {
  switch (item.type) {
    case 'text':
      graph.text(from, item.text, to)
      return
    case 'set':
      graph.read(from, item.set, to)
      return
    case 'rule':
      graph.call(from, ruleOf(item.name), to)
      return
    case 'choice':
      for (const way of item.ways) {
        let at = from
        for (const part of way) {
          const next = graph.state()
          build(graph, part, at, next, ruleOf)
          at = next
        }
        graph.link(at, to)
      }
      return
    case 'repeat': {
      let at = from
      for (let count = 0; count < item.minimum; count++) {
        const next = graph.state()
        build(graph, item.item, at, next, ruleOf)
        at = next
      }
      if (item.maximum === Number.POSITIVE_INFINITY) {
        const loop = graph.state()
        graph.link(at, loop)
        build(graph, item.item, loop, loop, ruleOf)
        graph.link(loop, to)
        return
      }
      for (let count = item.minimum; count < item.maximum; count++) {
        graph.link(at, to)
        const next = graph.state()
        build(graph, item.item, at, next, ruleOf)
        at = next
      }
      graph.link(at, to)
    }
  }
}

const NAME = /[a-zA-Z0-9_-]+/y
const BOUNDS = /\{\s*(\d+)\s*(?:(,)\s*(\d*)\s*)?\}/y

class GrammarParser {
  readonly #source: string
  #at = 0
  #depth = 0

  constructor(source: string) {
    this.#source = source
  }

  parse(): Map<string, Item[][]> {
    const rules = new Map<string, Item[][]>()
    this.#space(true)
    while (this.#at < this.#source.length) {
      const name = this.#match(NAME)?.[0]
      if (name === undefined) throw this.#fault("a rule's name")
      this.#space(false)
      if (!this.#take('::=')) throw this.#fault("'::='")
      this.#space(true)
      if (rules.has(name)) throw invalid(`the grammar has two rules '${name}'`)
      rules.set(name, this.#choice(false))
      this.#space(true)
    }
    return rules
  }

  #fault(expected: string): Error {
    const line = this.#source.slice(0, this.#at).split('\n').length
    const found = JSON.stringify(this.#source.slice(this.#at, this.#at + 20) || 'its end')
    return invalid(`line ${line} of the grammar: expected ${expected}, found ${found}`)
  }

  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at
    const found = pattern.exec(this.#source)
    if (found) this.#at = pattern.lastIndex
    return found ?? undefined
  }

  #take(text: string): boolean {
    if (!this.#source.startsWith(text, this.#at)) return false
    this.#at += text.length
    return true
  }

  /** Spaces and comments; line ends, where they end no rule. */
  #space(lines: boolean): void {
    for (;;) {
      const next = this.#source[this.#at]
      if (next === ' ' || next === '\t' || (lines && (next === '\n' || next === '\r'))) this.#at++
      else if (next === '#') {
        while (this.#at < this.#source.length && !'\r\n'.includes(this.#source[this.#at]!)) this.#at++
      } else return
    }
  }

  /** Within brackets line ends are spaces; else a rule goes on behind a bar. */
  #choice(nested: boolean): Item[][] {
    if (++this.#depth > MAX_DEPTH) throw invalid(`the grammar's groups are nested more than ${MAX_DEPTH} deep`)
    const ways = [this.#sequence(nested)]
    for (;;) {
      const start = this.#at
      this.#space(true)
      if (!this.#take('|')) {
        if (!nested) this.#at = start
        break
      }
      this.#space(true)
      ways.push(this.#sequence(nested))
    }
    this.#depth--
    return ways
  }

  #sequence(nested: boolean): Item[] {
    const items: Item[] = []
    for (;;) {
      this.#space(nested)
      const item = this.#item()
      if (item === undefined) return items
      this.#space(nested)
      items.push(this.#repeated(item))
    }
  }

  #repeated(item: Item): Item {
    let out = item
    for (;;) {
      const many = Number.POSITIVE_INFINITY
      if (this.#take('*')) out = { type: 'repeat', item: out, minimum: 0, maximum: many }
      else if (this.#take('+')) out = { type: 'repeat', item: out, minimum: 1, maximum: many }
      else if (this.#take('?')) out = { type: 'repeat', item: out, minimum: 0, maximum: 1 }
      else if (this.#source[this.#at] === '{') {
        const found = this.#match(BOUNDS)
        if (!found) throw this.#fault('bounds such as {2,5}')
        const minimum = Number(found[1])
        const maximum = found[2] === undefined ? minimum : found[3] === '' ? many : Number(found[3])
        if (minimum > maximum) throw this.#fault('bounds in their order')
        out = { type: 'repeat', item: out, minimum, maximum }
      } else return out
    }
  }

  #item(): Item | undefined {
    const next = this.#source[this.#at]
    if (next === '"') return this.#text()
    if (next === '[') return this.#set()
    if (next === '.') {
      this.#at++
      return { type: 'set', set: EVERY }
    }
    if (next === '(') {
      this.#at++
      this.#space(true)
      const ways = this.#choice(true)
      this.#space(true)
      if (!this.#take(')')) throw this.#fault("')'")
      return { type: 'choice', ways }
    }
    // Without a line end between, the next rule's name would be read as part of this one.
    const start = this.#at
    const name = this.#match(NAME)?.[0]
    if (name === undefined) return undefined
    const end = this.#at
    this.#space(false)
    const isRule = this.#source.startsWith('::=', this.#at)
    this.#at = isRule ? start : end
    return isRule ? undefined : { type: 'rule', name }
  }

  #text(): Item {
    this.#at++
    let text = ''
    while (this.#source[this.#at] !== '"') text += String.fromCodePoint(this.#point())
    this.#at++
    return { type: 'text', text }
  }

  #set(): Item {
    this.#at++
    const negative = this.#take('^')
    const ranges: [number, number][] = []
    while (this.#source[this.#at] !== ']') {
      const first = this.#point()
      const isRange = this.#source[this.#at] === '-' && this.#source[this.#at + 1] !== ']'
      if (isRange) this.#at++
      const last = isRange ? this.#point() : first
      if (first > last) throw this.#fault('a range in its order')
      ranges.push([first, last])
    }
    this.#at++
    const set = charSet(ranges)
    return { type: 'set', set: negative ? complement(set) : set }
  }

  #point(): number {
    const point = this.#source.codePointAt(this.#at)
    if (point === undefined || point === 10) throw this.#fault('the end of a text or of a class')
    this.#at += point > 0xffff ? 2 : 1
    if (point !== 0x5c) return point
    const letter = this.#source[this.#at++]
    const long = { x: 2, u: 4, U: 8 }[letter ?? '']
    if (long !== undefined) {
      const digits = this.#source.slice(this.#at, this.#at + long)
      if (digits.length !== long || !/^[0-9a-fA-F]+$/.test(digits)) throw this.#fault(`${long} hexadecimal digits`)
      this.#at += long
      const value = Number.parseInt(digits, 16)
      if (value > 0x10ffff) throw this.#fault('a code point')
      return value
    }
    const short = { n: 10, r: 13, t: 9 }[letter ?? '']
    if (short !== undefined) return short
    if (letter === undefined || !'\\"[]^-'.includes(letter)) throw this.#fault('an escape such as \\n')
    return letter.codePointAt(0)!
  }
}

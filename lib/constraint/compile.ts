/** A constraint -> the program that the native matcher runs. */
import { rawFragment } from './bytes.ts'
import { type CharSet, charSet } from './charset.ts'
import { classesWithout } from './classes.ts'
import { ofTexts } from './dfa.ts'
import { compileGrammar } from './grammar.ts'
import { Graph } from './graph.ts'
import { invalid, Meter } from './problems.ts'
import { regexDfa } from './regex.ts'
import { RuleSet, type State } from './rules.ts'
import { SchemaCompiler } from './schema/compile.ts'
import { rawTexts } from './schema/raw_text.ts'
import type { Body, Part, Piece, Sought, Task } from './task.ts'

/** Throws CONSTRAINT_INVALID, CONSTRAINT_UNSUPPORTED, CONSTRAINT_TOO_LARGE. */
export function compileTask(task: Task): Uint32Array<ArrayBuffer> {
  const compiler = new Compiler()
  try {
    return compiler.program(task)
  } catch (error) {
    if (error instanceof RangeError && /call stack/i.test(error.message))
      throw invalid('the constraint is nested too deep')
    throw error
  }
}

const SPACES: CharSet = charSet([
  [0x09, 0x0a],
  [0x0d, 0x0d],
  [0x20, 0x20],
])

class Compiler {
  readonly #meter = new Meter()
  readonly #rules = new RuleSet(this.#meter)
  readonly #bodies = new Map<string, number>()
  #flexible = false

  program(task: Task): Uint32Array<ArrayBuffer> {
    const only = task.length === 1 ? task[0]! : undefined
    const start = only && 'body' in only ? this.#body(only.body) : this.#sequence(task)
    return this.#rules.program(start, this.#flexible)
  }

  #body(body: Body): number {
    const key = JSON.stringify(body)
    let rule = this.#bodies.get(key)
    if (rule === undefined) {
      rule = this.#compile(body)
      this.#bodies.set(key, rule)
    }
    return rule
  }

  #compile(body: Body): number {
    const rules = this.#rules
    switch (body.type) {
      case 'schema':
        this.#flexible ||= body.flexible
        return new SchemaCompiler(body, rules, this.#meter).compile() ?? this.#nothing()
      case 'raw':
        return rawTexts(body, rules, this.#meter) ?? this.#nothing()
      case 'regex': {
        const { source, flags } = body
        const has = (flag: string) => flags.includes(flag)
        const dfa = regexDfa(
          source,
          'whole',
          {
            ignoreCase: has('i'),
            dotAll: has('s'),
            multiline: has('m'),
            unicode: has('u') || has('v'),
            sets: has('v'),
          },
          this.#meter,
        )
        return rules.automaton(rules.declare(), rawFragment(dfa, this.#meter))
      }
      case 'choice':
        return rules.automaton(rules.declare(), rawFragment(ofTexts(body.texts, this.#meter), this.#meter))
      case 'grammar':
        return compileGrammar(body.source, rules, this.#meter)
    }
  }

  /** Of no text. */
  #nothing(): number {
    return this.#rules.automaton(this.#rules.declare(), { states: [{ edges: [] }], start: 0 })
  }

  #sequence(parts: readonly Part[]): number {
    const graph = new Graph(this.#meter)
    this.#add(graph, parts, graph.start, graph.end)
    return this.#rules.automaton(this.#rules.declare(), graph.fragment())
  }

  #add(graph: Graph, parts: readonly Part[], from: number, to: number): void {
    let at = from
    for (const part of parts) {
      const next = graph.state()
      this.#part(graph, part, at, next)
      at = next
    }
    graph.link(at, to)
  }

  #part(graph: Graph, part: Part, from: number, to: number): void {
    if ('literal' in part) graph.call(from, this.#literal(part.literal), to)
    else if ('body' in part) graph.call(from, this.#body(part.body), to)
    else if ('until' in part) graph.call(from, this.#until(part.until, true), to)
    else if ('without' in part) graph.call(from, this.#until(part.without, false), to)
    else if ('space' in part) {
      let at = from
      for (let count = 0; count < part.space; count++) {
        graph.link(at, to)
        const next = graph.state()
        graph.read(at, SPACES, next)
        at = next
      }
      graph.link(at, to)
    } else if ('choice' in part) {
      for (const way of part.choice) this.#add(graph, way, from, to)
    } else {
      const again = graph.state()
      graph.link(from, again)
      this.#add(graph, part.repeat, again, again)
      graph.link(again, to)
    }
  }

  #literal(pieces: readonly Piece[]): number {
    const bytes = bytesOf(pieces)
    const states: State[] = bytes.map((byte, index) => ({ edges: [byte, byte, 0, index + 1] }))
    return this.#rules.automaton(this.#rules.declare(), { states: [...states, { edges: [], accepts: true }], start: 0 })
  }

  /** Any bytes up to the first time that a literal comes and with it, or those that have none. */
  #until(sought: Sought, comes: boolean): number {
    const items = sought.flatMap((piece): (number | 'space')[] => (piece === '' ? ['space'] : bytesOf([piece])))
    const end = items.length
    const own = new Set(items.filter((item) => item !== 'space'))
    if (items.includes('space')) for (const byte of SPACE_BYTES) own.add(byte)
    // Where in the literal what has come may be, the beginning always among it.
    const numbers = new Map<string, number>()
    const places: number[][] = []
    const numberOf = (seeds: readonly number[]) => {
      const met = new Set(seeds)
      for (const at of met) if (items[at] === 'space') met.add(at + 1)
      const sorted = [...met].sort((a, b) => a - b)
      const key = met.has(end) ? 'end' : String(sorted)
      let number = numbers.get(key)
      if (number === undefined) {
        number = places.push(met.has(end) ? [end] : sorted) - 1
        numbers.set(key, number)
        this.#meter.states(1)
      }
      return number
    }
    const step = (from: readonly number[], byte: number) =>
      numberOf([
        0,
        ...from.flatMap((at) => {
          if (items[at] === byte) return [at + 1]
          return items[at] === 'space' && SPACE_BYTES.has(byte) ? [at] : []
        }),
      ])
    const begin = numberOf([0])
    // What has no byte of the literal leads back to its beginning.
    const run = { classes: classesWithout(own), length: Number.POSITIVE_INFINITY }
    const sorted = [...own].sort((a, b) => a - b)
    const states: State[] = []
    for (let state = 0; state < places.length; state++) {
      const from = places[state]!
      if (from[0] === end) {
        states.push({ edges: [], accepts: comes })
        continue
      }
      const edges: number[] = []
      let next = 0
      const rest = (last: number) => {
        if (next <= last) edges.push(next, last, 0, begin)
      }
      for (const byte of sorted) {
        rest(byte - 1)
        const to = step(from, byte)
        if (comes || places[to]![0] !== end) edges.push(byte, byte, 0, to)
        next = byte + 1
      }
      rest(255)
      states.push({ edges, run, accepts: !comes })
    }
    return this.#rules.automaton(this.#rules.declare(), { states, start: begin })
  }
}

const SPACE_BYTES = new Set([0x09, 0x0a, 0x0d, 0x20])

/** Special tokens stand for bytes that no text has: see csrc/constraint/vocabulary.h. */
export function bytesOf(pieces: readonly Piece[]): number[] {
  return pieces.flatMap((piece) => {
    if (typeof piece === 'string') return [...Buffer.from(piece)]
    const sixes = [0, 6, 12, 18].map((shift) => 0x80 | ((piece.token >> shift) & 0x3f))
    return [0xff, 0xfe, ...sixes]
  })
}

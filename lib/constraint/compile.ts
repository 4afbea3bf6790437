/** A constraint -> the program that the native matcher runs. */
import { rawFragment } from './bytes.ts'
import { type CharSet, charSet } from './charset.ts'
import { ofTexts } from './dfa.ts'
import { compileGrammar } from './grammar.ts'
import { Graph } from './graph.ts'
import { invalid, Meter } from './problems.ts'
import { regexDfa } from './regex.ts'
import { type Fragment, RuleSet, type State } from './rules.ts'
import { SchemaCompiler } from './schema/compile.ts'
import type { Body, Part, Piece, Task } from './task.ts'

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
        return new SchemaCompiler(body.schema, rules, this.#meter).compile() ?? this.#nothing()
      case 'regex': {
        const { source, flags } = body
        const dfa = regexDfa(
          source,
          'whole',
          { ignoreCase: flags.includes('i'), dotAll: flags.includes('s'), multiline: flags.includes('m') },
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
    else if ('until' in part) graph.call(from, this.#until(part.until), to)
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
      let at = from
      for (let count = 0; count < Math.min(part.maximum, 1); count++) {
        const next = graph.state()
        this.#add(graph, part.repeat, at, next)
        at = next
      }
      graph.link(at, to)
      if (part.maximum > 1) {
        const again = graph.state()
        this.#add(graph, part.between, at, again)
        this.#add(graph, part.repeat, again, at)
      }
    }
  }

  #literal(pieces: readonly Piece[]): number {
    const bytes = bytesOf(pieces)
    const states: State[] = bytes.map((byte, index) => ({ edges: [byte, byte, 0, index + 1] }))
    return this.#rules.automaton(this.#rules.declare(), { states: [...states, { edges: [], accepts: true }], start: 0 })
  }

  /** Any bytes up to the first time that a literal comes. */
  #until(pieces: readonly Piece[]): number {
    const bytes = bytesOf(pieces)
    // What of the literal has come, having read so much of it and a byte more (Knuth, Morris, Pratt).
    const step = (come: number, byte: number): number => {
      for (let length = come; length >= 0; length--) {
        if (bytes[length] !== byte) continue
        if (same(bytes, come - length, come, length)) return length + 1
      }
      return 0
    }
    const own = [...new Set(bytes)].sort((a, b) => a - b)
    const states: State[] = bytes.map((_, come) => {
      const edges: number[] = []
      let next = 0
      const rest = (end: number) => {
        if (next <= end) edges.push(next, end, 0, 0)
      }
      for (const byte of own) {
        rest(byte - 1)
        edges.push(byte, byte, 0, step(come, byte))
        next = byte + 1
      }
      rest(255)
      return { edges }
    })
    const fragment: Fragment = { states: [...states, { edges: [], accepts: true }], start: 0 }
    return this.#rules.automaton(this.#rules.declare(), fragment)
  }
}

/** bytes[from, to) is what the bytes begin with. */
function same(bytes: readonly number[], from: number, to: number, length: number): boolean {
  for (let at = 0; at < length; at++) if (bytes[from + at] !== bytes[at] || from + at >= to) return false
  return true
}

/** Special tokens stand for bytes that no text has: see csrc/constraint/vocabulary.h. */
export function bytesOf(pieces: readonly Piece[]): number[] {
  return pieces.flatMap((piece) => {
    if (typeof piece === 'string') return [...Buffer.from(piece)]
    const sixes = [0, 6, 12, 18].map((shift) => 0x80 | ((piece.token >> shift) & 0x3f))
    return [0xff, 0xfe, ...sixes]
  })
}

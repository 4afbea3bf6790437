/** An answer read as its model's format has it, while it is written: parts for a reader, and what they come to. */
import { TextBuffer } from '../buffer.ts'
import type { Pieces } from '../tokenizer/pieces.ts'
import type { ChatFormat } from './format.ts'
import { ChatParser } from './parser.ts'
import type { Part } from './parts.ts'
import type { GeneratedToolCall, Tool } from './types.ts'

export interface ParsedAnswerOptions {
  /** Those that the model was shown. */
  tools: readonly Tool[]
  parallelToolCalls: boolean
  promptEnd: string
}

/** A part whose text may still grow. */
type Growing = { part: Exclude<Part, { type: 'finish' }>; text: TextBuffer }

interface GrowingCall {
  id: string
  name: string
  text: TextBuffer
}

export class ParsedAnswer {
  readonly #parser: ChatParser
  readonly #parallel: boolean
  readonly #reasoning = new TextBuffer()
  readonly #calls: GrowingCall[] = []
  /** What nobody has taken yet. */
  #unread: Growing[] = []
  #finish: string | undefined
  /** A second call has begun, where one was wanted; what follows is dropped. */
  #stopped = false

  constructor(format: ChatFormat, { tools, parallelToolCalls, promptEnd }: ParsedAnswerOptions) {
    const read = tools.length > 0 ? format : { ...format, calls: undefined }
    this.#parser = new ChatParser(read, { tools, prompt: promptEnd })
    this.#parallel = parallelToolCalls
  }

  get stopped(): boolean {
    return this.#stopped
  }

  /** Nothing is to be taken. */
  get empty(): boolean {
    return this.#unread.length === 0 && this.#finish === undefined
  }

  get reasoning(): string {
    return this.#reasoning.toString()
  }

  get toolCalls(): GeneratedToolCall[] {
    return this.#calls.map(({ id, name, text }) => ({
      id,
      type: 'function',
      function: { name, arguments: text.toString() },
    }))
  }

  /** What of it is the answer's text. */
  push(text: string): string {
    return text === '' || this.#stopped ? '' : this.#keep(this.#parser.push(text))
  }

  /** At the end; `reason` is asked for once all calls are known. */
  finish(reason: () => string): string {
    const rest = this.#stopped ? '' : this.#keep(this.#parser.finish(''))
    this.#finish = reason()
    return rest
  }

  /** The parts since the last time. */
  take<Reason extends string>(): Part<Reason>[] {
    const parts: Part<Reason>[] = this.#unread.map(({ part, text }) =>
      part.type === 'call' ? part : { ...part, text: text.toString() },
    )
    if (this.#finish !== undefined) parts.push({ type: 'finish', reason: this.#finish as Reason })
    this.#unread = []
    this.#finish = undefined
    return parts
  }

  #keep(parts: readonly Part[]): string {
    let said = ''
    for (const part of parts) {
      if (part.type === 'finish') break
      if (part.type === 'call') {
        if (part.index > 0 && !this.#parallel) {
          this.#stopped = true
          break
        }
        this.#calls.push({ id: part.id, name: part.name, text: new TextBuffer() })
      } else if (part.type === 'text') said += part.text
      else if (part.type === 'reasoning') this.#reasoning.push(part.text)
      else this.#calls.at(-1)!.text.push(part.text)
      this.#add(part)
    }
    return said
  }

  #add(part: Growing['part']): void {
    const last = this.#unread.at(-1)
    const text = part.type === 'call' ? '' : part.text
    // Arguments of another call come behind its own part.
    if (part.type !== 'call' && last?.part.type === part.type) last.text.push(text)
    else {
      const buffer = new TextBuffer()
      buffer.push(text)
      this.#unread.push({ part, text: buffer })
    }
  }
}

/** Whether answers are text and nothing else. */
export const isPlain = ({ reasoning, textOpen }: ChatFormat) => reasoning === undefined && textOpen === ''

/** The special tokens that stand in a format's literals: what reads it must see them. */
export function tokensOf(format: ChatFormat, pieces: Pieces): ReadonlyMap<number, string> {
  const literals = textsIn(format)
  return new Map(
    [...pieces.specials].filter(([, text]) => text !== '' && literals.some((literal) => literal.includes(text))),
  )
}

function textsIn(value: unknown): string[] {
  if (typeof value === 'string') return [value]
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(textsIn) : []
}

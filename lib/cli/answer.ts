/** An answer as a person reads it: its text on stdout, what the model thinks before on stderr, dim. */
import type { Generation, GenerationChunk, GenerationResult } from '../model/generation.ts'
import type { GeneratedToolCall } from '../text/chat/types.ts'
import type { Terminal } from './terminal.ts'

/** 'auto': where stderr is a terminal. */
export type ReasoningFlag = 'auto' | 'show' | 'hide'

/** Where the two go. */
export interface Sinks {
  answer(text: string): Promise<void>
  /** undefined: not shown. */
  reasoning: ((text: string) => Promise<void>) | undefined
  /** Reasoning is set off from the answer by escape sequences. */
  dim: boolean
}

const DIM = { on: '\u001b[2m', off: '\u001b[22m' }

export function sinksOf(terminal: Terminal, flag: ReasoningFlag = 'auto'): Sinks {
  const shown = flag === 'show' || (flag === 'auto' && terminal.isWatched)
  return {
    answer: (text) => terminal.write(text),
    reasoning: shown ? (text) => terminal.writeAside(text) : undefined,
    dim: terminal.isWatched && !process.env.NO_COLOR,
  }
}

/** Shows an answer as it comes. */
export class AnswerView {
  readonly #sinks: Sinks
  #thinking = false
  /** Of the answer. */
  #last = ''

  constructor(sinks: Sinks) {
    this.#sinks = sinks
  }

  async show({ text, parts }: Pick<GenerationChunk, 'text' | 'parts'>): Promise<void> {
    if (parts === undefined) return this.#say(text)
    for (const part of parts) {
      if (part.type === 'reasoning') await this.#think(part.text)
      else if (part.type === 'text') await this.#say(part.text)
    }
  }

  /** What stands at the end: calls, a line of JSON each, and the end of the last line. */
  async end(calls: readonly GeneratedToolCall[] = []): Promise<void> {
    await this.#stopThinking()
    if (calls.length === 0 || this.#last !== '') await this.#endLine()
    for (const call of calls) await this.#say(`${JSON.stringify(readable(call))}\n`)
  }

  async #say(text: string): Promise<void> {
    if (text === '') return
    await this.#stopThinking()
    await this.#sinks.answer(text)
    this.#last = text
  }

  async #think(text: string): Promise<void> {
    const { reasoning, dim } = this.#sinks
    if (reasoning === undefined || text === '') return
    const start = !this.#thinking && dim ? DIM.on : ''
    this.#thinking = true
    await reasoning(start + text)
  }

  async #stopThinking(): Promise<void> {
    if (!this.#thinking) return
    this.#thinking = false
    await this.#sinks.reasoning?.(`${this.#sinks.dim ? DIM.off : ''}\n\n`)
  }

  async #endLine(): Promise<void> {
    if (!this.#last.endsWith('\n')) await this.#sinks.answer('\n')
  }
}

/** What is no JSON is shown as the model wrote it. */
function readable({ function: { name, arguments: written } }: GeneratedToolCall): object {
  try {
    return { name, arguments: JSON.parse(written) }
  } catch {
    return { name, arguments: written }
  }
}

/** Writes an answer as it comes; nothing without sinks. Ctrl-C ends it early; what there is stays. */
export async function stream(
  generation: Generation,
  terminal: Terminal,
  sinks: Sinks | undefined,
): Promise<GenerationResult> {
  const off = terminal.onInterrupt(() => generation.cancel())
  try {
    const view = sinks && new AnswerView(sinks)
    for await (const chunk of generation) await view?.show(chunk)
    const result = await generation.result
    await view?.end(result.toolCalls)
    return result
  } finally {
    off()
  }
}

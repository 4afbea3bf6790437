/** What a template takes, found by rendering small chats: templates do not say it. */
import { MillraceError } from '../../errors.ts'

export type Render = (messages: object[], tools: object[] | null) => string

export interface CallProfile {
  /** Arguments of calls as objects, or as JSON. */
  arguments: 'object' | 'text'
  /** What stands for no content beside calls. */
  content: '' | null
}

const TEXT = 'Seven birds'
const VALUE = 'probe_value'

/** Mistral's templates ask for ids of nine letters and digits. */
const ID = 'probe0000'
const TOOL = {
  type: 'function',
  function: {
    name: 'probe_tool',
    description: 'A tool',
    parameters: {
      type: 'object',
      properties: { probe_key: { type: 'string', description: 'A key' } },
      required: ['probe_key'],
    },
  },
}
const USER = { role: 'user', content: 'Hello' }

export class Profile {
  readonly #render: Render
  readonly #parts = new Map<string, boolean>()
  #takesText: boolean | undefined
  #calls: CallProfile | undefined

  constructor(render: Render) {
    this.#render = render
  }

  /** The text of a chat, undefined where the template refuses it. */
  #try(messages: object[], tools: object[] | null = null): string | undefined {
    try {
      return this.#render(messages, tools)
    } catch (error) {
      if (MillraceError.isInstance(error)) return undefined
      throw error
    }
  }

  /** Contents may be lists of parts, in messages of a role. */
  takesParts(role: string): boolean {
    let takes = this.#parts.get(role)
    if (takes === undefined) {
      const message = {
        role,
        content: [{ type: 'text', text: TEXT }],
        ...(role === 'tool' ? { tool_call_id: ID, name: 'probe_tool' } : {}),
      }
      const text = this.#try(...this.#around(message))
      // Without the list's own brackets, as Python or JSON would write them.
      takes = text?.includes(TEXT) === true && !/['"]type['"]: ['"]text['"]/.test(text.split(TEXT)[0]!.slice(-60))
      this.#parts.set(role, takes)
    }
    return takes
  }

  /** Contents may be texts; some templates of models with images know lists alone. */
  takesText(): boolean {
    this.#takesText ??=
      this.#try([{ role: 'user', content: TEXT }])?.includes(TEXT) === true || !this.takesParts('user')
    return this.#takesText
  }

  #around(message: { role: string }): [messages: object[], tools: object[] | null] {
    if (message.role === 'user') return [[message], null]
    if (message.role === 'assistant') return [[USER, message, USER], null]
    if (message.role !== 'tool') return [[message, USER], null]
    const { arguments: style, content } = this.calls()
    return [[USER, callMessage(style, content), message], [TOOL]]
  }

  calls(): CallProfile {
    this.#calls ??= this.#findCalls()
    return this.#calls
  }

  #findCalls(): CallProfile {
    const results = (['object', 'text'] as const).flatMap((style) =>
      (['', null] as const).map((content): CallProfile & { rank: number } => {
        const result = { role: 'tool', tool_call_id: ID, name: 'probe_tool', content: TEXT }
        const text = this.#try([USER, callMessage(style, content), result], [TOOL])
        return { arguments: style, content, rank: rank(text) }
      }),
    )
    const best = results.reduce((a, b) => (b.rank > a.rank ? b : a))
    return { arguments: best.arguments, content: best.content }
  }
}

function callMessage(style: CallProfile['arguments'], content: '' | null): object {
  const args = { probe_key: VALUE }
  const call = { name: 'probe_tool', arguments: style === 'object' ? args : JSON.stringify(args) }
  return { role: 'assistant', content, tool_calls: [{ id: ID, type: 'function', function: call }] }
}

/** How well a rendering shows a call: not at all, in Python's own writing or quoted twice, or well. */
function rank(text: string | undefined): number {
  if (!text?.includes(VALUE)) return 0
  return /\{'probe_key'|\\"probe_key|None/.test(text) ? 1 : 2
}

/** Messages as users write them -> as a template takes them. */
import { MillraceError } from '../../errors.ts'
import { fromJs } from '../template/from_js.ts'
import { jsonStyle, toJson } from '../template/json.ts'
import type { Profile } from './profile.ts'
import type { Message, TextPart, ToolCall } from './types.ts'

const REASONING = ['reasoning_content', 'reasoning', 'thinking'] as const

type Prepared = Record<string, unknown>

const invalid = (message: string, remedy?: string) =>
  new MillraceError('INVALID_ARGUMENT', { message, ...(remedy === undefined ? {} : { remedy }) })

export const nestedTooDeep = (cause?: unknown) =>
  new MillraceError('INVALID_ARGUMENT', {
    message: 'the messages, tools or variables of a chat are nested too deep, or within themselves',
    remedy: 'pass what is nested less deep',
    cause,
  })

/** `template` is its text, which shows the names that it knows. */
export function prepareMessages(messages: readonly Message[], template: string, profile: Profile): Prepared[] {
  return messages.map((message, index) => {
    const { content, tool_calls: calls, ...rest } = message
    const hasCalls = Array.isArray(calls) && calls.length > 0
    const prepared: Prepared = {
      ...rest,
      role: roleOf(message.role, template),
      content: contentOf(message, index, profile),
    }
    if (content == null) prepared.content = hasCalls ? profile.calls().content : ''
    if (hasCalls) prepared.tool_calls = calls.map((call) => callOf(call, profile))
    else if (calls !== undefined && calls !== null) prepared.tool_calls = calls
    addReasoning(prepared, message, template)
    return prepared
  })
}

/** A template that does not know developers would pass over what they say. */
const roleOf = (role: string, template: string) =>
  role === 'developer' && !template.includes('developer') ? 'system' : role

function contentOf({ role, content }: Message, index: number, profile: Profile): unknown {
  if (content == null) return content
  if (typeof content === 'string') return profile.takesText() ? content : [{ type: 'text', text: content }]
  if (!Array.isArray(content)) throw invalid(`messages[${index}].content: expected a text or a list of parts`)
  const texts = (content as readonly TextPart[]).map((part, at) => {
    if (part?.type !== 'text' || typeof part.text !== 'string') {
      throw invalid(
        `messages[${index}].content[${at}]: expected { type: 'text', text }, received type ${JSON.stringify(part?.type)}`,
        'models here read text alone: leave out images and sounds',
      )
    }
    return part.text
  })
  return profile.takesParts(role) ? content : texts.join('\n')
}

function callOf(call: ToolCall, profile: Profile): Prepared {
  const { arguments: given } = call.function
  const wanted = profile.calls().arguments === 'object' ? objectOf(given) : textOf(given)
  return { ...call, type: call.type ?? 'function', function: { ...call.function, arguments: wanted } }
}

/** What is no JSON of an object stays a text: the model itself may have said it. */
function objectOf(given: unknown): unknown {
  if (typeof given !== 'string') return given ?? {}
  if (given.trim() === '') return {}
  try {
    const value: unknown = JSON.parse(given)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : given
  } catch {
    return given
  }
}

const textOf = (given: unknown) => (typeof given === 'string' ? given : toJson(fromJs(given ?? {}), jsonStyle()))

/** Under each of the names that the template reads. */
function addReasoning(prepared: Prepared, message: Message, template: string): void {
  const reasoning = REASONING.map((name) => message[name]).find((text) => typeof text === 'string')
  if (reasoning === undefined) return
  for (const name of REASONING) if (template.includes(name)) prepared[name] ??= reasoning
}

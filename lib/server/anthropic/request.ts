/** A chat as Anthropic's API asks for it -> messages and options of chat(). */
import { z } from 'zod'
import type { ChatMessage, ChatOptions, ChatTool } from '../../index.ts'
import { answerShape } from '../answer/options.ts'
import { flag, integer, list, optional, record, text } from '../http/body.ts'
import { invalid, unsupported } from '../http/problem.ts'

const block = z.looseObject({ type: text() }, { error: "a block such as { type: 'text', text: 'Hello' }" })
const contentError = 'a text or a list of blocks'
const content = z.union([text(), z.array(block)], { error: contentError })

export const countSchema = z.object({
  model: optional(text()),
  messages: z
    .array(
      z.looseObject({ role: z.enum(['user', 'assistant', 'system'], { error: "'user' or 'assistant'" }), content }),
      { error: "a list of messages such as [{ role: 'user', content: 'Hello' }]" },
    )
    .min(1, { error: 'a list of at least one message' }),
  system: optional(content),
  tools: optional(
    list(
      z.looseObject({ name: text(), description: optional(text()), input_schema: optional(record()) }),
      'a list of tools',
    ),
  ),
  tool_choice: optional(
    z.looseObject({
      type: z.enum(['auto', 'any', 'tool', 'none']),
      name: optional(text()),
      disable_parallel_tool_use: optional(flag()),
    }),
  ),
  thinking: optional(z.looseObject({ type: z.enum(['enabled', 'disabled', 'adaptive']) })),
})

const format = z.looseObject({ type: z.literal('json_schema'), schema: record('a JSON schema') })

export const messagesSchema = z.object({
  ...countSchema.shape,
  max_tokens: integer(1, 2 ** 27),
  stop_sequences: optional(list(text().min(1, { error: 'a text that is not empty' }), 'a list of texts')),
  stream: optional(flag()),
  temperature: answerShape.temperature,
  top_p: answerShape.top_p,
  top_k: answerShape.top_k,
  output_format: optional(format),
  output_config: optional(z.looseObject({ format: optional(format), effort: optional(text()) })),
})

export type CountRequest = z.output<typeof countSchema>
export type MessagesRequest = z.output<typeof messagesSchema>

export interface AnthropicChat {
  messages: ChatMessage[]
  options: ChatOptions
}

/** What counting tokens needs as well. Throws a Problem. */
export function anthropicChat(request: CountRequest): AnthropicChat {
  const { system, messages, tools, tool_choice: choice, thinking } = request
  const options: ChatOptions = {}
  const shown = tools?.map(toolOf)
  if (shown && shown.length > 0) options.tools = shown
  if (choice) {
    if (choice.type === 'auto' || choice.type === 'none') options.toolChoice = choice.type
    else if (!shown?.length) throw invalid(`expected tools beside tool_choice of type ${choice.type}`, 'tool_choice')
    else if (choice.type === 'any') options.toolChoice = 'required'
    else {
      const { name } = choice
      if (!shown.some((tool) => tool.function.name === name)) {
        throw invalid(
          `expected the name of one of the tools for tool_choice.name but received ${JSON.stringify(name)}`,
          'tool_choice.name',
        )
      }
      options.toolChoice = { name: name! }
    }
    if (choice.disable_parallel_tool_use) options.parallelToolCalls = false
  }
  if (thinking) options.variables = { enable_thinking: thinking.type !== 'disabled' }
  const first: ChatMessage[] = system === undefined ? [] : [{ role: 'system', content: textOf(system, 'system') }]
  return { messages: [...first, ...messages.flatMap(messagesOf)], options }
}

export function messagesTask(request: MessagesRequest): AnthropicChat {
  const { messages, options } = anthropicChat(request)
  const {
    temperature,
    top_p: topP,
    top_k: topK,
    stop_sequences: stop,
    output_format: older,
    output_config: output,
  } = request
  const schema = (output?.format ?? older)?.schema
  const given = {
    maxTokens: request.max_tokens,
    temperature,
    topP,
    topK: topK === undefined ? undefined : Math.max(0, topK),
    stop: stop?.length ? stop : undefined,
    constraint: schema && { schema },
  }
  const effort =
    output?.effort === undefined ? {} : { variables: { reasoning_effort: output.effort, ...options.variables } }
  const named = Object.entries(given).filter(([, value]) => value !== undefined)
  return { messages, options: { ...options, ...effort, ...Object.fromEntries(named) } }
}

function toolOf(tool: NonNullable<CountRequest['tools']>[number], index: number): ChatTool {
  const { name, description, input_schema: parameters, type } = tool
  if (parameters === undefined && typeof type === 'string' && type !== 'custom') {
    throw unsupported(`tools[${index}].type`, `tools run where the client is: name it with an input_schema`)
  }
  return {
    type: 'function',
    function: { name, ...(description === undefined ? {} : { description }), ...(parameters ? { parameters } : {}) },
  }
}

type Block = z.output<typeof block>
type Content = string | Block[]

/** Results of tools are messages of their own, before what the user says besides. */
function messagesOf({ role, content: given }: CountRequest['messages'][number], index: number): ChatMessage[] {
  const name = `messages[${index}].content`
  if (typeof given === 'string') return [{ role, content: given }]
  if (role === 'assistant') return [assistantOf(given, name)]
  const results = given.filter(({ type }) => type === 'tool_result')
  const rest = given.filter(({ type }) => type !== 'tool_result')
  const tools = results.map((block): ChatMessage => {
    const { tool_use_id: id, content: result = '' } = block as Block & { tool_use_id?: unknown; content?: Content }
    if (typeof id !== 'string') throw invalid(`expected a text for ${name}.tool_use_id`, name)
    return { role: 'tool', tool_call_id: id, content: textOf(result, name) }
  })
  return rest.length > 0 || tools.length === 0 ? [...tools, { role, content: textOf(rest, name) }] : tools
}

function assistantOf(blocks: readonly Block[], name: string): ChatMessage {
  const texts: Block[] = []
  const calls: NonNullable<ChatMessage['tool_calls']>[number][] = []
  let reasoning = ''
  for (const block of blocks) {
    if (block.type === 'thinking') reasoning += String(block.thinking ?? '')
    else if (block.type === 'tool_use') {
      if (typeof block.name !== 'string') throw invalid(`expected a text for ${name}.name`, name)
      const input = (block.input ?? {}) as Record<string, unknown>
      calls.push({
        id: String(block.id),
        type: 'function',
        function: { name: block.name, arguments: JSON.stringify(input) },
      })
    } else if (block.type !== 'redacted_thinking') texts.push(block)
  }
  const text = textOf(texts, name)
  return {
    role: 'assistant',
    content: text === '' && calls.length > 0 ? null : text,
    ...(reasoning === '' ? {} : { reasoning }),
    ...(calls.length > 0 ? { tool_calls: calls } : {}),
  }
}

function textOf(given: Content, name: string): string {
  if (typeof given === 'string') return given
  return given
    .map(({ type, text: said }) => {
      if (type === 'text' && typeof said === 'string') return said
      throw invalid(
        `expected blocks of type 'text' for ${name} but received type ${JSON.stringify(type)}: models here read nothing else`,
        name,
      )
    })
    .join('\n')
}

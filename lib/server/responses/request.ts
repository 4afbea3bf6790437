/** What OpenAI's Responses API asks for -> messages and options of chat(). */
import { z } from 'zod'
import type { ChatMessage, ChatOptions } from '../../index.ts'
import { type AnswerRequest, answerOptionsOf, answerShape } from '../answer/options.ts'
import { flag, integer, list, optional, record, text } from '../http/body.ts'
import { invalid, unsupported } from '../http/problem.ts'
import { effortVariables, toolsOf } from '../openai/chat_request.ts'

const item = z.looseObject({ type: optional(text()) }, { error: "an item such as { role: 'user', content: 'Hello' }" })
const tool = z.looseObject(
  { type: text(), name: optional(text()), description: optional(text()), parameters: optional(record()) },
  { error: "an object such as { type: 'function', name, parameters }" },
)
const named = z.looseObject({ type: z.literal('function'), name: text() })
const format = z.discriminatedUnion(
  'type',
  [
    z.looseObject({ type: z.literal('text') }),
    z.looseObject({ type: z.literal('json_object') }),
    z.looseObject({ type: z.literal('json_schema'), name: text(), schema: record('a JSON schema') }),
  ],
  { error: "an object whose type is 'text', 'json_object' or 'json_schema'" },
)

const { n: _, stop: __, stream_options: ___, response_format: ____, ...shape } = answerShape

export const responsesSchema = z.object({
  ...shape,
  input: z.union([text(), z.array(item).min(1)], { error: 'a text or a list of items' }),
  instructions: optional(text()),
  max_output_tokens: optional(integer(1, 2 ** 27)),
  tools: optional(list(tool, 'a list of tools')),
  tool_choice: optional(
    z.union(
      [
        z.enum(['none', 'auto', 'required']),
        named,
        z.looseObject({ type: z.literal('allowed_tools'), mode: z.enum(['auto', 'required']), tools: z.array(named) }),
      ],
      { error: "'none', 'auto', 'required', { type: 'function', name } or { type: 'allowed_tools', mode, tools }" },
    ),
  ),
  parallel_tool_calls: optional(flag()),
  text: optional(z.looseObject({ format: optional(format) })),
  reasoning: optional(z.looseObject({ effort: optional(text()), summary: optional(text()) })),
  include: optional(list(text(), 'a list of texts')),
  top_logprobs: optional(integer(0, 20)),
  truncation: optional(z.enum(['auto', 'disabled'])),
  metadata: optional(record()),
  user: optional(text()),
  chat_template_kwargs: optional(record()),
  store: optional(flag()),
  // Known, and refused by name.
  previous_response_id: optional(text()),
  conversation: optional(z.unknown()),
  background: optional(flag()),
  prompt: optional(z.unknown()),
})

export type ResponsesRequest = z.output<typeof responsesSchema>

const LOGPROBS = 'message.output_text.logprobs'
export const wantsLogprobs = ({ include = [] }: ResponsesRequest) => include.includes(LOGPROBS)

/** Throws a Problem. */
export function responsesTask(request: ResponsesRequest): { messages: ChatMessage[]; options: ChatOptions } {
  const nothingStored = 'nothing is stored here: send the items of the conversation as input'
  if (request.previous_response_id !== undefined) throw unsupported('previous_response_id', nothingStored)
  if (request.conversation !== undefined) throw unsupported('conversation', nothingStored)
  if (request.prompt !== undefined) throw unsupported('prompt', nothingStored)
  if (request.background) throw unsupported('background', 'wait for the answer, or stream it')
  const { input, instructions, max_output_tokens: maxTokens, text: wanted, reasoning, truncation } = request
  const odd = request.tools?.findIndex(({ type, name }) => type !== 'function' || name === undefined) ?? -1
  if (odd !== -1) throw unsupported(`tools[${odd}].type`, "tools are of type 'function', with a name")
  const answers = { ...request, response_format: formatOf(wanted?.format) } as unknown as AnswerRequest
  const options: ChatOptions = { ...answerOptionsOf(answers), ...toolsOf(chatTools(request)) }
  if (maxTokens !== undefined) options.maxTokens = maxTokens
  if (truncation === 'auto') options.truncate = 'middle'
  if (wantsLogprobs(request)) {
    options.logprobs = true
    options.topLogprobs = request.top_logprobs ?? 0
  }
  const variables = { ...effortVariables(reasoning?.effort), ...request.chat_template_kwargs }
  if (Object.keys(variables).length > 0) options.variables = variables
  const first: ChatMessage[] = instructions === undefined ? [] : [{ role: 'system', content: instructions }]
  const messages = typeof input === 'string' ? [{ role: 'user', content: input }] : messagesOf(input)
  return { messages: [...first, ...messages], options }
}

const formatOf = (format: NonNullable<ResponsesRequest['text']>['format']) =>
  format?.type === 'json_schema' ? { type: format.type, json_schema: { schema: format.schema } } : format

/** As chats have them. */
function chatTools({
  tools,
  tool_choice: choice,
  parallel_tool_calls,
}: ResponsesRequest): Parameters<typeof toolsOf>[0] {
  const nested = ({ name }: { name: string }) => ({ type: 'function' as const, function: { name } })
  return {
    tools: tools?.map(({ name, description, parameters }) => ({
      type: 'function',
      function: {
        name: name!,
        ...(description === undefined ? {} : { description }),
        ...(parameters ? { parameters } : {}),
      },
    })),
    tool_choice:
      typeof choice !== 'object'
        ? choice
        : choice.type === 'function'
          ? nested(choice)
          : { type: 'allowed_tools', allowed_tools: { mode: choice.mode, tools: choice.tools.map(nested) } },
    parallel_tool_calls,
  }
}

type Item = z.output<typeof item>

/** Reasoning, text and calls that follow each other are one message of the assistant's. */
function messagesOf(items: readonly Item[]): ChatMessage[] {
  const messages: ChatMessage[] = []
  let open: ChatMessage | undefined
  const assistant = () => {
    if (!open) {
      open = { role: 'assistant', content: null }
      messages.push(open)
    }
    return open
  }
  for (const [index, given] of items.entries()) {
    const name = `input[${index}]`
    const { type = 'message' } = given
    if (type === 'reasoning') assistant().reasoning = (assistant().reasoning ?? '') + reasoningOf(given)
    else if (type === 'function_call') {
      const message = assistant()
      const call = {
        id: textField(given, 'call_id', name),
        type: 'function' as const,
        function: { name: textField(given, 'name', name), arguments: textField(given, 'arguments', name) },
      }
      message.tool_calls = [...(message.tool_calls ?? []), call]
    } else if (type === 'function_call_output') {
      open = undefined
      const content = textOf(given.output, `${name}.output`)
      messages.push({ role: 'tool', tool_call_id: textField(given, 'call_id', name), content })
    } else if (type === 'message') {
      const role = textField(given, 'role', name)
      const content = textOf(given.content, `${name}.content`)
      if (role === 'assistant' && (!open || open.content === null) && !open?.tool_calls) assistant().content = content
      else {
        open = undefined
        messages.push({ role, content })
        if (role === 'assistant') open = messages.at(-1)
      }
    } else throw unsupported(`${name}.type`, `items of type ${JSON.stringify(type)} are not known here`)
  }
  return messages
}

function textField(item: Item, field: string, name: string): string {
  const value = item[field]
  if (typeof value === 'string') return value
  throw invalid(`expected a text for ${name}.${field}`, `${name}.${field}`)
}

function reasoningOf({ content, summary }: Item): string {
  const parts = [content, summary].find((list) => Array.isArray(list) && list.length > 0) as
    | { text?: unknown }[]
    | undefined
  return (parts ?? []).map(({ text: said }) => (typeof said === 'string' ? said : '')).join('\n')
}

const TEXTS = ['input_text', 'output_text', 'text']

function textOf(content: unknown, name: string): string {
  if (typeof content === 'string') return content
  if (!Array.isArray(content)) throw invalid(`expected a text or a list of parts for ${name}`, name)
  return content
    .map((part: { type?: unknown; text?: unknown; refusal?: unknown } | null, index) => {
      if (part?.type === 'refusal' && typeof part.refusal === 'string') return part.refusal
      if (TEXTS.includes(String(part?.type)) && typeof part?.text === 'string') return part.text
      throw invalid(
        `expected a part such as { type: 'input_text', text } for ${name}[${index}] but received type ${JSON.stringify(part?.type)}: models here read nothing else`,
        `${name}[${index}]`,
      )
    })
    .join('\n')
}

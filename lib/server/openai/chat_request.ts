/** A chat as OpenAI's API asks for it -> messages and options of chat(). */
import { z } from 'zod'
import type { ChatMessage, ChatOptions, ChatTool } from '../../index.ts'
import { type AnswerRequest, answerOptionsOf, answerShape } from '../answer/options.ts'
import { flag, integer, list, optional, record, text } from '../http/body.ts'
import { invalid, unsupported } from '../http/problem.ts'

const MAX_TOKENS = 2 ** 27
const named = z.looseObject({ type: z.literal('function'), function: z.looseObject({ name: text() }) })

const choiceError =
  "'none', 'auto', 'required', { type: 'function', function: { name } } or { type: 'allowed_tools', allowed_tools: { mode, tools } }"
const toolChoice = z.union(
  [
    z.enum(['none', 'auto', 'required']),
    named,
    z.looseObject({
      type: z.literal('allowed_tools'),
      allowed_tools: z.looseObject({ mode: z.enum(['auto', 'required']), tools: z.array(named) }),
    }),
  ],
  { error: choiceError },
)
const tool = z.looseObject(
  {
    type: z.string({ error: "'function'" }),
    function: optional(z.looseObject({ name: text() }, { error: 'an object such as { name, parameters }' })),
  },
  { error: "an object such as { type: 'function', function: { name, parameters } }" },
)

/** Roles and contents are checked by chat(), which knows the model's template. */
const message = z.looseObject({ role: text() }, { error: "an object such as { role: 'user', content: 'Hello' }" })

export const chatSchema = z.object({
  ...answerShape,
  messages: z
    .array(message, { error: "a list of messages such as [{ role: 'user', content: 'Hello' }]" })
    .min(1, { error: 'a list of at least one message' }),
  max_tokens: optional(integer(1, MAX_TOKENS)),
  max_completion_tokens: optional(integer(1, MAX_TOKENS)),
  logprobs: optional(flag()),
  top_logprobs: optional(integer(0, 64)),
  tools: optional(list(tool, 'a list of tools')),
  tool_choice: optional(toolChoice),
  parallel_tool_calls: optional(flag()),
  reasoning_effort: optional(text()),
  chat_template_kwargs: optional(record()),
  continue_final_message: optional(flag()),
  add_generation_prompt: optional(flag()),
  // Known, and refused by name: to pass over them would answer another question.
  functions: optional(z.unknown()),
  function_call: optional(z.unknown()),
  audio: optional(z.unknown()),
  modalities: optional(z.array(text(), { error: "['text']" })),
  web_search_options: optional(z.unknown()),
})

export type ChatRequest = z.output<typeof chatSchema>

export interface ChatTask {
  messages: ChatMessage[]
  options: ChatOptions
}

/** Throws a Problem. */
export function chatTask(request: ChatRequest): ChatTask {
  refuse(request)
  const { max_completion_tokens: most, max_tokens: older, logprobs, top_logprobs: topLogprobs } = request
  if (topLogprobs !== undefined && topLogprobs > 0 && !logprobs) {
    throw invalid('expected logprobs: true beside top_logprobs', 'top_logprobs')
  }
  if (request.stream_options !== undefined && !request.stream) {
    throw invalid('expected stream: true beside stream_options', 'stream_options')
  }
  const options: ChatOptions = { ...answerOptionsOf(request as AnswerRequest), ...toolsOf(request) }
  const maxTokens = most ?? older
  if (maxTokens !== undefined) options.maxTokens = maxTokens
  if (logprobs) options.logprobs = true
  if (topLogprobs !== undefined) options.topLogprobs = topLogprobs
  const variables = variablesOf(request)
  if (variables) options.variables = variables
  if (request.continue_final_message) options.continueFinalMessage = true
  return { messages: request.messages.map(messageOf), options }
}

function refuse(request: ChatRequest): void {
  if (request.functions !== undefined) throw unsupported('functions', 'use tools')
  if (request.function_call !== undefined) throw unsupported('function_call', 'use tool_choice')
  if (request.audio !== undefined) throw unsupported('audio', 'answers are text')
  const modality = request.modalities?.find((one) => one !== 'text')
  if (modality !== undefined) throw unsupported('modalities', 'answers are text')
  if (request.web_search_options !== undefined) throw unsupported('web_search_options', 'give the model a tool')
  if (request.add_generation_prompt === false && !request.continue_final_message) {
    throw unsupported('add_generation_prompt', 'false goes together with continue_final_message: true')
  }
  if (request.add_generation_prompt && request.continue_final_message) {
    throw invalid('expected one of add_generation_prompt and continue_final_message', 'continue_final_message')
  }
}

export function toolsOf({
  tools,
  tool_choice: choice,
  parallel_tool_calls: parallel,
}: Pick<ChatRequest, 'tools' | 'tool_choice' | 'parallel_tool_calls'>): Pick<
  ChatOptions,
  'tools' | 'toolChoice' | 'parallelToolCalls'
> {
  const odd = tools?.findIndex(({ type, function: called }) => type !== 'function' || called === undefined) ?? -1
  if (odd !== -1) throw unsupported(`tools[${odd}].type`, "tools are of type 'function', with a function")
  let shown = tools as ChatTool[] | undefined
  const names = shown?.map(({ function: { name } }) => name) ?? []
  const requireTool = (name: string) => {
    if (!names.includes(name)) {
      throw invalid(
        `expected the name of one of the tools for tool_choice but received ${JSON.stringify(name)}`,
        'tool_choice',
      )
    }
  }
  let toolChoice: ChatOptions['toolChoice']
  if (typeof choice === 'string') toolChoice = choice
  else if (choice?.type === 'function') {
    toolChoice = { name: choice.function.name }
    requireTool(toolChoice.name)
  } else if (choice) {
    const { mode, tools: allowed } = choice.allowed_tools
    const wanted = allowed.map(({ function: { name } }) => name)
    wanted.forEach(requireTool)
    shown = shown?.filter(({ function: { name } }) => wanted.includes(name))
    toolChoice = mode
  }
  if (toolChoice === 'required' && names.length === 0) {
    throw invalid("expected tools beside tool_choice: 'required'", 'tool_choice')
  }
  return {
    ...(shown && shown.length > 0 ? { tools: shown } : {}),
    ...(toolChoice !== undefined ? { toolChoice } : {}),
    ...(parallel !== undefined ? { parallelToolCalls: parallel } : {}),
  }
}

/** What templates know of an effort: some its name, some whether to think at all. */
export function effortVariables(effort: string | undefined): Record<string, unknown> {
  if (effort === undefined) return {}
  return effort === 'none' ? { enable_thinking: false } : { reasoning_effort: effort }
}

function variablesOf(request: ChatRequest): Record<string, unknown> | undefined {
  const variables = { ...effortVariables(request.reasoning_effort), ...request.chat_template_kwargs }
  return Object.keys(variables).length > 0 ? variables : undefined
}

/** A refusal is a text, too, where an assistant said it. */
function messageOf(message: ChatRequest['messages'][number]): ChatMessage {
  const { content, refusal, ...rest } = message as { role: string; content?: unknown; refusal?: unknown }
  if (Array.isArray(content)) {
    const parts = content.map((part) =>
      part?.type === 'refusal' && typeof part.refusal === 'string' ? { type: 'text', text: part.refusal } : part,
    )
    return { ...rest, content: parts }
  }
  if (content == null && typeof refusal === 'string') return { ...rest, content: refusal }
  return (content === undefined ? rest : { ...rest, content }) as ChatMessage
}

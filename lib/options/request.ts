/** Options of what is asked of a model: answers, scores, chats. */
import { z } from 'zod'
import { checkConstraint } from '../constraint/check.ts'
import type { Constraint } from '../constraint/types.ts'
import type { Message as ChatMessage, Tool as ChatTool, Templates } from '../text/chat/types.ts'
import { ROLES, takesRole } from '../text/roles.ts'
import { answerRows, type OptionsOf, type sampling, scheduling, shapeOf } from './sampling.ts'
import { type Speculation, speculation } from './speculation.ts'
import { boolean, integer, invalidArgument, signal, validate } from './validate.ts'

export type { ChatMessage, ChatTool }

/** When a request may run. */
export interface ScheduleOptions extends OptionsOf<typeof scheduling> {}

export interface GenerateOptions extends OptionsOf<typeof sampling>, ScheduleOptions {
  /** Aborts the request: iteration and result reject with an AbortError whose code is ABORTED. */
  signal?: AbortSignal | undefined
  /** What the answer must be: JSON of a schema, a match of a regular expression, one of some texts, a grammar's. */
  constraint?: Constraint | undefined
  /** Instead of the load's. */
  speculation?: Speculation | undefined
}

export interface ScoreOptions extends ScheduleOptions {
  /** Put before a text what the tokenizer puts there, a first token as a rule. Default true. */
  specialTokens?: boolean | undefined
  /** Give every position's logits too: float32 [tokens, vocabulary]. Default false. */
  logits?: boolean | undefined
  /** Aborts the request: it rejects with an AbortError whose code is ABORTED. */
  signal?: AbortSignal | undefined
}

export interface EmbedOptions extends ScheduleOptions {
  /**
   * What of a text's final hidden states its vector is: their mean, or the last token's. Default: as the checkpoint's
   * 1_Pooling/config.json says, else 'mean'.
   */
  pooling?: 'mean' | 'last' | undefined
  /** So many of the vector's first numbers, made of length 1 again: for models that were trained for it. Default: all. */
  dimensions?: number | undefined
  /** Put around a text what the tokenizer puts there: its first and its last tokens. Default true. */
  specialTokens?: boolean | undefined
  /** Aborts the call: it rejects with an AbortError whose code is ABORTED. */
  signal?: AbortSignal | undefined
}

/** How a chat is put together. */
export interface ChatTemplateOptions {
  /** Tools that the model may call, as OpenAI's API has them. */
  tools?: readonly ChatTool[] | undefined
  /** Whether the prompt ends where an answer begins. Default: unless the final message is continued. */
  addGenerationPrompt?: boolean | undefined
  /** Whether the prompt ends within the final message, which the model goes on with. Default false. */
  continueFinalMessage?: boolean | undefined
  /** What the chat template knows beyond that, such as { enable_thinking: false }. */
  variables?: Readonly<Record<string, unknown>> | undefined
  /** Of several templates, the one to use. Default: 'tool_use' where there are tools, or 'default'. */
  templateName?: string | undefined
  /** Stops waiting. */
  signal?: AbortSignal | undefined
}

export interface ChatOptions extends GenerateOptions, Omit<ChatTemplateOptions, 'addGenerationPrompt' | 'signal'> {
  /**
   * 'auto': the model may call tools; 'none': it is shown none; 'required': it calls one at least and says nothing else;
   * { name }: that one. Arguments are as the schema of the tool has them. Default 'auto'.
   */
  toolChoice?: 'auto' | 'none' | 'required' | { readonly name: string } | undefined
  /** Whether an answer may have several calls; else it ends behind its first. Default true. */
  parallelToolCalls?: boolean | undefined
}

export const generateOptions = z.strictObject({
  ...shapeOf(answerRows),
  signal: signal().optional(),
  /** Throws what is wrong with it itself. */
  constraint: z
    .custom<Constraint>()
    .transform((constraint) => (constraint === undefined ? undefined : checkConstraint(constraint)))
    .optional(),
  speculation: speculation.optional(),
})

export const scoreOptions = z.strictObject({
  ...shapeOf(scheduling),
  specialTokens: boolean().optional(),
  logits: boolean().optional(),
  signal: signal().optional(),
})

export const embedOptions = z.strictObject({
  ...shapeOf(scheduling),
  pooling: z.enum(['mean', 'last'], { error: "'mean' or 'last'" }).optional(),
  dimensions: integer(1, 2 ** 31 - 1).optional(),
  specialTokens: boolean().optional(),
  signal: signal().optional(),
})

/** Throws INVALID_ARGUMENT where an answer would have to be longer than it may be. */
export function checkLengths({ minTokens = 0, maxTokens = Number.POSITIVE_INFINITY }: GenerateOptions): void {
  if (minTokens > maxTokens) throw invalidArgument(`at most maxTokens (${maxTokens})`, 'options.minTokens', minTokens)
}

const text = (error = 'a text') => z.string({ error })
const filled = () => text().min(1, { error: 'a text that is not empty' })
const record = (error: string) =>
  z.custom<Record<string, unknown>>((value) => typeof value === 'object' && value !== null && !Array.isArray(value), {
    error,
  })

const chatTool = z.looseObject(
  {
    type: z.literal('function', { error: "'function'" }),
    function: z.looseObject(
      {
        name: filled(),
        description: text().optional(),
        parameters: record('a JSON schema').optional(),
      },
      { error: 'an object such as { name, description, parameters }' },
    ),
  },
  { error: "an object such as { type: 'function', function: { name: 'search', parameters: { ... } } }" },
)

/** The first name that two tools have: a call could mean either. */
const nameOfTwo = (tools: readonly z.infer<typeof chatTool>[]) =>
  tools.map((tool) => tool.function.name).find((name, index, names) => names.indexOf(name) !== index)

const templateShape = {
  tools: z
    .array(chatTool, { error: 'an array of tools' })
    .refine((tools) => nameOfTwo(tools) === undefined, { error: 'tools that each have a name of their own' })
    .readonly()
    .optional(),
  continueFinalMessage: boolean().optional(),
  variables: record('an object such as { enable_thinking: false }').optional(),
  templateName: text().optional(),
  signal: signal().optional(),
}

export const chatTemplateOptions = z.strictObject({ ...templateShape, addGenerationPrompt: boolean().optional() })

export const chatOptions = z.strictObject({
  ...generateOptions.shape,
  ...templateShape,
  toolChoice: z
    .union([z.enum(['auto', 'none', 'required']), z.strictObject({ name: z.string() })], {
      error: "'auto', 'none', 'required' or { name }",
    })
    .optional(),
  parallelToolCalls: boolean().optional(),
})

const toolCall = z.looseObject(
  {
    id: text().optional(),
    type: z.literal('function', { error: "'function'" }).optional(),
    function: z.looseObject(
      {
        name: filled(),
        arguments: z.union([z.string(), record('')], { error: 'a text of JSON or an object' }),
      },
      { error: 'an object such as { name, arguments }' },
    ),
  },
  { error: "an object such as { id, type: 'function', function: { name, arguments } }" },
)

/** Of an assistant, beside whose calls or reasoning there may be no content. */
const CONTENT = "a text or an array of parts such as { type: 'text', text: 'Hello' }"

const chatMessage = z
  .looseObject(
    {
      role: filled(),
      content: z.unknown().optional(),
      reasoning: text().nullish(),
      reasoning_content: text().nullish(),
      thinking: text().nullish(),
      tool_calls: z.array(toolCall, { error: 'an array of calls' }).readonly().nullish(),
      tool_call_id: text().nullish(),
      name: text().nullish(),
    },
    { error: "an object such as { role: 'user', content: 'Hello' }" },
  )
  .superRefine((message, context) => {
    const { content } = message
    const complain = (expected: string, ...path: (string | number)[]) =>
      context.addIssue({ code: 'custom', message: expected, path: ['content', ...path] })
    if (content === undefined || content === null) {
      const calls = (message.tool_calls ?? []).length > 0
      const reasoning = message.reasoning ?? message.reasoning_content ?? message.thinking
      if (message.role !== 'assistant') complain('a text')
      else if (!calls && typeof reasoning !== 'string') complain('a text, there being no tool_calls,')
    } else if (Array.isArray(content)) {
      content.forEach((part, index) => {
        if (part?.type !== 'text' && typeof part?.type === 'string') {
          complain("'text', since models here read nothing else,", index, 'type')
        } else if (part?.type !== 'text' || typeof part.text !== 'string') complain("{ type: 'text', text }", index)
      })
    } else if (typeof content !== 'string') complain(CONTENT)
  })

export const chatMessages = z
  .array(chatMessage, { error: "an array of messages such as [{ role: 'user', content: 'Hello' }]" })
  .min(1, { error: 'an array of at least one message' })
  .readonly()

/** A chat as its caller wrote it, checked. Throws INVALID_ARGUMENT. */
export function checkMessages(
  messages: readonly ChatMessage[],
  templates: Templates | undefined,
): readonly ChatMessage[] {
  const checked = validate(chatMessages, messages, 'messages') as readonly ChatMessage[]
  checked.forEach(({ role }, index) => {
    if (templates === undefined || takesRole(templates, role)) return
    throw invalidArgument(
      `one of ${ROLES.map((known) => `'${known}'`).join(', ')}, or a role that the model's chat template names,`,
      `messages[${index}].role`,
      role,
    )
  })
  return checked
}

export function checkChat(
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions,
  templates: Templates | undefined,
): [messages: readonly ChatMessage[], options: ChatTemplateOptions] {
  return [checkMessages(messages, templates), validate(chatTemplateOptions, options, 'options') as ChatTemplateOptions]
}

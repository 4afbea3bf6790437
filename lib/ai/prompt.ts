/** A prompt of the AI SDK -> messages of chat(). */
import type {
  LanguageModelV3FilePart,
  LanguageModelV3Message,
  LanguageModelV3Prompt,
  LanguageModelV3TextPart,
  LanguageModelV3ToolResultOutput,
  SharedV3Warning,
} from '@ai-sdk/provider'
import { MillraceError } from '../errors.ts'
import type { ChatMessage } from '../options/request.ts'

/** Throws INVALID_ARGUMENT where there is more than text. */
export function messagesOf(prompt: LanguageModelV3Prompt): { messages: ChatMessage[]; warnings: SharedV3Warning[] } {
  const warnings: SharedV3Warning[] = []
  return { messages: prompt.flatMap((message) => messageOf(message, warnings)), warnings }
}

function messageOf(message: LanguageModelV3Message, warnings: SharedV3Warning[]): ChatMessage[] {
  switch (message.role) {
    case 'system':
      return [{ role: 'system', content: message.content }]
    case 'user':
      return [{ role: 'user', content: contentOf(message.content.map(textOf)) }]
    case 'assistant':
      return [assistantOf(message.content, warnings)]
    case 'tool':
      // What was approved or denied shows in the results.
      return message.content.flatMap((part) =>
        part.type === 'tool-result'
          ? [{ role: 'tool', tool_call_id: part.toolCallId, name: part.toolName, content: resultOf(part.output) }]
          : [],
      )
  }
}

type AssistantContent = Extract<LanguageModelV3Message, { role: 'assistant' }>['content']

function assistantOf(content: AssistantContent, warnings: SharedV3Warning[]): ChatMessage {
  const texts: string[] = []
  const reasoning: string[] = []
  const calls: NonNullable<ChatMessage['tool_calls']>[number][] = []
  for (const part of content) {
    if (part.type === 'reasoning') reasoning.push(part.text)
    else if (part.type === 'tool-result' || (part.type === 'tool-call' && part.providerExecuted)) {
      warnings.push({
        type: 'unsupported',
        feature: `tool ${part.toolName}`,
        details: 'it ran at another provider: the model is not shown it',
      })
    } else if (part.type === 'tool-call') {
      const { toolCallId: id, toolName: name, input } = part
      // A text is what a model wrote, and was no JSON.
      const written = typeof input === 'string' ? input : JSON.stringify(input ?? {})
      calls.push({ id, type: 'function', function: { name, arguments: written } })
    } else texts.push(textOf(part))
  }
  return {
    role: 'assistant',
    content: texts.join(''),
    ...(reasoning.length > 0 ? { reasoning: reasoning.join('') } : {}),
    ...(calls.length > 0 ? { tool_calls: calls } : {}),
  }
}

const contentOf = (texts: string[]) =>
  texts.length === 1 ? texts[0]! : texts.map((text) => ({ type: 'text' as const, text }))

function textOf(part: LanguageModelV3TextPart | LanguageModelV3FilePart): string {
  if (part.type === 'text') return part.text
  const { mediaType, data } = part
  if (!mediaType.startsWith('text/') || data instanceof URL) throw noText(mediaType)
  return Buffer.from(data as string, 'base64').toString('utf8')
}

function resultOf(output: LanguageModelV3ToolResultOutput): string {
  switch (output.type) {
    case 'text':
    case 'error-text':
      return output.value
    case 'json':
    case 'error-json':
      // What a tool that returns nothing gave is undefined, whatever its type says.
      return JSON.stringify(output.value) ?? 'null'
    case 'execution-denied':
      return output.reason ?? 'The user did not allow this call.'
    case 'content':
      return output.value
        .map((part) => {
          if (part.type !== 'text') throw noText(part.type)
          return part.text
        })
        .join('\n')
  }
}

function noText(found: string): MillraceError {
  return new MillraceError('INVALID_ARGUMENT', {
    message: `expected text but received ${found}: models here read nothing else`,
    remedy: 'leave out images, sounds and files that are no text',
  })
}

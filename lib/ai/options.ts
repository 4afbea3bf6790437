/** Options of a call -> options of chat(). */
import type { LanguageModelV3CallOptions, LanguageModelV3ToolChoice, SharedV3Warning } from '@ai-sdk/provider'
import type { ChatOptions, ChatTool } from '../options/request.ts'

export type OptionOfSdk =
  | 'maxTokens'
  | 'temperature'
  | 'topP'
  | 'topK'
  | 'presencePenalty'
  | 'frequencyPenalty'
  | 'stop'
  | 'seed'
  | 'tools'
  | 'toolChoice'
  | 'constraint'
  | 'signal'

export function chatOptionsOf(call: LanguageModelV3CallOptions): { options: ChatOptions; warnings: SharedV3Warning[] } {
  const { tools, warnings } = toolsOf(call.tools)
  const given: Record<OptionOfSdk, unknown> = {
    maxTokens: call.maxOutputTokens,
    temperature: call.temperature,
    topP: call.topP,
    topK: call.topK,
    presencePenalty: call.presencePenalty,
    frequencyPenalty: call.frequencyPenalty,
    stop: call.stopSequences,
    seed: call.seed,
    tools,
    toolChoice: toolChoiceOf(call.toolChoice, tools !== undefined),
    constraint: constraintOf(call.responseFormat),
    signal: call.abortSignal,
  }
  const named = Object.entries(given).filter(([, value]) => value !== undefined)
  // What is wrong with them is chat()'s to say.
  return { options: { ...call.providerOptions?.millrace, ...Object.fromEntries(named) } as ChatOptions, warnings }
}

function toolsOf(given: LanguageModelV3CallOptions['tools'] = []) {
  const warnings: SharedV3Warning[] = []
  const tools = given.flatMap((tool): ChatTool[] => {
    if (tool.type === 'provider') {
      warnings.push({
        type: 'unsupported',
        feature: `tool ${tool.id}`,
        details: "it is another provider's: the model is not shown it",
      })
      return []
    }
    if (tool.inputExamples !== undefined && tool.inputExamples.length > 0) {
      warnings.push({
        type: 'unsupported',
        feature: `inputExamples of tool ${tool.name}`,
        details: 'addToolInputExamplesMiddleware puts them into its description',
      })
    }
    const { name, description, inputSchema } = tool
    return [{ type: 'function', function: { name, description, parameters: inputSchema as Record<string, unknown> } }]
  })
  return { tools: tools.length > 0 ? tools : undefined, warnings }
}

/** Without tools one that wants none of them says nothing; that one that wants a call cannot be had is chat()'s to say. */
function toolChoiceOf(choice: LanguageModelV3ToolChoice | undefined, hasTools: boolean) {
  if (!hasTools && (choice?.type === 'auto' || choice?.type === 'none')) return undefined
  return choice?.type === 'tool' ? { name: choice.toolName } : choice?.type
}

function constraintOf(format: LanguageModelV3CallOptions['responseFormat']) {
  if (format?.type !== 'json') return undefined
  return format.schema === undefined ? { json: true } : { schema: format.schema }
}

/** vLLM's /tokenize and /detokenize, llama.cpp's /apply-template. */
import { z } from 'zod'
import type { ChatMessage, ChatTemplateOptions, ChatTool } from '../../index.ts'
import { tokenText } from '../answer/logprobs.ts'
import type { Call } from '../context.ts'
import { flag, list, optional, parseBody, record, text } from '../http/body.ts'
import { invalid } from '../http/problem.ts'

const messages = z
  .array(z.looseObject({ role: text() }), { error: "a list of messages such as [{ role: 'user', content: 'Hello' }]" })
  .min(1, { error: 'a list of at least one message' })

const template = {
  add_generation_prompt: optional(flag()),
  continue_final_message: optional(flag()),
  tools: optional(list(z.looseObject({ type: z.literal('function') }), 'a list of tools')),
  chat_template_kwargs: optional(record()),
}

const tokenizeSchema = z.object({
  model: optional(text()),
  prompt: optional(text()),
  messages: optional(messages),
  add_special_tokens: optional(flag()),
  return_token_strs: optional(flag()),
  ...template,
})

const templateSchema = z.object({ model: optional(text()), messages, ...template })

const idError = 'a list of token ids'
const detokenizeSchema = z.object({
  model: optional(text()),
  tokens: z.array(
    z
      .int({ error: idError })
      .min(0, { error: idError })
      .max(2 ** 31 - 1, { error: idError }),
    {
      error: idError,
    },
  ),
})

type TemplateFields = Omit<z.output<typeof templateSchema>, 'model' | 'messages'>

function templateOptions(request: TemplateFields, signal: AbortSignal): ChatTemplateOptions {
  const { add_generation_prompt: add, continue_final_message: goOn, tools, chat_template_kwargs: variables } = request
  if (add && goOn) {
    throw invalid('expected one of add_generation_prompt and continue_final_message', 'continue_final_message')
  }
  return {
    signal,
    variables,
    tools: tools as unknown as ChatTool[] | undefined,
    continueFinalMessage: goOn,
    addGenerationPrompt: goOn ? undefined : add,
  }
}

export async function tokenize(call: Call, body: unknown): Promise<object> {
  const request = parseBody(tokenizeSchema, body, call.log)
  const { prompt, messages: chat, add_special_tokens: specialTokens = true } = request
  if ((prompt === undefined) === (chat === undefined)) throw invalid('expected one of prompt and messages', 'prompt')
  return call.withModel(request.model, async ({ model }) => {
    const { tokenizer } = model
    const tokens =
      prompt === undefined
        ? await tokenizer.encodeChat(chat as unknown as ChatMessage[], templateOptions(request, call.signal))
        : await tokenizer.encode(prompt, { specialTokens, signal: call.signal })
    const strings = request.return_token_strs ? [...tokens].map((token) => tokenText(model, token)) : null
    return { count: tokens.length, max_model_len: model.plan.contextLength, tokens: [...tokens], token_strs: strings }
  })
}

export async function detokenize(call: Call, body: unknown): Promise<object> {
  const request = parseBody(detokenizeSchema, body, call.log)
  return call.withModel(request.model, async ({ model }) => {
    const { vocab } = model.spec
    const wrong = request.tokens.findIndex((token) => token >= vocab)
    if (wrong !== -1) {
      throw invalid(
        `expected a token id from 0 to ${vocab - 1} for tokens[${wrong}] but received ${request.tokens[wrong]}`,
        `tokens[${wrong}]`,
      )
    }
    return { prompt: model.tokenizer.decode(request.tokens) }
  })
}

export async function applyTemplate(call: Call, body: unknown): Promise<object> {
  const request = parseBody(templateSchema, body, call.log)
  return call.withModel(request.model, async ({ model }) => ({
    prompt: await model.tokenizer.applyChatTemplate(
      request.messages as unknown as ChatMessage[],
      templateOptions(request, call.signal),
    ),
  }))
}

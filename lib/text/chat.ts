/** Chat messages -> prompt, by the checkpoint's own Jinja template. */
import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { readText } from '../checkpoint/json.ts'
import { MillraceError } from '../errors.ts'
import type { ChatMessage } from '../options.ts'
import type { TokenizerConfig } from './tokenizer.ts'

const FILE = 'chat_template.jinja'

/** The folder's template, undefined if it has none; of a named list the one named 'default'. */
export async function readChatTemplate(folder: string, config: TokenizerConfig): Promise<string | undefined> {
  const file = await readText(join(folder, FILE))
  if (file !== undefined) return file
  const template = config.chat_template
  if (template == null || typeof template === 'string') return template ?? undefined
  return (template.find((entry) => entry.name === 'default') ?? template[0])?.template
}

export class ChatTemplate {
  readonly #template: Template

  constructor(text: string) {
    try {
      this.#template = new Template(text)
    } catch (cause) {
      throw new MillraceError('TOKENIZER_INVALID', {
        message: `the chat template does not parse: ${(cause as Error).message}`,
        remedy: 'use generate() with a prompt of your own, or report the template',
        cause,
      })
    }
  }

  /** The prompt, ending where the assistant's answer begins. It holds its own special tokens: encode adds none. */
  render(messages: readonly ChatMessage[], tokens: { bosToken: string; eosToken: string }): string {
    try {
      return this.#template.render({
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: true,
        bos_token: tokens.bosToken,
        eos_token: tokens.eosToken,
      })
    } catch (cause) {
      // Templates refuse by raise_exception, e.g. messages whose roles do not alternate.
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `the model's chat template refused the messages: ${(cause as Error).message}`,
        remedy: 'see the chat_template of the checkpoint for the roles and the order that it takes',
        cause,
      })
    }
  }
}

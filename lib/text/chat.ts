/** Chat messages -> prompt, by the checkpoint's own Jinja template. */
import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { readText } from '../checkpoint/json.ts'
import { MillraceError } from '../errors.ts'
import type { ChatMessage } from '../options/request.ts'
import type { TokenizerConfig } from './tokenizer.ts'

const FILE = 'chat_template.jinja'

export const ROLES = ['system', 'user', 'assistant', 'tool', 'developer']

/** The folder's template, undefined if it has none; of a named list the one named 'default'. */
export async function readChatTemplate(folder: string, config: TokenizerConfig): Promise<string | undefined> {
  const file = await readText(join(folder, FILE))
  if (file !== undefined) return file
  const template = config.chat_template
  if (template == null || typeof template === 'string') return template ?? undefined
  return (template.find((entry) => entry.name === 'default') ?? template[0])?.template
}

/** Numbers that a template's range() may give. */
const MAX_RANGE = 1_000_000

/** Jinja's range(). V8 ends the whole process, not the thread alone, where an array grows without end. */
function boundedRange(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  const length = Math.max(0, Math.ceil((to - from) / step))
  if (!(length <= MAX_RANGE)) throw new RangeError(`range() of ${length} numbers`)
  return Array.from({ length }, (_, index) => from + index * step)
}

export class ChatTemplate {
  readonly #template: Template

  readonly #text: string

  constructor(text: string) {
    this.#text = text
    try {
      this.#template = new Template(text)
      this.#template.parsed.body.unshift(...new Template('{% set range = bounded_range %}').parsed.body)
    } catch (cause) {
      throw new MillraceError('TOKENIZER_INVALID', {
        message: `the chat template does not parse: ${(cause as Error).message}`,
        remedy: 'use generate() with a prompt of your own, or report the template',
        cause,
      })
    }
  }

  /** The usual roles, and those that the template names: it would pass over a misspelt one without a word. */
  takesRole(role: string): boolean {
    return ROLES.includes(role) || [`'${role}'`, `"${role}"`].some((literal) => this.#text.includes(literal))
  }

  /** The prompt, ending where the assistant's answer begins. It holds its own special tokens: encode adds none. */
  render(messages: readonly ChatMessage[], tokens: { bosToken: string; eosToken: string }): string {
    try {
      return this.#template.render({
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: true,
        bos_token: tokens.bosToken,
        eos_token: tokens.eosToken,
        bounded_range: boundedRange,
      })
    } catch (cause) {
      // A text or list that outgrows JavaScript's, or calls without end.
      if (cause instanceof RangeError) {
        throw new MillraceError('CHAT_TEMPLATE_INVALID', {
          message: `the chat template has no end: ${cause.message}`,
          cause,
        })
      }
      // Templates refuse by raise_exception, e.g. messages whose roles do not alternate.
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `the model's chat template refused the messages: ${(cause as Error).message}`,
        remedy: 'see the chat_template of the checkpoint for the roles and the order that it takes',
        cause,
      })
    }
  }
}

/** Chat messages -> prompt, by the checkpoint's own Jinja template. */
import { Template } from '@huggingface/jinja'
import { MillraceError } from '../errors.ts'
import type { ChatMessage } from '../options/request.ts'

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

  /** Throws CHAT_TEMPLATE_INVALID. */
  constructor(text: unknown) {
    if (typeof text !== 'string') {
      throw new MillraceError('CHAT_TEMPLATE_INVALID', {
        message: `expected the chat template to be a text, found ${text === null ? 'null' : typeof text}`,
      })
    }
    try {
      this.#template = new Template(text)
      this.#template.parsed.body.unshift(...new Template('{% set range = bounded_range %}').parsed.body)
    } catch (cause) {
      throw new MillraceError('CHAT_TEMPLATE_INVALID', {
        message: `the chat template does not parse: ${(cause as Error).message}`,
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

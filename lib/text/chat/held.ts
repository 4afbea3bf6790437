/** The chats of one tokenizer, in its thread: rendered, encoded, and with what reads their answers. */
import type { PreparedChat } from '../tokenizer/codec.ts'
import type { ChatTask } from '../tokenizer/protocol.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { chatFormat } from './chat_format.ts'
import type { ChatFormat } from './format.ts'
import { ChatRenderer, type Prompt } from './render.ts'
import { checkTemplates } from './templates.ts'
import type { Message } from './types.ts'

/** Characters of a prompt's end: more than any literal has. */
const END = 256

export class HeldChat {
  readonly #tokenizer: Tokenizer
  readonly #renderer: ChatRenderer
  readonly #formats = new Map<string, ChatFormat>()

  /** Throws CHAT_TEMPLATE_INVALID. */
  constructor(tokenizer: Tokenizer, templates: unknown) {
    this.#tokenizer = tokenizer
    this.#renderer = new ChatRenderer({
      templates: checkTemplates(templates),
      specialTokens: tokenizer.specialTokens,
      addedTokens: tokenizer.addedTexts,
    })
  }

  render({ messages, options }: ChatTask): Prompt {
    return this.#renderer.render(messages as Message[], options)
  }

  prepare(task: ChatTask): PreparedChat {
    const { text, sections } = this.render(task)
    const tokens = this.#tokenizer.encodePieces(sections)
    const { tools = [], templateName } = task.options
    return { tokens, promptEnd: text.slice(-END), format: this.#format(tools.length > 0, templateName) }
  }

  #format(hasTools: boolean, templateName: string | undefined): ChatFormat {
    const key = JSON.stringify([hasTools, templateName])
    let format = this.#formats.get(key)
    if (!format) {
      format = chatFormat(this.#renderer, hasTools, templateName)
      this.#formats.set(key, format)
    }
    return format
  }
}

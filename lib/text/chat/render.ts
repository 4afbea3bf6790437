/** A chat -> the prompt of its model's template. */
import { MillraceError } from '../../errors.ts'
import { AddedTokens, Marks, type Section } from '../template/marks.ts'
import { ChatTemplate } from '../template/template.ts'
import { nestedTooDeep, prepareMessages } from './messages.ts'
import { Profile } from './profile.ts'
import { defaultTemplate } from './templates.ts'
import type { Message, Templates, Tool } from './types.ts'

export interface ChatSource {
  templates: Templates | undefined
  /** As specialTokensOf() finds them. */
  specialTokens?: Record<string, string | readonly string[]> | undefined
  /** Texts of the tokenizer's added tokens, which users' texts must not become. */
  addedTokens?: Iterable<string> | undefined
}

export interface RenderChatOptions {
  tools?: readonly Tool[] | undefined
  /** Whether the prompt ends where an answer begins. Default: unless the final message is continued. */
  addGenerationPrompt?: boolean | undefined
  /** Whether the prompt ends within the final message, which the model goes on with. Default false. */
  continueFinalMessage?: boolean | undefined
  /** What the template knows beyond that, such as { enable_thinking: false }. */
  variables?: Record<string, unknown> | undefined
  /** Of several templates, the one to use. Default: 'tool_use' where there are tools, or 'default'. */
  templateName?: string | undefined
  /** The time of templates that print it. Default: now. */
  now?: Date | undefined
}

export interface Prompt {
  text: string
  /** The text in its order: special tokens, and what is to be encoded without any. */
  sections: Section[]
}

/** What transformers puts behind the final message, to find its end. */
const END = 'CONTINUE_FINAL_MESSAGE_TAG '

interface Compiled {
  template: ChatTemplate
  profile: Profile
}

/** The templates of a checkpoint, each compiled when it is first needed: a bad one does no harm before. */
export class ChatRenderer {
  readonly #templates: Templates | undefined
  readonly #specialTokens: Record<string, unknown>
  readonly #addedTokens: AddedTokens
  readonly #compiled = new Map<string, Compiled>()

  constructor({ templates, specialTokens = {}, addedTokens = [] }: ChatSource) {
    this.#templates = templates
    this.#specialTokens = specialTokens
    this.#addedTokens = new AddedTokens(addedTokens)
  }

  /** The template that a chat takes. Throws CHAT_TEMPLATE_MISSING, _INVALID or _UNSUPPORTED. */
  template(hasTools = false, name?: string): ChatTemplate {
    return this.#compile(this.#choose(hasTools, name)).template
  }

  /**
   * Throws INVALID_ARGUMENT where the template refuses the messages, and CHAT_TEMPLATE_MISSING, _INVALID or _UNSUPPORTED
   * where it is at fault.
   */
  render(messages: readonly Message[], options: RenderChatOptions = {}): Prompt {
    try {
      return this.#render(messages, options)
    } catch (cause) {
      // V8's stack.
      if (!(cause instanceof RangeError)) throw cause
      throw nestedTooDeep(cause)
    }
  }

  #render(messages: readonly Message[], options: RenderChatOptions): Prompt {
    const { tools, continueFinalMessage = false, addGenerationPrompt = !continueFinalMessage } = options
    if (continueFinalMessage && addGenerationPrompt)
      throw invalid('addGenerationPrompt and continueFinalMessage exclude each other')
    const { template, profile } = this.#compile(
      this.#choose(tools !== undefined && tools.length > 0, options.templateName),
    )
    const marks = new Marks(this.#addedTokens)
    const prepared = marks.messages(prepareMessages(messages, template.text, profile))
    const final = continueFinalMessage ? tagFinal(prepared, template.text) : undefined
    const context = {
      ...marks.trusted({ ...this.#specialTokens, ...options.variables }),
      messages: prepared,
      tools: tools === undefined ? null : marks.untrusted(tools),
      // Found, and not written by whoever asks: pages of the web as a rule.
      documents: marks.untrusted(options.variables?.documents ?? null),
      add_generation_prompt: addGenerationPrompt,
    }
    const rendered = template.render(context, { now: options.now, through: marks.through })
    const cut = final === undefined ? rendered : cutAtFinal(rendered, final)
    return { text: marks.unmark(cut), sections: marks.sections(cut) }
  }

  #compile(text: string): Compiled {
    let compiled = this.#compiled.get(text)
    if (!compiled) {
      const template = new ChatTemplate(text)
      const context = { ...this.#specialTokens, documents: null, add_generation_prompt: false }
      const profile = new Profile((messages, tools) => template.render({ ...context, messages, tools }))
      compiled = { template, profile }
      this.#compiled.set(text, compiled)
    }
    return compiled
  }

  #choose(hasTools: boolean, name: string | undefined): string {
    const templates = this.#templates
    if (templates === undefined || templates.length === 0) {
      throw new MillraceError('CHAT_TEMPLATE_MISSING', { message: 'the checkpoint has no chat template' })
    }
    if (typeof templates === 'string') {
      if (name !== undefined) throw invalid(`there is one chat template, without a name; asked for '${name}'`)
      return templates
    }
    const find = (wanted: string) => templates.find((entry) => entry.name === wanted)?.template
    if (name !== undefined) {
      const named = find(name)
      if (named === undefined)
        throw invalid(
          `there is no chat template '${name}'; there are ${templates.map((entry) => entry.name).join(', ')}`,
        )
      return named
    }
    return (hasTools ? find('tool_use') : undefined) ?? defaultTemplate(templates)
  }
}

const invalid = (message: string) => new MillraceError('INVALID_ARGUMENT', { message })

type Prepared = Record<string, unknown>

/** Puts the tag behind the final message's text, which it returns. */
function tagFinal(messages: Prepared[], template: string): string {
  const last = messages.at(-1)
  if (!last || !template.includes('content'))
    throw invalid('continueFinalMessage: there is no final message to continue')
  const { content } = last
  if (typeof content === 'string') {
    messages[messages.length - 1] = { ...last, content: content + END }
    return content
  }
  const parts = content as { text: string }[]
  const end = parts.at(-1)
  if (!end) throw invalid('continueFinalMessage: the final message has no text')
  messages[messages.length - 1] = { ...last, content: [...parts.slice(0, -1), { ...end, text: end.text + END }] }
  return end.text
}

function cutAtFinal(rendered: string, final: string): string {
  const at = rendered.lastIndexOf(END.trim())
  if (at === -1 || !rendered.includes(final.trim())) {
    throw invalid('continueFinalMessage: the chat template does not show the final message as it is')
  }
  // A template that trims texts has taken the tag's space, and would have taken the message's.
  return rendered.startsWith(END, at) ? rendered.slice(0, at) : rendered.slice(0, at).trimEnd()
}

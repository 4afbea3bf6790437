/** loadTokenizer(): from a folder to a tokenizer. */
import { resolve } from 'node:path'
import { z } from 'zod'
import { MillraceError } from '../../errors.ts'
import { locate } from '../../hub/locate.ts'
import { hubOptions } from '../../options/model.ts'
import { type ChatMessage, type ChatTemplateOptions, checkChat } from '../../options/request.ts'
import { invalidArgument, signal as signalOption, validate } from '../../options/validate.ts'
import { checkTemplates, defaultTemplate } from '../chat/templates.ts'
import type { Templates } from '../chat/types.ts'
import { detokenize } from '../detokenizer.ts'
import type { EncodeOptions, PreparedChat, TextCodec } from './codec.ts'
import { plain } from './messages.ts'
import { Pieces } from './pieces.ts'
import type { ChatTask, OpenedTokenizer, TokenizerRef } from './protocol.ts'
import { tokenizerService } from './service.ts'

export interface TokenizerOptions {
  signal?: AbortSignal | undefined
  /** Of a model by name, as load() takes them. */
  revision?: string | undefined
  offline?: boolean | undefined
}

const loadOptions = z.strictObject({ signal: signalOption().optional(), ...hubOptions })
const encodeOptions = z.strictObject({
  specialTokens: z.union([z.boolean(), z.literal('around')], { error: "true, false or 'around'" }).optional(),
  signal: signalOption().optional(),
})

/**
 * The tokenizer of a Hugging Face folder, or of a name of the hub, which needs no weights. Several of the same files share what they hold.
 * Rejects with TOKENIZER_INVALID, the HUB_ errors, INVALID_ARGUMENT or ABORTED.
 */
export async function loadTokenizer(folder: string, options: TokenizerOptions = {}): Promise<LoadedTokenizer> {
  if (typeof folder !== 'string' || folder === '') {
    throw invalidArgument('the path of a folder, or a name of the hub', 'folder', folder)
  }
  const checked = validate(loadOptions, options, 'options')
  const path = resolve((await locate(folder, checked, 'tokenizer')).path)
  return new LoadedTokenizer(path, await tokenizerService().open(path, checked.signal))
}

/** Tokenizers that everybody has forgotten are as good as closed. */
const forgotten = new FinalizationRegistry((key: string) => tokenizerService().leave(key))

export class LoadedTokenizer implements TextCodec, AsyncDisposable {
  readonly pieces: Pieces
  readonly bosToken: string
  readonly eosToken: string
  readonly bosId: number | undefined
  readonly chatTemplate: string | undefined
  readonly chatTemplates: Templates | undefined
  readonly #ref: TokenizerRef
  #closed = false

  /** Called by loadTokenizer(). */
  constructor(folder: string, opened: OpenedTokenizer) {
    this.#ref = { folder, key: opened.key }
    this.pieces = new Pieces(opened.table, opened.rules)
    this.bosToken = opened.bosToken
    this.eosToken = opened.eosToken
    this.bosId = opened.bosId
    this.chatTemplates = templatesOf(opened.templates)
    this.chatTemplate = this.chatTemplates === undefined ? undefined : defaultTemplate(this.chatTemplates)
    forgotten.register(this, opened.key, this)
  }

  async encode(text: string, options: EncodeOptions = {}): Promise<Int32Array> {
    if (typeof text !== 'string') throw invalidArgument('a text', 'text', text)
    const { specialTokens = true, signal } = validate(encodeOptions, options, 'options')
    if (text.length > MAX_CHARACTERS) {
      throw invalidArgument(`a text of at most ${MAX_CHARACTERS} characters`, 'text.length', text.length)
    }
    this.#requireOpen()
    return tokensOf(await tokenizerService().ask({ ...this.#ref, text, specialTokens }, this, signal))
  }

  async applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): Promise<string> {
    const answer = await this.#askChat('text', ...checkChat(messages, options, this.chatTemplates))
    return (answer as { text: string }).text
  }

  async encodeChat(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): Promise<Int32Array> {
    return tokensOf(await this.#askChat('tokens', ...checkChat(messages, options, this.chatTemplates)))
  }

  async prepareChat(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): Promise<PreparedChat> {
    return (await this.#askChat('tokens', messages, options)) as unknown as PreparedChat
  }

  async #askChat(wanted: 'text' | 'tokens', messages: readonly ChatMessage[], options: ChatTemplateOptions) {
    this.#requireOpen()
    if (this.chatTemplates === undefined) {
      throw new MillraceError('CHAT_TEMPLATE_MISSING', {
        message: `${this.#ref.folder}: expected chat_template in tokenizer_config.json or chat_template.jinja, found neither`,
      })
    }
    const { signal, ...rest } = options
    const chat = plain({ messages, options: rest }) as ChatTask
    return tokenizerService().ask({ ...this.#ref, chat, wanted }, this, signal)
  }

  /** Also of a closed tokenizer. Special tokens show nothing. */
  decode(tokens: ArrayLike<number>): string {
    if (!isNumbers(tokens)) throw invalidArgument('an array of token ids or an Int32Array', 'tokens', tokens)
    return detokenize(this.pieces, tokens)
  }

  /** The id of a token's text, such as '<|im_end|>'; undefined if there is none. Also of a closed tokenizer. */
  idOf(text: string): number | undefined {
    return this.pieces.idOf(text)
  }

  /** A token's bytes; undefined for ids of no token. Also of a closed tokenizer. */
  bytesOf(token: number): Uint8Array | undefined {
    const { pieces } = this
    const bytes = pieces.bytes(token)
    // A copy: the table is everybody's.
    if (bytes) return Uint8Array.from(bytes)
    const text = pieces.text(token)
    return text === undefined ? undefined : new TextEncoder().encode(text)
  }

  /** Frees the tokenizer, and fails what is pending. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    forgotten.unregister(this)
    tokenizerService().fail(this, closedError())
    tokenizerService().leave(this.#ref.key)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
  }

  #requireOpen(): void {
    if (this.#closed) throw closedError()
  }
}

/** An array, or a typed one whose elements are numbers. */
function isNumbers(value: unknown): boolean {
  if (Array.isArray(value)) return true
  return ArrayBuffer.isView(value) && 'length' in value && typeof value[0 as never] !== 'bigint'
}

/** More is hardly meant, and takes gigabytes. */
const MAX_CHARACTERS = 2 ** 26

/** What is none is told of when a chat needs it, by the thread; here it is as good as a template that does not parse. */
function templatesOf(given: unknown): Templates | undefined {
  try {
    return checkTemplates(given)
  } catch (error) {
    if (MillraceError.isInstance(error)) return String(given)
    throw error
  }
}

function closedError(): MillraceError {
  return new MillraceError('MODEL_CLOSED', { message: 'the model, or its tokenizer, was closed' })
}

function tokensOf(answer: object): Int32Array {
  return (answer as { tokens: Int32Array }).tokens
}

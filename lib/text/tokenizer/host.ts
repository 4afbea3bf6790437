/** The side of the tokenizer's thread: holds the tokenizers, and answers. */
import { MillraceError } from '../../errors.ts'
import { HeldChat } from '../chat/held.ts'
import { hashTokenizerFiles, readTokenizerFiles, type TokenizerFiles } from './files.ts'
import type { OpenedTokenizer, Reply, Request, TokenizerRef } from './protocol.ts'
import { Tokenizer } from './tokenizer.ts'

interface Held {
  tokenizer: Tokenizer
  templates: unknown
  /** Once it has been used. */
  chat?: HeldChat
}

export class TokenizerHost {
  readonly #reply: (reply: Reply) => void
  readonly #held = new Map<string, Held>()
  #last: Promise<void> = Promise.resolve()

  constructor(reply: (reply: Reply) => void) {
    this.#reply = reply
  }

  /** Answers come in the order of the requests. */
  take(request: Request): void {
    this.#last = this.#last.then(() => this.#take(request))
  }

  async #take(request: Request): Promise<void> {
    if ('forget' in request) {
      this.#held.delete(request.forget)
      return
    }
    const { id } = request
    try {
      if ('open' in request) this.#reply({ id, opened: await this.#open(request.open) })
      else if ('text' in request) {
        const { tokenizer } = await this.#find(request)
        this.#reply({ id, begun: true })
        this.#reply({ id, tokens: tokenizer.encode(request.text, request.specialTokens) })
      } else {
        const held = await this.#find(request)
        this.#reply({ id, begun: true })
        held.chat ??= new HeldChat(held.tokenizer, held.templates)
        const { chat } = held
        if (request.wanted === 'text') this.#reply({ id, text: chat.render(request.chat).text })
        else this.#reply({ id, ...chat.prepare(request.chat) })
      }
    } catch (error) {
      const { code, message, remedy } = MillraceError.fromNative(error)
      this.#reply({ id, error: { code, message, remedy } })
    }
  }

  async #open(folder: string): Promise<OpenedTokenizer> {
    const key = await hashTokenizerFiles(folder)
    const { tokenizer, templates } = this.#held.get(key) ?? (await this.#read(key, folder))
    const { table, rules, bosToken, eosToken, bosId } = tokenizer
    return { key, table, rules, bosToken, eosToken, bosId, templates }
  }

  /** A thread that took the place of another one has the tokenizers still to read. */
  async #find({ key, folder }: TokenizerRef): Promise<Held> {
    const held = this.#held.get(key)
    if (held) return held
    if ((await hashTokenizerFiles(folder)) !== key) {
      throw new MillraceError('TOKENIZER_INVALID', {
        message: `${folder}: the tokenizer's files are not those that were loaded`,
        remedy: 'load the model again',
      })
    }
    return this.#read(key, folder)
  }

  async #read(key: string, folder: string): Promise<Held> {
    const files = await readTokenizerFiles(folder)
    const held = { tokenizer: makeTokenizer(files, folder), templates: files.templates }
    this.#held.set(key, held)
    return held
  }
}

/** Parts of the files are checked where they are used: what fails there is the files' fault. */
function makeTokenizer(files: TokenizerFiles, folder: string): Tokenizer {
  try {
    return new Tokenizer(files)
  } catch (cause) {
    if (MillraceError.isInstance(cause)) throw cause
    throw new MillraceError('TOKENIZER_INVALID', {
      message: `${folder}: the tokenizer's files could not be read: ${(cause as Error).message}`,
      cause,
    })
  }
}

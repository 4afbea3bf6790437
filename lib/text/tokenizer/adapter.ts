import { MillraceError } from '../../errors.ts'
import { abortedError, onAbort } from '../../model/signals.ts'
import type { ChatMessage } from '../../options/request.ts'
import { invalidArgument } from '../../options/validate.ts'
import type { ChatTemplate } from '../chat.ts'
import type { Pieces } from '../pieces.ts'
import type { TokenizerThread } from '../thread.ts'
import type { Tokenizer } from '../tokenizer.ts'
import type { EncodeOptions, TextCodec } from './codec.ts'

/** A tokenizer with the thread for its long texts. */
export class ThreadedCodec implements TextCodec {
  readonly pieces: Pieces
  readonly bosToken: string
  readonly eosToken: string
  readonly bosId: number | undefined
  readonly #tokenizer: Tokenizer
  readonly #thread: TokenizerThread
  readonly #template: ChatTemplate | undefined
  #closed = false

  constructor(tokenizer: Tokenizer, thread: TokenizerThread, template: ChatTemplate | undefined) {
    this.#tokenizer = tokenizer
    this.#thread = thread
    this.#template = template
    this.pieces = tokenizer.pieces
    this.bosToken = tokenizer.bosToken
    this.eosToken = tokenizer.eosToken
    this.bosId = tokenizer.idOf(tokenizer.bosToken)
  }

  async encode(text: string, options: EncodeOptions = {}): Promise<Int32Array> {
    if (typeof text !== 'string') throw invalidArgument('a text', 'text', text)
    if (typeof options !== 'object' || options === null) throw invalidArgument('an object', 'options', options)
    return this.#answer(() => this.#thread.encode(text, options.specialTokens ?? true), options.signal)
  }

  async encodeChat(messages: readonly ChatMessage[], { signal }: { signal?: AbortSignal } = {}): Promise<Int32Array> {
    return this.#answer(() => {
      if (this.#thread.canEncodeChat(messages)) return this.#thread.encodeChat(messages)
      // The template writes the special tokens itself.
      return this.#tokenizer.encode(this.#template!.render(messages, this), false)
    }, signal)
  }

  decode(tokens: ArrayLike<number>): string {
    return this.#tokenizer.decode(tokens)
  }

  idOf(text: string): number | undefined {
    return this.#tokenizer.idOf(text)
  }

  close(): void {
    this.#closed = true
    this.#thread.close()
  }

  async #answer(
    ask: () => ArrayLike<number> | Promise<ArrayLike<number>>,
    signal: AbortSignal | undefined,
  ): Promise<Int32Array> {
    if (signal?.aborted) throw abortedError(signal, 'encoding')
    if (this.#closed) throw new MillraceError('MODEL_CLOSED', { message: 'the model was closed' })
    let offAbort = () => {}
    const aborted = new Promise<never>((_, reject) => {
      if (signal) offAbort = onAbort(signal, () => reject(abortedError(signal, 'encoding')))
    })
    try {
      return Int32Array.from(await Promise.race([ask(), aborted]))
    } finally {
      offAbort()
    }
  }
}

import type { ChatMessage } from '../../options/request.ts'
import type { Pieces } from './pieces.ts'

/** Choices of one text. */
export interface EncodeOptions {
  /** Whether what the tokenizer puts before a text, such as its beginning token, is put there. Default true. */
  specialTokens?: boolean
  /** Stops waiting for the tokens, also while the text waits its turn. */
  signal?: AbortSignal | undefined
}

/** A tokenizer's two directions. Text becomes tokens in another thread, tokens become text in this one. */
export interface TextCodec {
  /** The bytes of every token, in memory that the tokenizer's thread and this one share. */
  readonly pieces: Pieces
  /** Text of the beginning token, as chat templates write it. Empty where there is none. */
  readonly bosToken: string
  readonly eosToken: string
  readonly bosId: number | undefined
  /**
   * Tokens of a text that is to be continued: an end token that the tokenizer puts after a text is left out. Rejects
   * with ABORTED, MODEL_CLOSED, INVALID_ARGUMENT or OUT_OF_MEMORY.
   */
  encode(text: string, options?: EncodeOptions): Promise<Int32Array>
  /**
   * Tokens of a conversation as the chat template lays it out, ready for the assistant's turn. Rejects with
   * CHAT_TEMPLATE_MISSING, CHAT_TEMPLATE_INVALID, and as encode() does.
   */
  encodeChat(messages: readonly ChatMessage[], options?: { signal?: AbortSignal | undefined }): Promise<Int32Array>
  /** Text of a whole answer. Special tokens are left out. */
  decode(tokens: ArrayLike<number>): string
  /** The token of exactly this text, or undefined. */
  idOf(text: string): number | undefined
  /** The chat template's text; undefined where there is none. */
  readonly chatTemplate: string | undefined
  close(): void
}

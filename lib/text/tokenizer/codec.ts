import type { ChatMessage } from '../../options/request.ts'
import type { Pieces } from '../pieces.ts'

/** Choices of one text. */
export interface EncodeOptions {
  /** Whether the tokenizer's own beginning token is put before the text. Default true. */
  specialTokens?: boolean
  /** Stops waiting for the tokens, also while the text waits its turn. */
  signal?: AbortSignal
}

/** A tokenizer's two directions. Text becomes tokens in another thread, tokens become text in this one. */
export interface TextCodec {
  /** The bytes of every token, in memory that the tokenizer's thread and this one share. */
  readonly pieces: Pieces
  /** Text of the beginning token, as chat templates write it. Empty where there is none. */
  readonly bosToken: string
  readonly eosToken: string
  readonly bosId: number | undefined
  /** Tokens of a text that is to be continued. Rejects with `ABORTED`, `MODEL_CLOSED` or `INVALID_ARGUMENT`. */
  encode(text: string, options?: EncodeOptions): Promise<Int32Array>
  /** Tokens of a conversation as the chat template lays it out, ready for the assistant's turn. */
  encodeChat(messages: readonly ChatMessage[], options?: { signal?: AbortSignal }): Promise<Int32Array>
  /** Text of a whole answer. Special tokens are left out. */
  decode(tokens: ArrayLike<number>): string
  /** The token of exactly this text, or undefined. */
  idOf(text: string): number | undefined
  close(): void
}

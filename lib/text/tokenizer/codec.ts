import type { ChatMessage, ChatTemplateOptions } from '../../options/request.ts'
import type { ChatFormat } from '../chat/format.ts'
import type { Templates } from '../chat/types.ts'
import type { Pieces } from './pieces.ts'

/**
 * What a tokenizer puts before a text, such as its beginning token, is put there (true), or not; or, 'around', also what it
 * puts after one, such as an end token: for texts that nothing continues.
 */
export type SpecialTokens = boolean | 'around'

/** Choices of one text. */
export interface EncodeOptions {
  /** Default true. */
  specialTokens?: SpecialTokens
  /** Stops waiting for the tokens, also while the text waits its turn. */
  signal?: AbortSignal | undefined
}

/** A conversation as a model is given it, and what tells how to read its answer. */
export interface PreparedChat {
  tokens: Int32Array
  /** The last characters of the prompt: they may begin the answer's reasoning. */
  promptEnd: string
  format: ChatFormat
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
   * Tokens of a text that is to be continued, unless the options say otherwise: an end token that the tokenizer puts after a
   * text is left out. Rejects with ABORTED, MODEL_CLOSED, INVALID_ARGUMENT or OUT_OF_MEMORY.
   */
  encode(text: string, options?: EncodeOptions): Promise<Int32Array>
  /**
   * A conversation as the chat template lays it out, ready for the assistant's turn unless the options say otherwise.
   * Rejects with INVALID_ARGUMENT, also where the template refuses the messages, with CHAT_TEMPLATE_MISSING, _INVALID or
   * _UNSUPPORTED, and as encode() does.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions): Promise<string>
  /**
   * Its tokens: the template's special tokens, while texts of users, systems and tools are encoded without any. Rejects
   * as applyChatTemplate() does.
   */
  encodeChat(messages: readonly ChatMessage[], options?: ChatTemplateOptions): Promise<Int32Array>
  /** The same, with what reads the answer. Messages and options are checked already. */
  prepareChat(messages: readonly ChatMessage[], options?: ChatTemplateOptions): Promise<PreparedChat>
  /** Text of a whole answer. Special tokens are left out. */
  decode(tokens: ArrayLike<number>): string
  /** The token of exactly this text, or undefined. */
  idOf(text: string): number | undefined
  /**
   * The bytes that a token stands for, which may be a part of a code point; of a special token, those of its own text.
   * undefined for ids of no token.
   */
  bytesOf(token: number): Uint8Array | undefined
  /** The chat template's text, of several that of the default one; undefined where there is none. */
  readonly chatTemplate: string | undefined
  /** All of them. */
  readonly chatTemplates: Templates | undefined
  close(): void
}

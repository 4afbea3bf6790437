/** What the tokenizer's thread is asked, and what it answers. Requests are answered in their order, one after the other. */
import type { ErrorCode } from '../../errors.ts'
import type { ChatTemplateOptions } from '../../options/request.ts'
import type { ChatFormat } from '../chat/format.ts'
import type { SpecialTokens } from './codec.ts'
import type { DecodeRules } from './decoder.ts'

/** A tokenizer: `key` is the hash of its files, which lie in `folder`. */
export interface TokenizerRef {
  key: string
  folder: string
}

export type Task =
  | { open: string }
  | ({ text: string; specialTokens: SpecialTokens } & TokenizerRef)
  | ({ chat: ChatTask; wanted: 'text' | 'tokens' } & TokenizerRef)

/** As they were checked; what cannot be sent to a thread is left out. */
export interface ChatTask {
  messages: unknown
  options: Omit<ChatTemplateOptions, 'signal'>
}

export type Request = ({ id: number } & Task) | { forget: string }

/** What the main thread has of a tokenizer. */
export interface OpenedTokenizer {
  key: string
  /** For Pieces. */
  table: SharedArrayBuffer
  rules: DecodeRules
  bosToken: string
  eosToken: string
  bosId: number | undefined
  /** The chat templates as the files have them: a text or a list of named ones, if they are that at all. */
  templates: unknown
}

export type Reply =
  /** Of tasks with a tokenizer, which is there; the answer follows. */
  | { id: number; begun: true }
  | { id: number; opened: OpenedTokenizer }
  | { id: number; tokens: Int32Array }
  | { id: number; tokens: Int32Array; format: ChatFormat; promptEnd: string }
  | { id: number; text: string }
  | { id: number; error: { code: ErrorCode; message: string; remedy: string } }

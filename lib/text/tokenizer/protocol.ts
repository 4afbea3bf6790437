/** What the tokenizer's thread is asked, and what it answers. Requests are answered in their order, one after the other. */
import type { ErrorCode } from '../../errors.ts'
import type { DecodeRules } from './decoder.ts'

/** A tokenizer: `key` is the hash of its files, which lie in `folder`. */
export interface TokenizerRef {
  key: string
  folder: string
}

export type Task =
  | { open: string }
  | ({ text: string; specialTokens: boolean } & TokenizerRef)
  | ({ messages: unknown } & TokenizerRef)

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
  /** The chat template as the files have it: a text, if it is one at all. */
  template: unknown
}

export type Reply =
  /** The template of the messages is about to be rendered, or has been. */
  | { id: number; rendering: boolean }
  | { id: number; opened: OpenedTokenizer }
  | { id: number; tokens: Int32Array }
  | { id: number; error: { code: ErrorCode; message: string; remedy: string } }

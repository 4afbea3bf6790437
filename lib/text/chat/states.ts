/** What the parser of answers goes through, and what it is told. */
import type { Tool } from './types.ts'

export interface ChatParserOptions {
  /** Their schemas tell texts from numbers where a format does not. */
  tools?: readonly Tool[] | undefined
  /** The prompt, whose end may begin the reasoning, or a call. */
  prompt?: string | undefined
  newId?: (() => string) | undefined
}

/** What of an answer is being read. */
export type State =
  | 'text'
  | 'reasoning'
  | 'call'
  | 'object'
  | 'name'
  | 'nameEnd'
  | 'id'
  | 'json'
  | 'block'
  | 'key'
  | 'type'
  | 'value'
  | 'after'

/** What the compiling thread is asked. Plain data, which threads can be sent and which tells one constraint from another. */
import type { Json } from './schema/nodes.ts'

export type Body =
  /** `exponents`: integers may have one, as JSON.stringify writes it; where it judges texts, not where a model writes them. */
  | { type: 'schema'; schema: Json; flexible: boolean; exponents?: boolean }
  /**
   * The texts that a schema lets be, as they are and not as JSON: without any of some literals in them, and none that one
   * of some regular expressions matches as a whole.
   */
  | { type: 'raw'; schema: Json; without: readonly string[]; unlike: readonly string[] }
  | { type: 'regex'; source: string; flags: string }
  | { type: 'choice'; texts: readonly string[] }
  | { type: 'grammar'; source: string }

/** Texts and tokens that an answer has around what is constrained. */
export type Piece = string | { token: number }

/** What a text is looked through for: '' is white space of any length, or none. */
export type Sought = readonly Piece[]

/** Parts of an answer, one after the other. */
export type Part =
  | { literal: readonly Piece[] }
  /** White space, or none: so many characters at most. */
  | { space: number }
  | { body: Body }
  /** Anything up to a literal, which is the end of it. */
  | { until: Sought }
  /** Anything, or nothing, that has no such literal in it. */
  | { without: Sought }
  | { choice: readonly (readonly Part[])[] }
  /** Any number of times, or never. */
  | { repeat: readonly Part[] }

export type Task = readonly Part[]

/** What the compiling thread is asked. Plain data, which threads can be sent and which tells one constraint from another. */
import type { Json } from './schema/nodes.ts'

export type Body =
  | { type: 'schema'; schema: Json; flexible: boolean }
  | { type: 'regex'; source: string; flags: string }
  | { type: 'choice'; texts: readonly string[] }
  | { type: 'grammar'; source: string }

/** Texts and tokens that an answer has around what is constrained. */
export type Piece = string | { token: number }

/** Parts of an answer, one after the other. */
export type Part =
  | { literal: readonly Piece[] }
  /** White space, or none: so many characters at most. */
  | { space: number }
  | { body: Body }
  /** Anything up to a literal, which is the end of it. */
  | { until: readonly Piece[] }
  | { choice: readonly (readonly Part[])[] }
  | { repeat: readonly Part[]; between: readonly Part[]; maximum: number }

export type Task = readonly Part[]

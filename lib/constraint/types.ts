/** What answers can be held to. */
import type { z } from 'zod'

/** A JSON schema, of draft 4 to 2020-12. */
export type JsonSchema = boolean | object

interface JsonOptions {
  /** Spaces: 'compact', single ones at most where JSON has any; 'flexible', any white space. Default 'compact'. */
  whitespace?: 'compact' | 'flexible' | undefined
}

export interface SchemaConstraint<Schema extends z.ZodType | JsonSchema = z.ZodType | JsonSchema> extends JsonOptions {
  /** JSON that fulfils a zod schema, or a JSON schema. */
  schema: Schema
}
export interface RegexConstraint {
  /** The whole text is matched by it. */
  regex: string | RegExp
}
export interface ChoiceConstraint {
  /** One of these texts. */
  choice: readonly string[]
}
export interface GrammarConstraint {
  /** A text of the rule 'root' of a grammar in llama.cpp's form (GBNF). */
  grammar: string
}
export interface JsonConstraint extends JsonOptions {
  /** Any JSON. */
  json: true
}

/** What an answer must be. */
export type Constraint = SchemaConstraint | RegexConstraint | ChoiceConstraint | GrammarConstraint | JsonConstraint

/** What `result.object` is of a constraint. */
export type ObjectOf<Held> = Held extends { schema: infer Schema }
  ? Schema extends z.ZodType
    ? z.output<Schema>
    : unknown
  : Held extends { json: true }
    ? unknown
    : never

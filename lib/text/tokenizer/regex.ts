/** Patterns of tokenizer.json, which are Oniguruma's, as JavaScript has them. */

import { MillraceError } from '../../errors.ts'
import { SplitPreTokenizer } from './library.ts'

export interface PatternConfig {
  String?: string | undefined
  Regex?: string | undefined
}

/** A text as it is, a regular expression as one with the flags g and u. Throws TOKENIZER_INVALID. */
export function patternOf(pattern: PatternConfig): string | RegExp {
  if (pattern.String !== undefined) return pattern.String
  if (pattern.Regex === undefined) throw invalid('a pattern that is neither a String nor a Regex')
  try {
    // The library converts what its own class is given.
    return new SplitPreTokenizer({ type: 'Split', pattern: { Regex: pattern.Regex }, behavior: 'Isolated' }).pattern
  } catch (cause) {
    throw invalid(`the pattern ${pattern.Regex}: ${(cause as Error).message}`, cause)
  }
}

/** Where a pattern is found in a text: starts and ends, in order. Nothing of an empty text to look for. */
export function* matches(text: string, pattern: string | RegExp): Iterable<readonly [number, number]> {
  if (typeof pattern !== 'string') {
    for (const match of text.matchAll(pattern)) yield [match.index, match.index + match[0].length]
    return
  }
  if (pattern === '') return
  for (let at = text.indexOf(pattern); at !== -1; at = text.indexOf(pattern, at + pattern.length)) {
    yield [at, at + pattern.length]
  }
}

function invalid(what: string, cause?: unknown): MillraceError {
  return new MillraceError('TOKENIZER_INVALID', {
    message: `tokenizer.json could not be read: ${what}`,
    remedy: 'use a checkpoint with another tokenizer',
    cause,
  })
}

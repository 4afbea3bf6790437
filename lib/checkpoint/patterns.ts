/**
 * Names matched by the regular expressions of a checkpoint's settings, as Python's re.match does: from the beginning,
 * not necessarily to the end. Patterns come from files: what JavaScript would read otherwise is refused, and matching
 * ends after a fixed time, since a pattern can be made to backtrack for ever.
 */
import { createContext, Script } from 'node:vm'
import { MillraceError } from '../errors.ts'
import { show } from './json.ts'

const MAX_PATTERNS = 10_000
const MAX_MILLISECONDS = 2_000

/** What Python knows and JavaScript takes for something else without complaint. */
const OF_PYTHON = /\\[AZ]|\(\?P|\{,\d/

const script = new Script('patterns.map((pattern) => names.filter((name) => pattern.test(name)))')

/**
 * Which of the names each pattern matches, in the order of the patterns. Throws CHECKPOINT_UNSUPPORTED for a pattern that
 * cannot be read, CHECKPOINT_INVALID for patterns that are too many or take too long. `where` is for messages.
 */
export function matchNames(patterns: readonly string[], names: readonly string[], where: string): Set<string>[] {
  if (patterns.length === 0) return []
  if (patterns.length > MAX_PATTERNS) {
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${where}: expected at most ${MAX_PATTERNS} patterns, found ${patterns.length}`,
    })
  }
  const context = createContext({ patterns: patterns.map((pattern) => compile(pattern, where)), names: [...names] })
  try {
    const matched = script.runInContext(context, { timeout: MAX_MILLISECONDS }) as string[][]
    return matched.map((of) => new Set(of))
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw cause
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${where}: expected patterns that match at once, found some that take more than ${MAX_MILLISECONDS} ms: ${show(patterns)}`,
      remedy: 'do not load this checkpoint unless you trust whoever published it; correct its settings if you do',
      cause,
    })
  }
}

function compile(pattern: string, where: string): RegExp {
  try {
    if (!OF_PYTHON.test(pattern)) return new RegExp(`^(?:${pattern})`)
  } catch {
    // Told below.
  }
  throw new MillraceError('CHECKPOINT_UNSUPPORTED', {
    message: `${where}: the pattern ${show(pattern)} is not supported, expected a regular expression that JavaScript reads as Python does`,
    remedy: 'write the pattern with literals, classes, groups and quantifiers alone',
  })
}

/** The chat templates of a checkpoint's files. */
import { MillraceError } from '../../errors.ts'
import type { Templates } from './types.ts'

/** What the files have, as templates; undefined where they have nothing. Throws CHAT_TEMPLATE_INVALID. */
export function checkTemplates(given: unknown): Templates | undefined {
  if (given === undefined || typeof given === 'string') return given
  if (Array.isArray(given) && given.every(isNamed)) return given.length === 0 ? undefined : given
  const found = given === null ? 'null' : Array.isArray(given) ? 'a list of others' : typeof given
  throw new MillraceError('CHAT_TEMPLATE_INVALID', {
    message: `expected the chat template to be a text or a list of { name, template }, found ${found}`,
  })
}

const isNamed = (entry: unknown) => {
  const { name, template } = (entry ?? {}) as Record<string, unknown>
  return typeof name === 'string' && typeof template === 'string'
}

/** Of several, the one that a chat without tools takes. */
export function defaultTemplate(templates: Templates): string {
  if (typeof templates === 'string') return templates
  return (templates.find(({ name }) => name === 'default') ?? templates[0]!).template
}

/** Who may speak in a chat. */
import type { Templates } from './chat/types.ts'

export const ROLES = ['system', 'user', 'assistant', 'tool', 'developer']

/**
 * The usual roles, and those that a chat template names: it would pass over a misspelt one without a word. Of texts, so
 * that nobody has to parse them.
 */
export function takesRole(templates: Templates, role: string): boolean {
  const texts = typeof templates === 'string' ? [templates] : templates.map(({ template }) => template)
  return ROLES.includes(role) || texts.some((text) => [`'${role}'`, `"${role}"`].some((name) => text.includes(name)))
}

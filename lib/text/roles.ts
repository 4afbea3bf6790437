/** Who may speak in a chat. */

export const ROLES = ['system', 'user', 'assistant', 'tool', 'developer']

/**
 * The usual roles, and those that the chat template names: it would pass over a misspelt one without a word. Of a text,
 * so that nobody has to parse it.
 */
export function takesRole(template: string, role: string): boolean {
  return ROLES.includes(role) || [`'${role}'`, `"${role}"`].some((literal) => template.includes(literal))
}

/** The format of a model's answers: derived from its template, or known. */
import { deriveFormat } from './derive.ts'
import type { ChatFormat } from './format.ts'
import { applyOverride } from './overrides.ts'
import type { ChatRenderer } from './render.ts'

/**
 * Some ten small chats are rendered for it: keep what it gives. `hasTools` says which of several templates is meant.
 * Throws what ChatRenderer.template() throws.
 */
export function chatFormat(renderer: ChatRenderer, hasTools: boolean, templateName?: string): ChatFormat {
  const template = renderer.template(hasTools, templateName).text
  const render: Parameters<typeof deriveFormat>[0] = (messages, { tools, ...options }) =>
    renderer.render(messages, { ...options, templateName, tools: hasTools ? tools : undefined }).text
  return applyOverride(template, deriveFormat(render, template))
}

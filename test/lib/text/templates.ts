/** Where the tests find published chat templates with what transformers renders of them. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))))

export interface Conversation {
  messages: Record<string, unknown>[]
  tools: Record<string, unknown>[] | null
  options: Record<string, unknown>
}

export interface Published {
  conversations: Record<string, Conversation>
  templates: { name: string; text: string; rendered: Record<string, { text?: string; error?: string }> }[]
}

/** In MILLRACE_TEMPLATES, or in ../shared/templates. Says so on stderr if they are in neither. */
export function publishedTemplates(): Published | undefined {
  const places = [process.env.MILLRACE_TEMPLATES, join(root, '..', 'shared', 'templates')]
  const folder = places.find((place) => place !== undefined && existsSync(join(place, 'golden.json')))
  if (folder === undefined) {
    process.stderr.write('tests of published chat templates are skipped: set MILLRACE_TEMPLATES to their folder\n')
    return undefined
  }
  const golden = JSON.parse(readFileSync(join(folder, 'golden.json'), 'utf8'))
  return {
    conversations: golden.conversations,
    templates: Object.entries(golden.rendered as Record<string, Published['templates'][0]['rendered']>).map(
      ([name, rendered]) => ({ name, rendered, text: readFileSync(join(folder, name), 'utf8') }),
    ),
  }
}

/** The special tokens of the goldens. */
export const SPECIAL_TOKENS = { bos_token: '<s>', eos_token: '</s>', pad_token: '</s>', unk_token: '<unk>' }

/** The day of the goldens. */
export const GOLDEN_DAY = new Date(2026, 10, 29)

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { ChatTemplate } from '../../../lib/text/chat.ts'
import { takesRole } from '../../../lib/text/roles.ts'
import { readTokenizerFiles } from '../../../lib/text/tokenizer/files.ts'
import { Tokenizer } from '../../../lib/text/tokenizer/tokenizer.ts'
import { findModel, MODELS } from '../../models.ts'

const tokens = { bosToken: '<s>', eosToken: '</s>' }
const user = (content: string) => ({ role: 'user', content })

async function prompt(folder: string, ...messages: { role: string; content: string }[]) {
  const files = await readTokenizerFiles(folder)
  const tokenizer = new Tokenizer(files)
  const rendered = new ChatTemplate(files.template).render(messages, tokenizer)
  return { rendered, ids: [...tokenizer.encode(rendered, false)] }
}

describe('templates of checkpoints', () => {
  test('demo: its first token once', async () => {
    const { rendered, ids } = await prompt(join(MODELS, 'demo'), user('Tell me a story.'))
    expect(rendered).toBe('<|endoftext|><|user|>Tell me a story.<|assistant|>')
    expect(ids.slice(0, 2)).toEqual([0, 1])
    expect(ids.at(-1)).toBe(2)
    expect(ids.filter((id) => id <= 2)).toHaveLength(3)
  })
  const smollm = findModel('smollm2-135m')
  test.skipIf(!smollm)('smollm2: a default system message', async () => {
    const { rendered } = await prompt(smollm!, user('Hello'))
    expect(rendered).toBe(
      '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n',
    )
  })
})

describe('where the template is', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-chat-'))
    await writeFile(join(folder, 'tokenizer.json'), '{}')
  })
  afterEach(() => rm(folder, { recursive: true }))

  async function template(config: object): Promise<unknown> {
    await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(config))
    return (await readTokenizerFiles(folder)).template
  }

  test('a file of its own rules over the setting', async () => {
    await writeFile(join(folder, 'chat_template.jinja'), 'file')
    expect(await template({ chat_template: 'setting' })).toBe('file')
  })
  test('a text, a named list, or nothing', async () => {
    const list = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'plain' },
    ]
    expect(await template({ chat_template: 'setting' })).toBe('setting')
    expect(await template({ chat_template: list })).toBe('plain')
    expect(await template({ chat_template: list.slice(0, 1) })).toBe('tools')
    expect(await template({})).toBeUndefined()
  })
})

test("a template's own refusal is the caller's mistake, in the template's words", () => {
  const template = new ChatTemplate("{{ raise_exception('roles must alternate') }}")
  expect(() => template.render([user('a')], tokens)).toThrowError(
    expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('roles must alternate') }),
  )
})

test.each([
  ['{{ range(300000000) | length }}'],
  ['{{ range(1, 2, 0) | length }}'],
  ["{% set ns = namespace(t='abcd') %}{% for a in range(30) %}{% set ns.t = ns.t + ns.t %}{% endfor %}"],
])('a template that outgrows JavaScript is no mistake of the caller (%#)', (text) => {
  expect(() => new ChatTemplate(text).render([user('a')], tokens)).toThrowError(
    expect.objectContaining({ code: 'CHAT_TEMPLATE_INVALID' }),
  )
})

test('range() as Jinja has it', () => {
  const template = new ChatTemplate('\n{{ range(3) }} {{ range(2, 5) }} {{ range(5, 0, -2) }} {{ range(5, 2) }}')
  expect(template.render([user('a')], tokens)).toBe('\n[0, 1, 2] [2, 3, 4] [5, 3, 1] []')
})

test('a template takes the usual roles and those that it names', () => {
  const template = "{% if messages[0].role == 'critic' or messages[0]['role'] == \"poet\" %}x{% endif %}"
  for (const role of ['system', 'user', 'assistant', 'tool', 'critic', 'poet'])
    expect(takesRole(template, role)).toBe(true)
  for (const role of ['usr', 'User', 'role x', 'cri']) expect(takesRole(template, role)).toBe(false)
})

test.each([['{% if %}'], [5], [null]])(
  "a template that does not parse is the checkpoint's mistake (%s)",
  (template) => {
    expect(() => new ChatTemplate(template)).toThrowError(expect.objectContaining({ code: 'CHAT_TEMPLATE_INVALID' }))
  },
)

import { describe, expect, test } from 'vitest'
import { ChatRenderer, type RenderChatOptions } from '../../../../lib/text/chat/render.ts'
import { specialTokensOf } from '../../../../lib/text/chat/special_tokens.ts'
import type { Message, Tool } from '../../../../lib/text/chat/types.ts'
import { publishedTemplates, SPECIAL_TOKENS } from '../templates.ts'

const render = (templates: string, messages: Message[], options?: RenderChatOptions) =>
  new ChatRenderer({ templates, specialTokens: SPECIAL_TOKENS }).render(messages, options).text
const coded = (code: string, message = '') =>
  expect.objectContaining({ code, message: expect.stringContaining(message) })
const user = (content: Message['content']) => ({ role: 'user', content })
const parts = (...texts: string[]) => texts.map((text) => ({ type: 'text' as const, text }))
const call = (args: string | Record<string, unknown>, id = 'abcdefghi') => ({
  id,
  function: { name: 'look', arguments: args },
})
const TOOLS: Tool[] = [
  {
    type: 'function',
    function: { name: 'look', description: 'Looks', parameters: { type: 'object', properties: {} } },
  },
]

describe('contents', () => {
  const TEXTS = "{% for m in messages %}[{{ m.content + '' }}]{% endfor %}"
  const PARTS =
    "{% for m in messages %}{% for p in m.content %}{% if p['type'] == 'text' %}<{{ p['text'] }}>{% endif %}{% endfor %}{% endfor %}"
  const BOTH =
    '{% for m in messages %}{% if m.content is string %}[{{ m.content }}]{% else %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}'
  const PRINTED = '{% for m in messages %}{{ m.content }}{% endfor %}'
  const JSON_PRINTED = '{% for m in messages %}{{ m.content | tojson }}{% endfor %}'

  test('parts, where a template knows texts alone, are joined by line', () => {
    expect(render(TEXTS, [user(parts('a', 'b'))])).toBe('[a\nb]')
    expect(render(PRINTED, [user(parts('a', 'b'))])).toBe('a\nb')
    expect(render(JSON_PRINTED, [user(parts('a', 'b'))])).toBe('"a\\nb"')
    expect(render(BOTH, [user(parts('a', 'b'))])).toBe('<a><b>')
  })
  test('texts, where a template knows parts alone, become one', () => {
    expect(render(PARTS, [user('a')])).toBe('<a>')
    expect(render(BOTH, [user('a')])).toBe('[a]')
  })
  test('other parts are refused by name', () => {
    const image = [{ type: 'image_url', image_url: { url: 'x' } }] as unknown as Message['content']
    expect(() => render(BOTH, [user('a'), user(image)])).toThrowError(
      coded('INVALID_ARGUMENT', 'messages[1].content[0]'),
    )
    expect(() => render(TEXTS, [user(5 as unknown as string)])).toThrowError(
      coded('INVALID_ARGUMENT', 'messages[0].content'),
    )
  })
  test('none at all', () => {
    expect(render(TEXTS, [user(null), { role: 'assistant' }])).toBe('[][]')
  })
})

describe('calls', () => {
  const messages = (args: string | Record<string, unknown>, content?: null | string): Message[] => [
    user('hi'),
    { role: 'assistant', ...(content === undefined ? {} : { content }), tool_calls: [call(args)] },
    { role: 'tool', tool_call_id: 'abcdefghi', name: 'look', content: 'seen' },
  ]
  const QWEN =
    '{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}'
  const SUMS =
    "{% for m in messages %}{{ m.content + '' }}{% for c in m.tool_calls %}{{ '(' + c.function.arguments + ')' }}{% endfor %}{% endfor %}"
  const BY_NONE =
    '{% for m in messages %}{% if m.content is not none %}{{ m.content }}{% else %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}{% endif %}{% endfor %}'

  test.each([
    ['a template that writes JSON itself', QWEN, 'hi{"a": "é", "b": [1, null]}seen'],
    ['one that puts texts together', SUMS, 'hi({"a": "é", "b": [1, null]})seen'],
    ['one that knows calls by their null', BY_NONE, 'hi{"a": "é", "b": [1, null]}seen'],
  ])('%s: JSON or an object, content null, absent or empty', (_, template, wanted) => {
    const args = { a: 'é', b: [1, null] }
    for (const content of [null, undefined]) {
      expect(render(template, messages(args, content), { tools: TOOLS })).toBe(wanted)
      expect(render(template, messages('{"a": "é", "b": [1, null]}', content), { tools: TOOLS })).toBe(wanted)
    }
  })
  test('arguments that are no JSON stay', () => {
    expect(render(SUMS, messages('{"a'), { tools: TOOLS })).toBe('hi({"a)seen')
    expect(render(QWEN, messages(''), { tools: TOOLS })).toBe('hi{}seen')
  })
  test('an answer beside a list without calls', () => {
    expect(render(QWEN, [{ role: 'assistant', content: 'a', tool_calls: [] }])).toBe('a')
    expect(render(QWEN, [{ role: 'assistant', content: 'a', tool_calls: null }])).toBe('a')
  })
  test('no tools are none, an empty list is one', () => {
    expect(render('{{ tools is none }}', [user('a')])).toBe('True')
    expect(render('{{ tools }}', [user('a')], { tools: [] })).toBe('[]')
  })
})

test.each(['reasoning', 'reasoning_content', 'thinking'] as const)(
  '%s, under the name that the template knows',
  (name) => {
    const message = { role: 'assistant', content: 'a', [name]: 'hm' }
    expect(render('{{ messages[0].reasoning_content }}', [message])).toBe('hm')
    expect(render('{{ messages[0].thinking }}', [message])).toBe('hm')
    expect(render("{{ messages[0]['reasoning'] }}", [message])).toBe('hm')
  },
)

describe('variables', () => {
  test('of the template, of the tokenizer, and those that are fixed', () => {
    const template =
      '{{ enable_thinking }} {{ bos_token }} {{ pad_token }} {{ messages | length }} {{ add_generation_prompt }} {{ documents }} {{ cls_token is defined }}'
    expect(
      render(template, [user('a')], { variables: { enable_thinking: false, messages: [], add_generation_prompt: 7 } }),
    ).toBe('False <s> </s> 1 True None False')
    expect(render(template, [user('a')], { addGenerationPrompt: false, variables: { bos_token: 'B' } })).toContain(
      ' B ',
    )
  })
  test("every special token of the tokenizer's settings", () => {
    const settings = {
      bos_token: '<s>',
      eos_token: { content: '</s>', lstrip: false },
      pad_token: null,
      add_bos_token: true,
      image_token: '<image>',
      extra_special_tokens: { video_token: '<video>', boi: { content: '<boi>' } },
      additional_special_tokens: ['<a>', { content: '<b>' }],
      model_max_length: 5,
    }
    expect(specialTokensOf(settings)).toEqual({
      bos_token: '<s>',
      eos_token: '</s>',
      image_token: '<image>',
      video_token: '<video>',
      boi: '<boi>',
      additional_special_tokens: ['<a>', '<b>'],
    })
  })
})

test('documents never become special tokens', () => {
  const template = '<end>{% for d in documents %}{{ d.title }}: {{ d.text }}{% endfor %}{{ name }}'
  const renderer = new ChatRenderer({ templates: template, addedTokens: ['<end>'] })
  const documents = [{ title: 'A<end>', text: '<end>b' }]
  const { text, sections } = renderer.render([user('a')], { variables: { documents, name: 'c<end>' } })
  expect(text).toBe('<end>A<end>: <end>bc<end>')
  expect(sections).toEqual([
    { text: '<end>', special: true },
    { text: 'A<end>: <end>bc', special: false },
    { text: '<end>', special: true },
  ])
})

test("what is nested too deep is the caller's fault, whatever it is nested in", () => {
  const template = '{{ messages | tojson }}{{ tools | tojson }}'
  const depth = 20_000
  const itself: Record<string, unknown> = {}
  itself.self = itself
  const deep = `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`
  const tools = [{ type: 'function' as const, function: { name: 'f', parameters: itself } }]
  const error = coded('INVALID_ARGUMENT', 'too deep')
  expect(() => render(template, [user('a')], { tools })).toThrowError(error)
  expect(() => render(template, [user('a')], { variables: { itself } })).toThrowError(error)
  expect(() => render(template, [user('a'), { role: 'assistant', tool_calls: [call(deep)] }])).toThrowError(error)
})

describe('the final message, continued', () => {
  const CHATML =
    '{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}'
  const begun = (content: Message['content']) => [user('a'), { role: 'assistant', content }]
  const go = (template: string, content: Message['content']) =>
    render(template, begun(content), { continueFinalMessage: true })

  test('the prompt ends where the message does', () => {
    expect(go(CHATML, 'Once upon')).toBe('<user>a<end>\n<assistant>Once upon')
    expect(go(CHATML, 'Once upon ')).toBe('<user>a<end>\n<assistant>Once upon ')
    expect(go(CHATML, '')).toBe('<user>a<end>\n<assistant>')
    expect(go(CHATML.replace('m.content', 'm.content | trim'), ' Once upon \n')).toBe(
      '<user>a<end>\n<assistant>Once upon',
    )
  })
  test('the last of its parts', () => {
    const template = '{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}<end>{% endfor %}'
    expect(go(template, parts('Once', ' upon'))).toBe('a<end>Once upon')
  })
  test('what cannot be', () => {
    expect(() => go('{% for m in messages[:1] %}{{ m.content }}{% endfor %}', 'Once')).toThrowError(
      coded('INVALID_ARGUMENT', 'continueFinalMessage'),
    )
    expect(() => render(CHATML, [], { continueFinalMessage: true })).toThrowError(coded('INVALID_ARGUMENT'))
    expect(() => render(CHATML, begun('a'), { continueFinalMessage: true, addGenerationPrompt: true })).toThrowError(
      coded('INVALID_ARGUMENT'),
    )
  })
  test('its tokens are no user text', () => {
    const renderer = new ChatRenderer({ templates: CHATML, addedTokens: ['<end>', '<user>', '<assistant>'] })
    const { text, sections } = renderer.render(begun('Once upon'), { continueFinalMessage: true })
    expect(sections.at(-1)).toEqual({ text: 'Once upon', special: false })
    expect(sections.map((section) => section.text).join('')).toBe(text)
  })
})

describe('which template', () => {
  const templates = [
    { name: 'rag', template: 'rag' },
    { name: 'default', template: 'default' },
    { name: 'tool_use', template: 'tools' },
  ]
  const pick = (given: typeof templates, options?: RenderChatOptions) =>
    new ChatRenderer({ templates: given }).render([user('a')], options).text
  test('by name, by tools, or the default one', () => {
    expect(pick(templates)).toBe('default')
    expect(pick(templates, { tools: TOOLS })).toBe('tools')
    expect(pick(templates, { tools: [] })).toBe('default')
    expect(pick(templates, { tools: TOOLS, templateName: 'rag' })).toBe('rag')
    expect(pick(templates.slice(0, 2), { tools: TOOLS })).toBe('default')
    expect(pick(templates.slice(0, 1))).toBe('rag')
    expect(() => pick(templates, { templateName: 'other' })).toThrowError(
      coded('INVALID_ARGUMENT', 'rag, default, tool_use'),
    )
  })
  test('one that nobody needs may be bad', () => {
    expect(pick([...templates, { name: 'bad', template: '{% if' }])).toBe('default')
    expect(() => pick([{ name: 'bad', template: '{% if' }])).toThrowError(coded('CHAT_TEMPLATE_INVALID'))
    expect(() => new ChatRenderer({ templates: undefined }).render([user('a')])).toThrowError(
      coded('CHAT_TEMPLATE_MISSING'),
    )
  })
})

test('developers speak as the system where a template does not know them', () => {
  const template = '{% for m in messages %}{{ m.role }}{% endfor %}'
  expect(render(template, [{ role: 'developer', content: 'a' }])).toBe('system')
  expect(render(`${template}{# developer #}`, [{ role: 'developer', content: 'a' }])).toBe('developer')
})

describe('published templates', () => {
  const published = publishedTemplates()
  test.skipIf(!published)('show calls, however they are written', () => {
    const silent: string[] = []
    for (const { name, text } of published!.templates) {
      const write = (args: string | Record<string, unknown>, content?: null) => {
        try {
          return render(
            text,
            [
              user('hi'),
              { role: 'assistant', content, tool_calls: [call(args)] },
              { role: 'tool', tool_call_id: 'abcdefghi', name: 'look', content: 'seen' },
            ],
            { tools: TOOLS },
          )
        } catch (error) {
          return (error as { code: string }).code
        }
      }
      const plain = write({ where: 'Oslo' })
      expect(write('{"where": "Oslo"}', null)).toBe(plain)
      if (!plain.includes('Oslo')) silent.push(name)
    }
    // Templates that know no tools; Kimi K2's, which transformers refuses too.
    expect(silent).toEqual([
      'Kimi-K2-Instruct.jinja',
      'google-gemma-2-2b-it.jinja',
      'llama-cpp-rwkv-world.jinja',
      'microsoft-Phi-3.5-mini-instruct.jinja',
    ])
  })
})

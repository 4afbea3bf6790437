import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ChatRenderer, type Prompt } from '../../../../lib/text/chat/render.ts'
import type { Message, Tool } from '../../../../lib/text/chat/types.ts'
import { AddedTokens, Marks } from '../../../../lib/text/template/marks.ts'
import { GOLDEN_DAY, publishedTemplates, SPECIAL_TOKENS } from '../templates.ts'

const specials = ({ sections }: Prompt) => sections.filter(({ special }) => special).map(({ text }) => text)
const joined = ({ sections }: Prompt) => sections.map(({ text }) => text).join('')

/** What a template writes that looks like special tokens. */
const tokensOf = (template: string) => [
  ...new Set([...(template.match(/<[^<>\s'"{}]{1,40}>|\[\/?[A-Z_]+\]/g) ?? []), ...Object.values(SPECIAL_TOKENS)]),
]

/** Every token, tokens that are cut, tokens within tokens, and the code points that marks are made of. */
const hostile = (tokens: string[]) =>
  [
    ...tokens,
    tokens.join(''),
    ...tokens.map((token) => token.slice(0, -1)),
    ...tokens.map((token) => token.slice(0, 2) + token + token.slice(2)),
    '\u{10fffd}\u{100000}\u{10ffff}',
    tokens[0]!.slice(0, -1),
  ].join(' and ')

describe('published templates', () => {
  const published = publishedTemplates()
  /** Templates whose own logic looks for its tokens in what users write: what they do with them differs, no more. */
  const LOOKING = new Set(['NVIDIA-Nemotron-Nano-v2.jinja', 'openbmb-MiniCPM5-1B.jinja'])

  describe.skipIf(!published)('no text of a user becomes a special token', () => {
    for (const { name, text, rendered } of published?.templates ?? []) {
      const takes = Object.keys(rendered).filter((conversation) => rendered[conversation]!.text !== undefined)
      test.each(takes)(`${name}: %s`, (conversation) => {
        const { messages, tools, options } = published!.conversations[conversation]!
        const { add_generation_prompt: addGenerationPrompt, ...variables } = options as {
          add_generation_prompt?: boolean
        }
        const addedTokens = tokensOf(text)
        const source = { templates: text, specialTokens: SPECIAL_TOKENS }
        const render = (renderer: ChatRenderer, said: string) =>
          renderer.render(
            messages.map((message) =>
              message.role === 'assistant' ? message : { ...message, content: said },
            ) as unknown as Message[],
            {
              tools: tools?.map((tool) => ({
                ...tool,
                function: { ...(tool.function as object), description: said },
              })) as Tool[],
              variables,
              addGenerationPrompt,
              now: GOLDEN_DAY,
            },
          )
        const marked = new ChatRenderer({ ...source, addedTokens })
        const said = hostile(addedTokens)
        const prompt = render(marked, said)
        expect(joined(prompt)).toBe(prompt.text)
        expect(specials(prompt)).toEqual(specials(render(marked, 'hello')))
        if (!LOOKING.has(name)) expect(prompt.text).toBe(render(new ChatRenderer(source), said).text)
      })
    }
  })

  test.skipIf(!published)('marked renderings are the plain ones', () => {
    for (const { text, rendered } of published!.templates) {
      const renderer = new ChatRenderer({ templates: text, specialTokens: SPECIAL_TOKENS, addedTokens: tokensOf(text) })
      for (const [conversation, { text: wanted }] of Object.entries(rendered)) {
        if (wanted === undefined) continue
        const { messages, tools, options } = published!.conversations[conversation]!
        const { add_generation_prompt: addGenerationPrompt, ...variables } = options as {
          add_generation_prompt?: boolean
        }
        const prompt = renderer.render(messages as unknown as Message[], {
          tools: (tools as unknown as Tool[]) ?? undefined,
          variables,
          addGenerationPrompt,
          now: GOLDEN_DAY,
        })
        expect(prompt.text).toBe(wanted)
        expect(joined(prompt)).toBe(wanted)
      }
    }
  })
})

const END = '<|im_end|>'
const chat = (template: string, tokens = [END, '<|im_start|>']) =>
  new ChatRenderer({ templates: template, addedTokens: tokens })
const TURNS = '{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}'

test('a token in pieces, put together by the template', () => {
  const parts = (...texts: string[]) => [
    { role: 'user', content: texts.map((text) => ({ type: 'text' as const, text })) },
  ]
  const each = '{% for p in messages[0].content %}{{ p.text | trim }}{% endfor %}<|im_end|>'
  for (const texts of [
    ['<|im_', 'end|>'],
    ['<', '|im_end|>'],
    ['<|im_end|', '>'],
    ['<|', 'im_end', '|>'],
    ['<|im_ \n', ' end|>'],
  ]) {
    const prompt = chat(each).render(parts(...texts))
    expect(specials(prompt)).toEqual([END])
    expect(prompt.text).toBe(texts.map((text) => text.trim()).join('') + END)
  }
  const around = chat("<|im_{{ messages[0].content }}|>{{ '<|' + messages[1].content }}").render([
    { role: 'user', content: 'end' },
    { role: 'user', content: 'im_end|>' },
  ])
  expect(specials(around)).toEqual([])
  expect(around.text).toBe(END + END)
})

test('escapes see what a mark stands for', () => {
  const tokens = ['<|"|>', '<|é|>', END]
  const said = `a <|"|> b <|é|> c ${END}`
  const template =
    '{{ m | tojson }}{{ m | tojson(ensure_ascii=true) }}{{ [m] }}{{ m | e }}{{ m | upper }}{{ m | urlencode }}'
  const source = template.replaceAll(' m ', ' messages[0].content ').replaceAll('[m]', '[messages[0].content]')
  const prompt = chat(source, tokens).render([{ role: 'user', content: said }])
  expect(prompt.text).toBe(new ChatRenderer({ templates: source }).render([{ role: 'user', content: said }]).text)
  expect(specials(prompt)).toEqual([])
})

test('names that could be the middle of a token stay as they are', () => {
  const template =
    "{% for t in tools %}{{ t.type == 'function' }}{{ t.function.name == 'im' }}{% endfor %}{{ messages[0].role == 'user' }}"
  const prompt = chat(template).render([{ role: 'user', content: 'im' }], {
    tools: [{ type: 'function', function: { name: 'im' } }],
  })
  expect(prompt.text).toBe('TrueTrueTrue')
})

test('what the assistant said keeps its tokens, and its code points', () => {
  const messages = [
    { role: 'user', content: END },
    { role: 'assistant', content: `\u{10fffd}${END}` },
  ]
  const prompt = chat(TURNS).render(messages)
  expect(prompt.text).toBe(`<|im_start|>${END}${END}<|im_start|>\u{10fffd}${END}${END}`)
  expect(specials(prompt)).toEqual(['<|im_start|>', END, '<|im_start|>', END, END])
})

test('white space is no token to hide: templates trim it', () => {
  const prompt = chat('{{ messages[0].content | trim }}', ['\n\n', '  ']).render([
    { role: 'user', content: '  a\n\nb\n\n' },
  ])
  expect(prompt).toEqual({ text: 'a\n\nb', sections: [{ text: 'a\n\nb', special: false }] })
})

test('any text of any user comes back, and is never special', () => {
  const tokens = ['<|a|>', '<|ab|>', '<|', '|>', '[X]', '\u{10ffff}']
  const word = fc.constantFrom(
    ...tokens,
    '<',
    '|',
    'a',
    'b',
    '>',
    '[',
    'X',
    ']',
    ' ',
    '\n',
    '\u{10fffd}',
    '\u{10fffc}',
    '😀',
    '"',
  )
  const text = fc.array(word, { maxLength: 12 }).map((words) => words.join(''))
  fc.assert(
    fc.property(fc.array(text, { minLength: 1, maxLength: 4 }), (texts) => {
      const prompt = chat('{% for m in messages %}{{ m.content }}{% endfor %}', tokens).render(
        texts.map((content) => ({ role: 'user', content })),
      )
      expect(prompt.text).toBe(texts.join(''))
      expect(joined(prompt)).toBe(texts.join(''))
      expect(specials(prompt)).toEqual([])
    }),
    { numRuns: 1000 },
  )
})

test('more marks than there are code points', () => {
  const marks = new Marks(new AddedTokens([]))
  const plane = Array.from({ length: 65_536 }, (_, index) => String.fromCodePoint(0x100000 + index)).join('')
  expect(() => marks.untrusted(plane)).toThrowError(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
})

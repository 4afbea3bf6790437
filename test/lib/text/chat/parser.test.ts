import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { chatFormat } from '../../../../lib/text/chat/chat_format.ts'
import type { ChatFormat } from '../../../../lib/text/chat/format.ts'
import { OVERRIDES } from '../../../../lib/text/chat/overrides.ts'
import { ChatParser } from '../../../../lib/text/chat/parser.ts'
import type { Part } from '../../../../lib/text/chat/parts.ts'
import { ChatRenderer } from '../../../../lib/text/chat/render.ts'
import type { ChatParserOptions } from '../../../../lib/text/chat/states.ts'
import type { Message, Tool } from '../../../../lib/text/chat/types.ts'
import { publishedTemplates, SPECIAL_TOKENS } from '../templates.ts'

/** What a list of parts says in all. */
function summary(parts: readonly Part[]) {
  const said = { text: '', reasoning: '', calls: [] as { name: string; arguments: string }[] }
  for (const part of parts) {
    if (part.type === 'call') said.calls[part.index] = { name: part.name, arguments: '' }
    else if (part.type === 'arguments') said.calls[part.index]!.arguments += part.text
    else if (part.type !== 'finish') said[part.type] += part.text
  }
  return said
}

/** The parts of an answer that comes in pieces of the lengths that `cut` gives. */
function read(format: ChatFormat, answer: string, cut: () => number = () => 1, options?: ChatParserOptions): Part[] {
  const parser = new ChatParser(format, options)
  const parts: Part[] = []
  for (let at = 0; at < answer.length; ) {
    const length = cut()
    parts.push(...parser.push(answer.slice(at, at + length)))
    at += length
  }
  return [...parts, ...parser.finish('stop')]
}

const formatOf = (template: string) =>
  chatFormat(new ChatRenderer({ templates: template, specialTokens: SPECIAL_TOKENS }), true)

const QWEN = `{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}{% for c in m.tool_calls %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`

const TAGGED = `{% for m in messages %}<u>{{ m.content }}{% for c in m.tool_calls %}
<tool_call>
<function={{ c.function.name }}>
{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>
{{ v if v is string else v | tojson }}
</parameter>
{% endfor %}</function>
</tool_call>{% endfor %}</u>
{% endfor %}{% if add_generation_prompt %}<u>{% endif %}`

const LIST = `{% for m in messages %}[INST]{{ m.content }}{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}{{ ', ' if not loop.last }}{% endfor %}]{% endif %}</s>{% endfor %}{% if add_generation_prompt %}[INST]{% endif %}`

const BARE = `{% for m in messages %}<h>{{ m.role }}</h>{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call alone') }}{% endif %}{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}<end>{% endfor %}{% if add_generation_prompt %}<h>assistant</h>{% endif %}`

describe('formats, derived', () => {
  test('an object between tags, and reasoning', () => {
    expect(formatOf(QWEN)).toMatchObject({
      reasoning: { open: '<think>', close: '</think>' },
      drop: ['<|im_end|>'],
      calls: {
        shape: 'object',
        nameKey: 'name',
        argumentsKey: 'arguments',
        callOpen: '<tool_call>',
        callClose: '</tool_call>',
        sectionOpen: '',
        separator: '',
      },
    })
  })
  test('a list of objects', () => {
    expect(formatOf(LIST)).toMatchObject({
      reasoning: undefined,
      calls: {
        shape: 'object',
        idKey: 'id',
        sectionOpen: '[TOOL_CALLS][',
        separator: ',',
        sectionClose: ']',
        callOpen: '',
        callClose: '',
      },
    })
  })
  test('a tag an argument', () => {
    expect(formatOf(TAGGED)).toMatchObject({
      calls: { shape: 'tagged', type: undefined, callOpen: '<tool_call>\n<function=' },
    })
  })
  test('a bare object', () => {
    expect(formatOf(BARE)).toMatchObject({
      calls: { shape: 'object', argumentsKey: 'parameters', callOpen: '', sectionOpen: '' },
    })
  })
  test('a text with tags of its own behind reasoning, which calls do without', () => {
    const format = formatOf(`{% for m in messages %}<u>{% if m.role == 'assistant' %}<think>
{{ m.reasoning_content or '' }}
</think>

{% if m.content %}<response>
{{ m.content }}
</response>
{% endif %}{% for c in m.tool_calls %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>
{% endfor %}{% else %}{{ m.content }}{% endif %}</u>
{% endfor %}{% if add_generation_prompt %}<u><think>
{% endif %}`)
    expect(format).toMatchObject({ reasoning: { open: '<think>', close: '</think>' }, textOpen: '<response>' })
    const said = (answer: string) => summary(read(format, answer, () => 3, { prompt: '<u><think>\n' }))
    const call = '\n<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>\n'
    expect(said(`Hm.\n</think>\n\n${call}`)).toEqual({
      text: '',
      reasoning: 'Hm.',
      calls: [{ name: 'look', arguments: '{"at": 1}' }],
    })
    expect(said('Hm.\n</think>\n\n<response>\nIt is.\n</response>\n')).toMatchObject({
      text: 'It is.',
      reasoning: 'Hm.',
      calls: [],
    })
  })
  test('a template that shows no calls', () => {
    expect(formatOf('{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}')).toMatchObject({
      reasoning: undefined,
      calls: undefined,
    })
    expect(() => formatOf('{% if')).toThrowError(expect.objectContaining({ code: 'CHAT_TEMPLATE_INVALID' }))
  })
  test('at most eight are known beforehand', () => {
    expect(OVERRIDES.length).toBeLessThanOrEqual(8)
  })
})

describe('answers', () => {
  const qwen = formatOf(QWEN)
  const ANSWER =
    '<think>\nWhat now?\n\nI see.\n</think>\n\nI look.\n<tool_call>\n{"name": "look", "arguments": {"at": "}\\"{", "n": [1, {}]}}\n</tool_call>\n<tool_call>\n{"name": "go", "arguments": {}}\n</tool_call>'
  const PARTS: Part[] = [
    { type: 'reasoning', text: 'What now?\n\nI see.' },
    { type: 'text', text: 'I look.' },
    { type: 'call', index: 0, id: 'id0', name: 'look' },
    { type: 'arguments', index: 0, text: '{"at": "}\\"{", "n": [1, {}]}' },
    { type: 'call', index: 1, id: 'id1', name: 'go' },
    { type: 'arguments', index: 1, text: '{}' },
    { type: 'finish', reason: 'stop' },
  ]
  const ids = () => {
    let next = 0
    return () => `id${next++}`
  }

  test('whole', () => {
    expect(read(qwen, ANSWER, () => ANSWER.length, { newId: ids() })).toEqual(PARTS)
  })
  test('cut anywhere, they say the same', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }), (lengths) => {
        let next = 0
        expect(summary(read(qwen, ANSWER, () => lengths[next++ % lengths.length]!))).toEqual(summary(PARTS))
      }),
    )
  })
  test('text and arguments are handed on as they come', () => {
    const parser = new ChatParser(qwen, { newId: ids() })
    expect(parser.push('I look')).toEqual([{ type: 'text', text: 'I look' }])
    expect(parser.push('.\n<tool')).toEqual([{ type: 'text', text: '.' }])
    expect(parser.push('_box> no')).toEqual([{ type: 'text', text: '\n<tool_box> no' }])
    expect(parser.push('\n<tool_call>\n{"name": "look", "arg')).toEqual([
      { type: 'call', index: 0, id: 'id0', name: 'look' },
    ])
    expect(parser.push('uments": {"a": "b')).toEqual([{ type: 'arguments', index: 0, text: '{"a": "b' }])
    expect(parser.push('c"}}\n</tool_call>')).toEqual([{ type: 'arguments', index: 0, text: 'c"}' }])
    expect(parser.finish('stop')).toEqual([{ type: 'finish', reason: 'stop' }])
  })
  test('reasoning that the prompt began', () => {
    const prompt = '<|im_start|>assistant\n<think>\n'
    expect(summary(read(qwen, 'Hm.\n</think>\n\nYes.', undefined, { prompt }))).toEqual({
      reasoning: 'Hm.',
      text: 'Yes.',
      calls: [],
    })
    expect(summary(read(qwen, 'Yes.', undefined, { prompt: '<think>\n\n</think>\n\n' }))).toEqual({
      reasoning: '',
      text: 'Yes.',
      calls: [],
    })
    expect(summary(read(qwen, 'Hm', undefined, { prompt }))).toEqual({ reasoning: 'Hm', text: '', calls: [] })
  })
  test('ends where nothing should end', () => {
    const calls = (answer: string) => summary(read(qwen, answer)).calls
    expect(calls('<tool_call>\n{"name": "look", "arguments": {"a": 1')).toEqual([
      { name: 'look', arguments: '{"a": 1' },
    ])
    expect(summary(read(qwen, '<tool_call>\n{"name": "look"'))).toEqual({
      text: '{"name": "look"',
      reasoning: '',
      calls: [],
    })
    expect(calls('<tool_call>\n{"name": "look"}')).toEqual([{ name: 'look', arguments: '{}' }])
    expect(calls('<tool_call>\n')).toEqual([])
    expect(summary(read(qwen, 'a <tool')).text).toBe('a <tool')
    expect(summary(read(qwen, 'a \n')).text).toBe('a \n')
    expect(summary(read(qwen, '')).text).toBe('')
  })
  test('other orders, other white space, arguments as a text', () => {
    const call = (json: string) => summary(read(qwen, `<tool_call>${json}</tool_call>`)).calls
    const wanted = [{ name: 'look', arguments: '{"a": 1}' }]
    expect(call('{"arguments":  {"a": 1} ,"name":"look"}')).toEqual(wanted)
    expect(call('\n\n{ "name" : "look" , "id": 5, "arguments" : {"a": 1} }\n')).toEqual(wanted)
    expect(call('{"name": "look", "arguments": "{\\"a\\": 1}"}')).toEqual(wanted)
    expect(call('{"name": "look", "arguments": null}')).toEqual([{ name: 'look', arguments: '{}' }])
  })
  test('an object that is no call stays text', () => {
    expect(summary(read(qwen, '<tool_call>{"x": 1}</tool_call>')).text).toContain('{"x": 1}')
    const bare = formatOf(BARE)
    for (const text of ['{"answer": 1}', '{ "names": [] }', '{', '{}', 'Set {"name": "x", "parameters": {}}']) {
      expect(summary(read(bare, text))).toEqual({ text, reasoning: '', calls: [] })
    }
    expect(summary(read(bare, '{"name": "look", "parameters": {"a": 1}}')).calls).toEqual([
      { name: 'look', arguments: '{"a": 1}' },
    ])
  })
  test('values in tags: by the schema, or as they look', () => {
    const answer =
      '<tool_call>\n<function=f>\n<parameter=a>\n12\n</parameter>\n<parameter=b>\n12\n</parameter>\n<parameter=c>\n  two\nlines\n\n</parameter>\n<parameter=d>\n{"x": [True]}\n</parameter>\n</function>\n</tool_call>'
    const tools: Tool[] = [
      {
        type: 'function',
        function: { name: 'f', parameters: { properties: { a: { type: 'string' }, b: { type: 'integer' } } } },
      },
    ]
    const args = (options?: ChatParserOptions) =>
      JSON.parse(summary(read(formatOf(TAGGED), answer, undefined, options)).calls[0]!.arguments)
    expect(args({ tools })).toEqual({ a: '12', b: 12, c: '  two\nlines\n', d: { x: [true] } })
    expect(args()).toEqual({ a: 12, b: 12, c: '  two\nlines\n', d: { x: [true] } })
  })
})

describe('formats that are known beforehand', () => {
  const MARKS: Record<string, string> = {
    'Kimi K2': '<|tool_call_argument_begin|>',
    harmony: '<|channel|> to=functions.',
    'Granite 3.3': '<|tool_call|> <|start_of_role|>',
    LFM2: '<|tool_list_start|>',
  }
  const known = (name: string) =>
    formatOf(`{# ${MARKS[name]} #}{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}`)
  const LOOK = { name: 'get_weather', arguments: '{"place": "Oslo"}' }

  test('Kimi K2: its ids', () => {
    const answer =
      'Wait.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"place": "Oslo"}<|tool_call_end|><|tool_call_begin|>functions.go:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>'
    const parts = read(known('Kimi K2'), answer)
    expect(summary(parts)).toEqual({ text: 'Wait.', reasoning: '', calls: [LOOK, { name: 'go', arguments: '{}' }] })
    expect(parts.filter((part) => part.type === 'call').map((part) => part.id)).toEqual([
      'functions.get_weather:0',
      'functions.go:1',
    ])
  })
  test('harmony: channels', () => {
    const format = known('harmony')
    const reasoned = '<|channel|>analysis<|message|>Hm, to=functions.x?<|end|><|start|>assistant'
    expect(summary(read(format, `${reasoned}<|channel|>final<|message|>Yes, to=functions.y.`))).toEqual({
      reasoning: 'Hm, to=functions.x?',
      text: 'Yes, to=functions.y.',
      calls: [],
    })
    for (const header of [
      '<|channel|>commentary to=functions.get_weather <|constrain|>json',
      ' to=functions.get_weather<|channel|>commentary json',
      '<|channel|>commentary to=functions.get_weather',
    ]) {
      expect(summary(read(format, `${reasoned}${header}<|message|>{"place": "Oslo"}<|call|>`)).calls).toEqual([LOOK])
    }
    expect(
      summary(
        read(
          format,
          `<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather<|message|>{"place": "Oslo"}`,
        ),
      ),
    ).toEqual({ reasoning: '', text: 'I look.', calls: [LOOK] })
  })
  test('Granite 3.3 and LFM2', () => {
    expect(
      summary(
        read(
          known('Granite 3.3'),
          '<|tool_call|>[{"name": "get_weather", "arguments": {"place": "Oslo"}}, {"name": "go", "arguments": {}}]',
        ),
      ).calls,
    ).toEqual([LOOK, { name: 'go', arguments: '{}' }])
    const answer = `<|tool_call_start|>[get_weather(place="Oslo"), f(a='it's, b', c=[1, {'x': None}], d=True)]<|tool_call_end|>Done.`
    const { calls, text } = summary(read(known('LFM2'), answer))
    expect(text).toBe('Done.')
    expect(calls.map(({ name, arguments: args }) => [name, JSON.parse(args)])).toEqual([
      ['get_weather', { place: 'Oslo' }],
      ['f', { a: "it's, b", c: [1, { x: null }], d: true }],
    ])
  })
})

describe('published templates', () => {
  const published = publishedTemplates()
  const text = fc
    .array(
      fc.constantFrom(
        'Oslo',
        "it's",
        '"so"',
        'a\nb',
        '<b>',
        '{x}',
        'é😀',
        '1, 2',
        'back\\slash',
        'tab\tx',
        'true',
        'null',
        '12',
        '[1]',
        'a=b',
        'x) y',
      ),
      { minLength: 1, maxLength: 4 },
    )
    .map((words) => words.join(' '))
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { depthSize: 'small' },
      text,
      fc.integer(),
      fc.boolean(),
      fc.constant(null),
      fc.constantFrom(0.5, -3.25),
      fc.array(tie('value'), { maxLength: 3 }),
      fc.dictionary(fc.constantFrom('k', 'l'), tie('value')),
    ),
  }))
  const call = fc.record({
    name: fc.constantFrom('get_weather', 'f', 'a-b.c', 'Look_up2'),
    args: fc.dictionary(fc.constantFrom('place', 'arg_1', 'n'), value, { maxKeys: 3 }),
  })
  const chat = fc.record({
    calls: fc.array(call, { minLength: 1, maxLength: 3 }),
    said: fc.constantFrom('', 'Some text.'),
    thought: fc.constantFrom(undefined, 'Hm, so\nwell.'),
    cuts: fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 5, maxLength: 50 }),
  })

  const schemaType = (given: unknown) =>
    given === null ? undefined : Array.isArray(given) ? 'array' : Number.isInteger(given) ? 'integer' : typeof given
  const toolOf = ({ name, args }: { name: string; args: Record<string, unknown> }): Tool => ({
    type: 'function',
    function: {
      name,
      description: 'A tool',
      parameters: {
        type: 'object',
        properties: Object.fromEntries(
          Object.entries(args).map(([key, given]) => [key, { type: schemaType(given), description: 'x' }]),
        ),
        required: [],
      },
    },
  })

  /** Templates without calls; Kimi K2's changes a list, which transformers refuses too. */
  const WITHOUT = new Set([
    'google-gemma-2-2b-it.jinja',
    'llama-cpp-rwkv-world.jinja',
    'microsoft-Phi-3.5-mini-instruct.jinja',
    'Kimi-K2-Instruct.jinja',
  ])
  /** Templates that show one call alone, whatever there are. */
  const SINGLE = new Set(['GigaChat3.1-10B-A1.8B.jinja', 'meta-llama-Llama-3.2-3B-Instruct.jinja'])
  /** Templates that write a text beside calls as a turn of its own. */
  const APART = new Set([
    'NVIDIA-Nemotron-Nano-v2.jinja',
    'google-gemma-4-31B-it.jinja',
    'deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja',
  ])
  const USER = 'zq_user'

  describe.skipIf(!published)('30 chats with calls are read back', () => {
    const cases = published?.templates.filter(({ name }) => !WITHOUT.has(name)) ?? []
    test.each(cases)('$name', ({ name, text: template }) => {
      const renderer = new ChatRenderer({ templates: template, specialTokens: SPECIAL_TOKENS })
      const format = chatFormat(renderer, true)
      const behindUser = (messages: Message[], tools: Tool[], addGenerationPrompt: boolean) => {
        const rendered = renderer.render([{ role: 'user', content: USER }, ...messages], {
          tools,
          addGenerationPrompt,
        }).text
        return rendered.slice(rendered.lastIndexOf(USER) + USER.length)
      }
      fc.assert(
        fc.property(chat, ({ calls, said, thought, cuts }) => {
          // A name has one schema.
          const named = calls
            .slice(0, SINGLE.has(name) ? 1 : 3)
            .map((one, index) => ({ ...one, name: one.name + index }))
          const content = APART.has(name) ? '' : said
          const tools = named.map(toolOf)
          const toolCalls = named.map((one, index) => ({
            id: `abcdefgh${index}`,
            function: { name: one.name, arguments: one.args },
          }))
          const whole = behindUser(
            [{ role: 'assistant', content, reasoning: thought, tool_calls: toolCalls }],
            tools,
            false,
          )
          const prompt = behindUser([], tools, true)
          // Where the prompt opens what the turn does not, the answer begins behind the header.
          let start = 0
          while (start < prompt.length && prompt[start] === whole[start]) start++
          const tag = prompt.slice(0, start).search(/<[^<>]*$/)
          if (start < prompt.length && tag !== -1) start = tag
          const plain = behindUser([{ role: 'assistant', content: 'zq_text' }], tools, false)
          const ending = plain.slice(plain.indexOf('zq_text') + 'zq_text'.length).trim()
          let answer = whole.slice(start)
          const end = ending === '' ? -1 : answer.indexOf(ending)
          if (end !== -1) answer = answer.slice(0, end)
          let next = 0
          const parts = read(format, answer, () => cuts[next++ % cuts.length]!, {
            tools,
            prompt: prompt.slice(0, start),
          })
          const got = summary(parts)
          expect(got.calls.map((one) => ({ name: one.name, args: JSON.parse(one.arguments) }))).toEqual(
            JSON.parse(JSON.stringify(named)),
          )
          expect(got.text).toBe(answer.includes('Some text.') ? content : '')
          expect(got.reasoning).toBe(thought !== undefined && answer.includes(thought) ? thought : '')
        }),
        { numRuns: 30, seed: 1 },
      )
    })
  })
})

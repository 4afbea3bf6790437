import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { stepsTaken } from '../../../../lib/text/template/meter.ts'
import { ChatTemplate } from '../../../../lib/text/template/template.ts'
import { GOLDEN_DAY, publishedTemplates, SPECIAL_TOKENS } from '../templates.ts'

const render = (text: string, context: Record<string, unknown> = {}) => new ChatTemplate(text).render(context)
const coded = (code: string, message = '') =>
  expect.objectContaining({ code, message: expect.stringContaining(message) })

describe('as Jinja2 renders', () => {
  const { context, cases } = JSON.parse(readFileSync(new URL('jinja.json', import.meta.url), 'utf8')) as {
    context: Record<string, unknown>
    cases: { template: string; text?: string; error?: string }[]
  }
  const now = new Date(2024, 1, 29, 15, 4, 5)
  test.each(cases)('$template', ({ template, text, error }) => {
    const run = () => new ChatTemplate(template).render(context, { now })
    if (error === undefined) expect(run()).toBe(text)
    else if (/Syntax/.test(error)) expect(run).toThrowError(coded('CHAT_TEMPLATE_INVALID'))
    else expect(run).toThrowError(expect.objectContaining({ code: expect.any(String) }))
  })
})

describe('published templates', () => {
  const published = publishedTemplates()
  describe.skipIf(!published)('as transformers renders', () => {
    for (const { name, text, rendered } of published?.templates ?? []) {
      test.each(Object.entries(rendered))(`${name}: %s`, (conversation, { text: wanted }) => {
        const { messages, tools, options } = published!.conversations[conversation]!
        const context = { messages, tools, documents: null, add_generation_prompt: true, ...SPECIAL_TOKENS, ...options }
        const run = () => new ChatTemplate(text).render(context, { now: GOLDEN_DAY })
        if (wanted !== undefined) expect(run()).toBe(wanted)
        else
          expect(run).toThrowError(
            expect.objectContaining({ code: expect.stringMatching(/^(INVALID_ARGUMENT|CHAT_TEMPLATE_UNSUPPORTED)$/) }),
          )
      })
    }
  })
})

describe('whose fault it is', () => {
  test('content that the template refuses, in its own words', () => {
    expect(() => render("{{ raise_exception('roles must alternate') }}")).toThrowError(
      coded('INVALID_ARGUMENT', 'roles must alternate'),
    )
    expect(() => render('{{ "" + messages[0].content }}', { messages: [{ content: ['a'] }] })).toThrowError(
      coded('INVALID_ARGUMENT', 'can only concatenate str (not "list") to str'),
    )
  })
  test.each([
    ['{% if x %}', "'if' has no 'endif'"],
    ['a\nb {% for x in y %}{% endif %}', "line 2: unexpected 'endif'"],
    ['{{ "a }}', 'unexpected character'],
    ['{{ a b }}', "unexpected 'b'"],
    ['{{ (a, }}', "unexpected '}'"],
    ['{% blink %}', "unknown tag 'blink'"],
    ['{% block a %}{% endblock %}{% block a %}{% endblock %}', "the block 'a' is there twice"],
    ['{% block %}{% endblock %}', "'block' has no name"],
    [`{{ ${'('.repeat(5000)}1${')'.repeat(5000)} }}`, 'brackets'],
    [`${'{% if x %}'.repeat(5000)}${'{% endif %}'.repeat(5000)}`, 'blocks'],
    [`${'x'.repeat(2 ** 20)}x`, 'characters'],
  ])('what does not parse: %.30s', (text, message) => {
    expect(() => new ChatTemplate(text)).toThrowError(coded('CHAT_TEMPLATE_INVALID', message))
  })
  test.each([
    ["{% include 'other.jinja' %}", "the tag 'include'"],
    ["{% import 'other.jinja' as other %}", "the tag 'import'"],
    ["{% extends 'other.jinja' %}", "the tag 'extends'"],
    ['{% autoescape true %}x{% endautoescape %}', "the tag 'autoescape'"],
    ["{{ 'a' | wordwrap(3) }}", "no filter 'wordwrap'"],
    ['{{ [1, 2] | random }}', "the filter 'random' would make another prompt"],
    ["{{ 'a' is prime }}", "no test 'prime'"],
    ['{{ to_yaml(messages) }}', "no function 'to_yaml'"],
    ["{{ 'a'.encode() }}", 'str.encode()'],
    ['{% set x = [] %}{{ x.append(1) }}', 'list.append()'],
    ["{{ '\\N{BULLET}' }}", 'by name'],
  ])('what is not supported: %s', (text, message) => {
    expect(() => render(text)).toThrowError(coded('CHAT_TEMPLATE_UNSUPPORTED', message))
  })
  test('what is not supported and not reached does no harm', () => {
    expect(render('{% if false %}{{ x | wordwrap(3) }}{{ to_yaml() }}{% endif %}ok')).toBe('ok')
  })
})

describe('a template without an end', () => {
  const doubling = "{% set ns = namespace(t='abcd') %}{% for a in range(40) %}{% set ns.t = ns.t + ns.t %}{% endfor %}"
  test.each([
    ['loops', '{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}'],
    ['output', "{% set t = 'x' * 1000000 %}{% for a in range(1000) %}{{ t }}{% endfor %}"],
    ['a text that doubles', doubling],
    [
      'a list that doubles',
      '{% set ns = namespace(l=[1]) %}{% for a in range(40) %}{% set ns.l = ns.l + ns.l %}{% endfor %}',
    ],
    [
      'a list within itself, printed',
      '{% set ns = namespace(l=[1]) %}{% for a in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}',
    ],
    [
      'the same, compared',
      '{% set ns = namespace(l=[1], k=[1]) %}{% for a in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.k = [ns.k, ns.k] %}{% endfor %}{{ ns.l == ns.k }}',
    ],
    [
      'the same, as JSON',
      '{% set ns = namespace(l=[1]) %}{% for a in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}',
    ],
    ['a block that calls itself', '{% block a %}{{ self.a() }}{% endblock %}'],
    ['recursion', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}'],
    [
      'two that call each other',
      '{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}',
    ],
    ['a namespace within itself', '{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}'],
    ['a repeated text', "{{ 'x' * 1000000000 }}"],
    ['a repeated list', '{{ ([1] * 1000000000) | length }}'],
    ['a range', '{{ range(300000000) | length }}'],
    ['a range without steps', '{{ range(1, 2, 0) | length }}'],
    ['a power', '{{ 9 ** 999999999 }}'],
    [
      'powers of powers',
      '{% set ns = namespace(n=3) %}{% for a in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}',
    ],
    ['a wide format', "{{ '%1000000000d' % 1 }}"],
    ['another', "{{ '{:1000000000}'.format(1) }}"],
    ['a centred text', "{{ 'x'.center(1000000000) }}"],
    ['a filled row', '{{ [1] | batch(1000000000, 0) | list | length }}'],
    ['a replacement that grows', "{% set t = 'x' * 4000 %}{{ t | replace('x', t) | replace('x', t) }}"],
    ['a joined text that grows', "{% set t = 'x' * 4000 %}{{ t | join(t) | join(t) }}"],
    ['much reading', "{% set t = 'x' * 10000000 %}{% for a in range(99999) %}{{ 'y' in t }}{% endfor %}"],
    ['much white space', "{% set t = ' ' * 10000000 %}{% for a in range(99999) %}{{ t.strip() }}{% endfor %}"],
    ['a long sum', `{{ ${'1+'.repeat(200_000)}1 }}`],
    ['a long negation', `{{ ${'not '.repeat(200_000)}1 }}`],
    [
      'format fields',
      `{{ ('{0[' ~ '[]' * 100000 ~ '!x}').format(1) }}{% for a in range(99999) %}{% for b in range(999) %}{% endfor %}{% endfor %}`,
    ],
  ])('%s', (_, text) => {
    expect(() => render(text)).toThrowError(
      expect.objectContaining({ code: expect.stringMatching(/^(CHAT_TEMPLATE_INVALID|INVALID_ARGUMENT)$/) }),
    )
  })
  test.each([
    "t.startswith('b', 1)",
    "t.endswith('b', 1)",
    't.startswith(t)',
    "t.find('b', 1)",
    '{t: 1}',
    't in {}',
    '{(t,): 1}',
    't is upper',
    't is lower',
    't.istitle()',
    't | int',
    't | float',
    "[{'k': t}] | groupby('k') | list",
  ])('reading costs by length: %s', (expression) => {
    render(`{% set a = ${expression} %}`, { t: 'a'.repeat(640_000) })
    expect(stepsTaken()).toBeGreaterThan(10_000)
  })
  test('one that is slow to read', () => {
    expect(render(`a${' '.repeat(500_000)}b{{ 1 }}${'{ '.repeat(100_000)}`)).toHaveLength(500_003 + 200_000)
  })
})

test('tuples as keys are told from texts, and by what they hold', () => {
  const dict = "{(1, 'a'): 'x', (1, 'b'): 'y', ((1,), 2): 'z', k: 'w'}"
  // As the tuple's own key is kept.
  const k = '\0[["int","1"],["str","a"]]'
  expect(render(`{% set d = ${dict} %}{{ d[(1, 'a')] }}{{ d[(1, 'b')] }}{{ d[((1,), 2)] }}{{ d[k] }}`, { k })).toBe(
    'xyzw',
  )
})

test('long chats are no hostile ones', () => {
  const template =
    "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content | trim }}{% else %}<a>{{ m.content.split('</think>')[-1].strip() }}{% endif %}{% endfor %}"
  const messages = Array.from({ length: 10_000 }, (_, index) => ({
    role: index % 2 ? 'assistant' : 'user',
    content: 'word '.repeat(100),
  }))
  expect(render(template, { messages })).toHaveLength(10_000 * 502)
})

test("JavaScript's values in a template", () => {
  const context = { a: 1, b: 1.5, c: 1e21, d: [undefined, null], e: { x: undefined, y: 2 }, f: undefined, g: 2 ** 60 }
  expect(render('{{ a }} {{ b }} {{ c }} {{ d }} {{ e }} {{ f is defined }} {{ g }}', context)).toBe(
    "1 1.5 1e+21 [None, None] {'y': 2} False 1152921504606846976",
  )
})

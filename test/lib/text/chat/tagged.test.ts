/** Calls with a tag an argument: what may be written between tags is read back as what the tool's schema lets be. */
import { Ajv2020 } from 'ajv/dist/2020.js'
import { expect, test } from 'vitest'
import { addon } from '../../../../lib/binding.ts'
import { compileTask } from '../../../../lib/constraint/compile.ts'
import { constrainedCalls } from '../../../../lib/text/chat/constrain.ts'
import type { ChatFormat, TaggedCalls } from '../../../../lib/text/chat/format.ts'
import { ChatParser } from '../../../../lib/text/chat/parser.ts'
import type { Tool } from '../../../../lib/text/chat/types.ts'
import { Pieces } from '../../../../lib/text/tokenizer/pieces.ts'

const pieces = Pieces.none()

const TAGGED: TaggedCalls = {
  shape: 'tagged',
  sectionOpen: '',
  sectionClose: '',
  callOpen: '<function=',
  callClose: '</function>',
  separator: '',
  nameClose: '>\n',
  keyOpen: '<parameter=',
  keyClose: '>\n',
  valueClose: '\n</parameter>\n',
  type: undefined,
  textWrap: undefined,
}
const formatOf = (calls: Partial<TaggedCalls>): ChatFormat => ({
  reasoning: undefined,
  textOpen: '',
  textClose: '',
  leadingSpace: false,
  drop: [],
  calls: { ...TAGGED, ...calls },
})
const toolOf = (parameters: Record<string, unknown>): Tool => ({
  type: 'function',
  function: { name: 'f', parameters },
})

function read(format: ChatFormat, tool: Tool, text: string): unknown {
  const parser = new ChatParser(format, { tools: [tool] })
  const parts = [...parser.push(text), ...parser.finish('stop')]
  expect(parts.filter(({ type }) => type === 'call')).toHaveLength(1)
  return JSON.parse(parts.flatMap((part) => (part.type === 'arguments' ? [part.text] : [])).join(''))
}

async function held(format: ChatFormat, tool: Tool): Promise<(text: string) => boolean> {
  const task = constrainedCalls(format, '', { tools: [tool], parallel: false }, pieces)
  const vocabulary = await addon().createVocabulary(new Uint8Array(pieces.shared))
  const native = addon().createConstraint(compileTask(task), vocabulary)
  return (text) => native.accepts(Buffer.from(text))
}

const DEFS = {
  Colour: { enum: ['red', 'dark blue'] },
  Point: { type: 'object', properties: { x: { type: 'number' }, next: { $ref: '#/$defs/Point' } }, required: ['x'] },
}

/** A schema, and what is written of it: with what it is read as, or undefined where it may not be written. */
const cases: [name: string, schema: object, written: Record<string, unknown>][] = [
  ['a text', { type: 'string' }, { '12': '12', null: 'null', '"so"': '"so"', 'a\nb': 'a\nb', '': '' }],
  [
    'a text or null',
    { anyOf: [{ type: 'string' }, { type: 'null' }] },
    { null: null, '12': '12', 'two words': 'two words', '"so"': '"so"', true: 'true', '{"a": 1}': '{"a": 1}' },
  ],
  ['types in a list', { type: ['string', 'integer'] }, { '12': 12, '1.5': undefined, true: 'true', x: 'x' }],
  ['an integer or null', { type: ['integer', 'null'] }, { null: null, '7': 7, seven: undefined, '"7"': undefined }],
  [
    'a text from a list, or a number that is not small',
    { anyOf: [{ enum: ['all', 'none'] }, { type: 'integer', minimum: 10 }] },
    { all: 'all', '10': 10, '9': undefined, some: undefined, 'all ': undefined },
  ],
  ['texts of a pattern', { type: 'string', pattern: '^[a-c]{2,4}$' }, { abc: 'abc', a: undefined, 'abc\n': undefined }],
  [
    'texts of a length',
    { type: 'string', minLength: 2, maxLength: 3 },
    { '😀😀': '😀😀', a: undefined, abcd: undefined },
  ],
  ['a format', { type: 'string', format: 'date' }, { '2024-02-29': '2024-02-29', '2023-02-29': undefined }],
  ['a reference to a list', { $ref: '#/$defs/Colour' }, { 'dark blue': 'dark blue', green: undefined }],
  [
    'a reference to an object that refers to itself',
    { $ref: '#/$defs/Point' },
    { '{"x": 1, "next": {"x": 2}}': { x: 1, next: { x: 2 } }, '{"next": {"x": 2}}': undefined, point: undefined },
  ],
  ['anything', {}, { '12': 12, 'two words': 'two words', '[1]': [1], null: null }],
  ['anything, described', { description: 'What it is' }, { '12': 12, 'two words': 'two words', true: true }],
]

test.each(cases)('%s', async (_, schema, written) => {
  const parameters = { type: 'object', properties: { k: schema }, required: ['k'], $defs: DEFS }
  const tool = toolOf(parameters)
  const format = formatOf({})
  const is = await held(format, tool)
  const validate = new Ajv2020({ strict: false, logger: false, formats: { date: true } }).compile(parameters)
  for (const [text, value] of Object.entries(written)) {
    const call = `<function=f>\n<parameter=k>\n${text}\n</parameter>\n</function>`
    expect(is(call), text).toBe(value !== undefined)
    if (value === undefined) continue
    expect(read(format, tool, call)).toEqual({ k: value })
    expect(validate({ k: value }), JSON.stringify(value)).toBe(true)
  }
})

test('a text does not hold the tag that ends it, however that is begun', async () => {
  const tool = toolOf({ type: 'object', properties: { k: { type: 'string' } }, required: ['k'] })
  const is = await held(formatOf({}), tool)
  const call = (text: string) => `<function=f>\n<parameter=k>\n${text}\n</parameter>\n</function>`
  expect(is(call('a < b</param> c'))).toBe(true)
  expect(is(call('a</parameter> b'))).toBe(false)
  // As texts that are wrapped, too.
  const wrapped = formatOf({ textWrap: { open: '<![CDATA[', close: ']]>' } })
  const isWrapped = await held(wrapped, tool)
  expect(isWrapped(call('<![CDATA[a]] > <b>]]>'))).toBe(true)
  expect(isWrapped(call('<![CDATA[a]]> b]]>'))).toBe(false)
  expect(isWrapped(call('<![CDATA[a</parameter>]]>'))).toBe(false)
  expect(read(wrapped, tool, call('<![CDATA[12]]>'))).toEqual({ k: '12' })
})

test('tags that say the type: of texts, and of all others', async () => {
  const properties = { a: { type: ['string', 'integer'] }, b: { type: ['string', 'integer'] } }
  const tool = toolOf({ type: 'object', properties, required: ['a', 'b'] })
  const format = formatOf({ keyClose: ' text=', type: { text: 'yes', close: '>\n', other: 'no' } })
  const is = await held(format, tool)
  const call = (a: string, b: string) =>
    `<function=f>\n<parameter=a text=${a}\n</parameter>\n<parameter=b text=${b}\n</parameter>\n</function>`
  expect(is(call('yes>\n12', 'no>\n12'))).toBe(true)
  expect(read(format, tool, call('yes>\n12', 'no>\n12'))).toEqual({ a: '12', b: 12 })
  expect(is(call('integer>\n12', 'no>\n12'))).toBe(false)
  expect(is(call('no>\ntwelve', 'no>\n12'))).toBe(false)
})

test('arguments that a schema puts together, requires alone, or lets be beside the named ones', async () => {
  const format = formatOf({})
  const one = (key: string, value: string) => `<parameter=${key}>\n${value}\n</parameter>\n`
  const call = (...members: string[]) => `<function=f>\n${members.join('')}</function>`
  const joined = toolOf({
    allOf: [{ $ref: '#/$defs/Base' }, { properties: { z: { type: 'integer' } }, required: ['z'] }],
    $defs: { Base: { properties: { name: { type: 'string' } }, required: ['name', 'more'] } },
  })
  const is = await held(format, joined)
  expect(is(call(one('name', 'x'), one('z', '1'), one('more', '[2]')))).toBe(true)
  expect(is(call(one('name', 'x'), one('z', '1')))).toBe(false)
  expect(is(call(one('name', 'x'), one('z', 'y'), one('more', '2')))).toBe(false)

  const open = toolOf({ properties: { q: { type: 'string' } }, additionalProperties: { type: 'integer' } })
  const isOpen = await held(format, open)
  expect(isOpen(call(one('q', 'x'), one('n', '1'), one('m', '2')))).toBe(true)
  expect(isOpen(call())).toBe(true)
  expect(isOpen(call(one('n', 'x')))).toBe(false)
  expect(isOpen(call(one('q', 'x'), one('q', '1')))).toBe(false)
  expect(read(format, open, call(one('q', '5'), one('n', '1')))).toEqual({ q: '5', n: 1 })
})

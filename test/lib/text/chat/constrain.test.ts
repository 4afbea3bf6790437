/** Answers that must call tools, or be of a constraint behind their reasoning: what may be written is what is read back. */
import { expect, test } from 'vitest'
import { addon } from '../../../../lib/binding.ts'
import { bytesOf, compileTask } from '../../../../lib/constraint/compile.ts'
import type { Task } from '../../../../lib/constraint/task.ts'
import { constrainedCalls, constrainedText, offeredCalls } from '../../../../lib/text/chat/constrain.ts'
import type { ChatFormat } from '../../../../lib/text/chat/format.ts'
import { ChatParser } from '../../../../lib/text/chat/parser.ts'
import type { Tool } from '../../../../lib/text/chat/types.ts'
import { makeTable, Pieces } from '../../../../lib/text/tokenizer/pieces.ts'

const { rules } = Pieces.none()
const entry = (id: number, text: string, special = false) => ({ id, text, bytes: Buffer.from(text), special })
const pieces = new Pieces(makeTable([entry(0, 'a'), entry(1, '<|end|>', true), entry(2, '[CALLS]', true)]), rules)

async function accepts(task: Task): Promise<(text: string) => boolean> {
  const vocabulary = await addon().createVocabulary(new Uint8Array(pieces.shared))
  const native = addon().createConstraint(compileTask(task), vocabulary)
  // Special tokens are themselves.
  return (text) =>
    native.accepts(
      Buffer.from(text.split(/(\[CALLS\])/).flatMap((part) => bytesOf([part === '[CALLS]' ? { token: 2 } : part]))),
    )
}

const tool = (name: string): Tool => ({
  type: 'function',
  function: {
    name,
    parameters: {
      type: 'object',
      properties: { city: { type: 'string' }, days: { type: 'integer', minimum: 1 } },
      required: ['city'],
    },
  },
})
const tools = [tool('weather'), tool('tides')]
const around = { sectionOpen: '', sectionClose: '', callOpen: '<tool_call>', callClose: '</tool_call>', separator: '' }
const base: ChatFormat = {
  reasoning: { open: '<think>', close: '</think>' },
  textOpen: '',
  textClose: '',
  leadingSpace: false,
  drop: [],
  calls: undefined,
}
const hermes: ChatFormat = {
  ...base,
  calls: { ...around, shape: 'object', nameKey: 'name', argumentsKey: 'arguments', idKey: undefined },
}

function callsOf(format: ChatFormat, text: string) {
  const parser = new ChatParser(format, { tools })
  const parts = [...parser.push(text), ...parser.finish('stop')]
  return parts.flatMap((part) => (part.type === 'call' ? [part.name] : []))
}

const CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'

test('a call that must be, of objects: only the tools, with arguments of their schemas', async () => {
  const one = await accepts(constrainedCalls(hermes, '', { tools, parallel: false }, pieces))
  const many = await accepts(constrainedCalls(hermes, '', { tools, parallel: true }, pieces))
  const other = CALL.replace('weather', 'tides').replace(', "days": 2', '')
  for (const text of [CALL, other, `<think>Well.</think>\n\n${CALL}`]) {
    expect(one(text), text).toBe(true)
    expect(many(text), text).toBe(true)
    expect(callsOf(hermes, text)).toHaveLength(1)
  }
  expect(one(`${CALL}\n${other}`)).toBe(false)
  expect(many(`${CALL}\n${other}`)).toBe(true)
  expect(callsOf(hermes, `${CALL}\n${other}`)).toEqual(['weather', 'tides'])
  for (const text of [
    '',
    'Hello',
    CALL.replace('weather', 'x'),
    CALL.replace('"Oslo"', '1'),
    CALL.replace('2', '0'),
    `Sure. ${CALL}`,
    CALL.slice(0, -5),
  ]) {
    expect(many(text), text).toBe(false)
  }
  const named = await accepts(constrainedCalls(hermes, '', { tools: [tools[1]!], parallel: false }, pieces))
  expect(named(CALL)).toBe(false)
  expect(named(other)).toBe(true)
})

test('a call that must be, of a name and JSON behind a special token', async () => {
  const format: ChatFormat = {
    ...base,
    reasoning: undefined,
    calls: {
      ...around,
      callOpen: '[CALLS]',
      callClose: '',
      shape: 'name+json',
      nameClose: '[ARGS]',
      idClose: undefined,
      syntax: 'json',
    },
  }
  const is = await accepts(constrainedCalls(format, '', { tools, parallel: true }, pieces))
  expect(is('[CALLS]weather[ARGS]{"city": "Oslo"}[CALLS]tides[ARGS]{"city": "B", "days": 3}')).toBe(true)
  expect(is('[CALLS]weather[ARGS]{"days": 3}')).toBe(false)
  expect(is('weather[ARGS]{"city": "Oslo"}')).toBe(false)
})

test('a call that must be, of tags', async () => {
  const format: ChatFormat = {
    ...base,
    calls: {
      ...around,
      callOpen: '<tool_call>\n<function=',
      callClose: '</function>\n</tool_call>',
      shape: 'tagged',
      nameClose: '>',
      keyOpen: '<parameter=',
      keyClose: '>\n',
      type: undefined,
      valueClose: '\n</parameter>',
      textWrap: undefined,
    },
  }
  const is = await accepts(constrainedCalls(format, '', { tools, parallel: false }, pieces))
  const text = (days: string) =>
    `<tool_call>\n<function=weather>\n<parameter=city>\nOslo "by" night\n</parameter>\n<parameter=days>\n${days}\n</parameter>\n</function>\n</tool_call>`
  expect(is(text('2'))).toBe(true)
  expect(callsOf(format, text('2'))).toEqual(['weather'])
  expect(is(text('two'))).toBe(false)
})

test('a constraint begins behind the reasoning, whoever began that', async () => {
  const body = { type: 'choice', texts: ['yes', 'no'] } as const
  const fresh = await accepts(constrainedText(hermes, '<|assistant|>\n', body, pieces))
  const begun = await accepts(constrainedText(hermes, '<|assistant|>\n<think>\n', body, pieces))
  const done = await accepts(constrainedText(hermes, '<think>\n\n</think>\n\n', body, pieces))
  expect([fresh('yes'), begun('yes'), done('yes')]).toEqual([true, false, true])
  expect([fresh('<think>a<b</think>\n\nno'), begun('a </thin k></think>no'), done('<think>a</think>no')]).toEqual([
    true,
    true,
    false,
  ])
  expect(begun('a</think>\nmaybe')).toBe(false)
})

test('what a format does not say cannot be made to be', () => {
  expect(() => constrainedCalls(base, '', { tools, parallel: true }, pieces)).toThrow(
    expect.objectContaining({
      code: 'CONSTRAINT_UNSUPPORTED',
      remedy: "take a model whose chat template has tools, or toolChoice: 'auto'",
    }),
  )
})

test('calls that may be: any text, but behind the opening of a call one of the tools with its arguments', async () => {
  const is = await accepts(offeredCalls(hermes, '', { tools, parallel: true }, pieces)!)
  const thought = '<think>I could <tool_call>ask</tool_call> or not.</think>'
  for (const text of [
    '',
    'Hello, a < b and <tool_ are fine.',
    CALL,
    `Sure: ${CALL}`,
    `${CALL}\n${CALL.replace('weather', 'tides')}`,
    `${thought}\n\nWell.`,
    `${thought}\n\n${CALL}`,
  ]) {
    expect(is(text), text).toBe(true)
  }
  for (const text of [
    CALL.slice(0, -5),
    `Sure: ${CALL.replace('weather', 'x')}`,
    `Sure: ${CALL.replace('"Oslo"', '1')}`,
    `${CALL} and <tool_call>`,
    `${thought} ${CALL.replace('"days": 2', '"days": "2"')}`,
  ]) {
    expect(is(text), text).toBe(false)
  }
})

test('calls that may be, whose opening has white space in it', async () => {
  const tagged: ChatFormat = {
    ...base,
    reasoning: undefined,
    calls: {
      ...around,
      callOpen: '<tool_call>\n<function=',
      callClose: '</function>\n</tool_call>',
      shape: 'tagged',
      nameClose: '>',
      keyOpen: '<parameter=',
      keyClose: '>\n',
      type: undefined,
      valueClose: '\n</parameter>',
      textWrap: undefined,
    },
  }
  const is = await accepts(offeredCalls(tagged, '', { tools, parallel: true }, pieces)!)
  const call = (name: string, space: string) =>
    `<tool_call>${space}<function=${name}>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>`
  for (const space of ['', '\n', ' \n ']) {
    expect(is(`Now ${call('weather', space)}`), space).toBe(true)
    expect(is(`Now ${call('whether', space)}`), space).toBe(false)
  }
  expect(is('<tool_call> is what I would write, then <function')).toBe(true)
})

test('calls that nothing tells from a text are not held to', () => {
  const bare = { ...hermes.calls!, callOpen: '', callClose: '' }
  for (const calls of [undefined, bare, { ...hermes.calls!, atStart: true }]) {
    expect(offeredCalls({ ...hermes, calls }, '', { tools, parallel: true }, pieces)).toBeUndefined()
  }
})

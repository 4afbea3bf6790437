/** Tools of which some cannot be held to: the others' calls still are, and theirs take any object. */
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loadTokenizer } from '../../lib/index.ts'
import { offeredConstraint } from '../../lib/model/offered.ts'
import type { ChatFormat } from '../../lib/text/chat/format.ts'
import type { Tool } from '../../lib/text/chat/types.ts'
import { MODELS } from '../models.ts'

let tokenizer: Awaited<ReturnType<typeof loadTokenizer>>
beforeAll(async () => {
  tokenizer = await loadTokenizer(join(MODELS, 'demo'))
})
afterAll(() => tokenizer.close())

const format: ChatFormat = {
  reasoning: undefined,
  textOpen: '',
  textClose: '',
  leadingSpace: false,
  drop: [],
  calls: {
    shape: 'object',
    sectionOpen: '',
    sectionClose: '',
    callOpen: '<call>',
    callClose: '</call>',
    separator: '',
    atStart: false,
    nameKey: 'name',
    argumentsKey: 'arguments',
  } as ChatFormat['calls'],
}
const tool = (name: string, properties: object, more: object = {}): Tool => ({
  type: 'function',
  function: { name, parameters: { type: 'object', properties, required: Object.keys(properties), ...more } },
})
const add = tool('add', { a: { type: 'integer' } })
const sort = tool('sort', { items: { type: 'array', uniqueItems: true } })

const of = (tools: readonly Tool[], own = format, promptEnd = '') =>
  offeredConstraint(own, promptEnd, { tools, parallel: true }, tokenizer.pieces, new AbortController().signal)
const call = (name: string, args: string) => `<call>{"name":"${name}","arguments":${args}}</call>`

test('text is free, calls are what the tools take', async () => {
  const constraint = (await of([add]))!
  const accepts = (text: string) => constraint.accepts(Buffer.from(text))
  expect(accepts('Anything < at all.')).toBe(true)
  expect(accepts(`One: ${call('add', '{"a":1}')}${call('add', '{"a":2}')}`)).toBe(true)
  expect(accepts(call('add', '{"a":"1"}'))).toBe(false)
  expect(accepts(call('other', '{}'))).toBe(false)
})

test('a schema that is not held to takes any object, beside others that are', async () => {
  const constraint = (await of([add, sort]))!
  const accepts = (text: string) => constraint.accepts(Buffer.from(text))
  expect(accepts(call('sort', '{"items":[1,1],"more":{}}'))).toBe(true)
  expect(accepts(call('sort', '[1]'))).toBe(false)
  expect(accepts(call('add', '{"a":1}'))).toBe(true)
  expect(accepts(call('add', '{"a":1,"b":2}'))).toBe(false)
})

test('where nothing tells a call from text, answers are free', async () => {
  expect(await of([add], { ...format, calls: undefined })).toBeUndefined()
  expect(await of([add], format, 'Answer: <call>')).toBeUndefined()
})

test('an abort is no refusal', async () => {
  const controller = new AbortController()
  controller.abort(new Error('enough'))
  const asked = offeredConstraint(
    format,
    '',
    { tools: [tool('other', { b: { type: 'null' } })], parallel: true },
    tokenizer.pieces,
    controller.signal,
  )
  await expect(asked).rejects.toThrow()
})

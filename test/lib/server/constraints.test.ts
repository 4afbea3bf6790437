/** What requests ask of answers' forms becomes the option `constraint`; whether answers keep to it is tested with that option. */
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { answerOptionsOf, answerShape } from '../../../lib/server/answer/options.ts'
import { parseBody } from '../../../lib/server/http/body.ts'
import { chatSchema, chatTask } from '../../../lib/server/openai/chat_request.ts'

const schema = { type: 'object', properties: { place: { type: 'string' } } }
const log = { debug() {} }
const constraintOf = (body: object) => answerOptionsOf(parseBody(z.object(answerShape), body, log)).constraint

test.each([
  [{ response_format: { type: 'text' } }, undefined],
  [{ response_format: { type: 'json_object' } }, { json: true }],
  [{ response_format: { type: 'json_object', schema } }, { schema }],
  [{ response_format: { type: 'json_schema', json_schema: { name: 'a', schema, strict: true } } }, { schema }],
  [{ response_format: { type: 'json_schema', json_schema: { name: 'a' } } }, { json: true }],
  [{ guided_json: schema }, { schema }],
  [{ guided_json: JSON.stringify(schema) }, { schema }],
  [{ guided_regex: '[a-z]+' }, { regex: '[a-z]+' }],
  [{ guided_choice: ['yes', 'no'] }, { choice: ['yes', 'no'] }],
  [{ guided_grammar: 'root ::= "a"' }, { grammar: 'root ::= "a"' }],
  [{ structured_outputs: { json: schema } }, { schema }],
  [{ structured_outputs: { regex: 'a' } }, { regex: 'a' }],
  [{ structured_outputs: { choice: ['a'] } }, { choice: ['a'] }],
  [{ structured_outputs: { grammar: 'root ::= "a"' } }, { grammar: 'root ::= "a"' }],
])('%j', (body, constraint) => {
  expect(constraintOf(body)).toEqual(constraint)
})

test.each([
  [{ guided_json: 'not JSON' }, 'guided_json'],
  [{ guided_regex: 'a', guided_choice: ['a'] }, 'guided_choice'],
  [{ response_format: { type: 'json_object' }, guided_regex: 'a' }, 'guided_regex'],
])('%j is refused by the name of %s', (body, param) => {
  expect(() => constraintOf(body)).toThrow(expect.objectContaining({ status: 400, param }))
})

describe('calls that are forced', () => {
  const tools = [{ type: 'function', function: { name: 'a', parameters: schema } }]
  const choiceOf = (tool_choice: unknown) =>
    chatTask(parseBody(chatSchema, { messages: [{ role: 'user', content: 'a' }], tools, tool_choice }, log)).options
      .toolChoice

  test('become the options of chat()', () => {
    expect(choiceOf('required')).toBe('required')
    expect(choiceOf({ type: 'function', function: { name: 'a' } })).toEqual({ name: 'a' })
    expect(choiceOf(undefined)).toBe(undefined)
  })
})

/** Reasoning and calls of tools through each API, by its official client, the model's words being the test's. */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import Anthropic from '@anthropic-ai/sdk'
import { generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai'
import OpenAI from 'openai'
import { beforeAll, describe, expect, test, vi } from 'vitest'
import type { Server } from '../../../lib/server/index.ts'
import type { FakeAddon } from '../model/fake_addon.ts'
import { hasBrowser, openPage } from './browser.ts'
import { expectValid } from './openai_schema.ts'
import { type Played, playedModel } from './played.ts'
import { eventsOf, post, start } from './server.ts'

const fake = vi.hoisted(() => ({ addon: undefined as unknown as FakeAddon }))
vi.mock('../../../lib/binding.ts', async (original) => {
  const { FakeAddon } = await import('../model/fake_addon.ts')
  fake.addon = new FakeAddon()
  return { ...(await original<object>()), addon: () => fake.addon }
})

let played: Played
let server: Server
beforeAll(async () => {
  played = await playedModel(fake.addon)
  server = await start({ models: { qwen: played.model } })
})

const THOUGHT = 'I must look.'
const TEXT = 'Let me look.'
const call = (place: string) => `<tool_call>\n{"name": "get_weather", "arguments": {"place": "${place}"}}\n</tool_call>`
const ANSWER = `<think>\n${THOUGHT}\n</think>\n\n${TEXT}\n${call('Oslo')}\n${call('Rome')}`
const PARAMETERS = { type: 'object' as const, properties: { place: { type: 'string' } }, required: ['place'] }
const TOOLS = [
  { type: 'function' as const, function: { name: 'get_weather', description: 'The weather', parameters: PARAMETERS } },
]
const USER = { role: 'user' as const, content: 'How is the weather?' }

describe('openai, chat', () => {
  const client = () => new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })

  test('calls at once, and streamed, are the same', async () => {
    const request = { model: 'qwen', messages: [USER], tools: TOOLS }
    played.say(ANSWER)
    const whole = await client().chat.completions.create(request)
    expectValid('CreateChatCompletionResponse', whole)
    const { message, finish_reason } = whole.choices[0]!
    expect(finish_reason).toBe('tool_calls')
    expect(message.content!.trim()).toBe(TEXT)
    expect((message as { reasoning_content?: string }).reasoning_content!.trim()).toBe(THOUGHT)
    expect(message.tool_calls!.map((one) => one.type === 'function' && JSON.parse(one.function.arguments))).toEqual([
      { place: 'Oslo' },
      { place: 'Rome' },
    ])
    expect(played.prompt()).toContain('"name": "get_weather"')
    played.say(ANSWER)
    const final = await client().chat.completions.stream(request).finalChatCompletion()
    const ids = /"id":"[^"]*"/g
    const calls = JSON.stringify(final.choices[0]!.message.tool_calls).replace(ids, '')
    expect(JSON.parse(calls.replaceAll('{,', '{'))).toMatchObject(
      JSON.parse(JSON.stringify(message.tool_calls).replace(ids, '').replaceAll('{,', '{')),
    )
    expect(final.choices[0]!.message.content).toBe(message.content)
  })

  test('the next turn brings the calls and their results', async () => {
    played.say('It is warm.')
    const calls = [
      { id: 'a1', type: 'function' as const, function: { name: 'get_weather', arguments: '{"place":"Oslo"}' } },
    ]
    const { choices } = await client().chat.completions.create({
      model: 'qwen',
      tools: TOOLS,
      messages: [
        USER,
        { role: 'assistant', content: null, tool_calls: calls },
        { role: 'tool', tool_call_id: 'a1', content: '21 degrees' },
      ],
    })
    expect(choices[0]!.message.content).toBe('It is warm.')
    expect(choices[0]!.finish_reason).toBe('stop')
    expect(played.prompt()).toContain('<tool_response>\n21 degrees\n</tool_response>')
    expect(played.prompt()).toContain('{"name": "get_weather", "arguments": {"place": "Oslo"}}')
  })

  test("tool_choice 'none' shows no tools, allowed_tools the allowed ones", async () => {
    played.say('Hello.')
    await client().chat.completions.create({ model: 'qwen', messages: [USER], tools: TOOLS, tool_choice: 'none' })
    expect(played.prompt()).not.toContain('get_weather')
    const other = { ...TOOLS[0]!, function: { ...TOOLS[0]!.function, name: 'other_tool' } }
    played.say('Hello.')
    const allowed = { mode: 'auto' as const, tools: [{ type: 'function', function: { name: 'other_tool' } }] }
    await client().chat.completions.create({
      model: 'qwen',
      messages: [USER],
      tools: [...TOOLS, other],
      tool_choice: { type: 'allowed_tools', allowed_tools: allowed },
    })
    expect(played.prompt()).not.toContain('get_weather')
    expect(played.prompt()).toContain('other_tool')
  })

  test('template variables, and an effort of none, reach the template', async () => {
    for (const extra of [{ chat_template_kwargs: { enable_thinking: false } }, { reasoning_effort: 'none' }]) {
      played.say('Hello.')
      const { status } = await post(server, '/v1/chat/completions', { model: 'qwen', messages: [USER], ...extra })
      expect(status).toBe(200)
      expect(played.prompt()).toMatch(/<think>\n\n<\/think>\n\n$/)
    }
  })

  test.each([
    [{ tools: [{ type: 'custom', custom: { name: 'a' } }] }, 'tools[0].type'],
    [{ tools: TOOLS, tool_choice: { type: 'function', function: { name: 'none' } } }, 'tool_choice'],
    [{ tool_choice: 'required' }, 'tool_choice'],
    [{ tools: 'all' }, 'tools'],
    [{ functions: [] }, 'functions'],
    [{ modalities: ['text', 'audio'] }, 'modalities'],
  ])('%j is refused by the name of %s', async (extra, param) => {
    const { status, json } = await post(server, '/v1/chat/completions', { model: 'qwen', messages: [USER], ...extra })
    expect({ status, param: json.error.param }).toEqual({ status: 400, param })
    expectValid('ErrorResponse', json)
  })
})

describe('the AI SDK', () => {
  const model = () => createOpenAICompatible({ name: 'millrace', baseURL: `${server.url}/v1` })('qwen')
  const tools = {
    get_weather: tool({
      inputSchema: jsonSchema<{ place: string }>(PARAMETERS),
      execute: async ({ place }) => `21 degrees in ${place}`,
    }),
  }

  test('generateText calls the tool and goes on', async () => {
    played.say(`<think>\n${THOUGHT}\n</think>\n\n${call('Oslo')}`)
    played.say('It is warm in Oslo.')
    const result = await generateText({ model: model(), prompt: 'Weather?', tools, stopWhen: stepCountIs(3) })
    expect(result.text).toBe('It is warm in Oslo.')
    expect(result.steps[0]!.reasoningText!.trim()).toBe(THOUGHT)
    expect(result.steps[0]!.toolResults[0]!.output).toBe('21 degrees in Oslo')
    expect(played.prompt()).toContain('21 degrees in Oslo')
  })

  test('streamText has reasoning, text and calls', async () => {
    played.say(ANSWER)
    const result = streamText({ model: model(), prompt: 'Weather?', tools })
    const kinds: string[] = []
    for await (const part of result.fullStream) kinds.push(part.type)
    expect(await result.text).toContain(TEXT)
    expect((await result.reasoningText)!.trim()).toBe(THOUGHT)
    expect((await result.toolCalls).map(({ input }) => input)).toEqual([{ place: 'Oslo' }, { place: 'Rome' }])
    expect(kinds).toContain('reasoning-delta')
    expect(kinds).not.toContain('error')
  })
})

describe('anthropic', () => {
  const client = () => new Anthropic({ baseURL: server.url, apiKey: 'none', maxRetries: 0 })
  const tools = [{ name: 'get_weather', description: 'The weather', input_schema: PARAMETERS }]
  const request = { model: 'qwen', max_tokens: 200, messages: [USER], tools, system: 'Be brief.' }
  const plain = (content: Anthropic.ContentBlock[]) =>
    content.map((block) =>
      block.type === 'tool_use'
        ? block.input
        : block.type === 'thinking'
          ? block.thinking.trim()
          : (block as Anthropic.TextBlock).text.trim(),
    )
  const expected = [THOUGHT, TEXT, { place: 'Oslo' }, { place: 'Rome' }]

  test('blocks at once, and streamed, are the same', async () => {
    played.say(ANSWER)
    const whole = await client().messages.create(request)
    expect(whole.stop_reason).toBe('tool_use')
    expect(whole.content.map(({ type }) => type)).toEqual(['thinking', 'text', 'tool_use', 'tool_use'])
    expect(plain(whole.content)).toEqual(expected)
    expect(played.prompt()).toContain('<|im_start|>system\nBe brief.')
    played.say(ANSWER)
    const streamed = await client().messages.stream(request).finalMessage()
    expect(plain(streamed.content)).toEqual(expected)
    expect(streamed.stop_reason).toBe('tool_use')
    expect(streamed.usage).toMatchObject({
      input_tokens: whole.usage.input_tokens,
      output_tokens: whole.usage.output_tokens,
    })
  })

  test('results of tools come before what the user says besides', async () => {
    played.say('It is warm.')
    const answer = await client().messages.create({
      ...request,
      messages: [
        USER,
        {
          role: 'assistant',
          content: [
            { type: 'thinking', thinking: THOUGHT, signature: '' },
            { type: 'tool_use', id: 'a1', name: 'get_weather', input: { place: 'Oslo' } },
          ],
        },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'a1', content: [{ type: 'text', text: '21 degrees' }] },
            { type: 'text', text: 'Well?' },
          ],
        },
      ],
    })
    expect(plain(answer.content)).toEqual(['It is warm.'])
    expect(answer.stop_reason).toBe('end_turn')
    expect(played.prompt()).toMatch(/<think>\nI must look\.\n<\/think>[\s\S]*21 degrees[\s\S]*user\nWell\?/)
  })

  test('count_tokens is what the prompt has', async () => {
    const counted = await client().messages.countTokens({ model: 'qwen', messages: [USER], tools, system: 'Be brief.' })
    played.say('Hello.')
    const { usage } = await client().messages.create(request)
    expect(counted.input_tokens).toBe(usage.input_tokens)
  })

  test('errors are in its own shape', async () => {
    await expect(client().messages.create({ ...request, model: 'none' })).rejects.toThrow(Anthropic.NotFoundError)
    const wrong = { ...request, messages: [{ role: 'user' as const, content: [{ type: 'image' }] }] }
    await expect(client().messages.create(wrong as never)).rejects.toThrow(Anthropic.BadRequestError)
    const { json } = await post(server, '/v1/messages', {})
    expect(json).toMatchObject({ type: 'error', error: { type: 'invalid_request_error' } })
  })
})

describe('openai, responses', () => {
  const client = () => new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
  const tools = [{ type: 'function' as const, name: 'get_weather', parameters: PARAMETERS, strict: false }]
  const request = { model: 'qwen', input: 'How is the weather?', instructions: 'Be brief.', tools }

  test('items at once, and streamed, are the same', async () => {
    played.say(ANSWER)
    const whole = await client().responses.create(request)
    expect(whole.output.map(({ type }) => type)).toEqual(['reasoning', 'message', 'function_call', 'function_call'])
    expect(whole.output_text.trim()).toBe(TEXT)
    expect(whole.status).toBe('completed')
    expect((whole as { store?: boolean }).store).toBe(false)
    expectValid('Response', { ...whole, output_text: undefined })
    played.say(ANSWER)
    const { text } = await post(server, '/v1/responses', { ...request, stream: true, store: true })
    const events = eventsOf(text)
    for (const event of events) expectValid('ResponseStreamEvent', event)
    expect(events.map(({ sequence_number: number }) => number)).toEqual(events.map((_, index) => index))
    const { type, response } = events.at(-1)
    expect(type).toBe('response.completed')
    const stripped = (items: object[]) => JSON.stringify(items).replace(/"(id|call_id)":"[^"]*"/g, '')
    expect(stripped(response.output)).toBe(stripped(whole.output))
    const deltas = events.filter((event) => event.type === 'response.function_call_arguments.delta')
    expect(
      deltas
        .filter((event) => event.output_index === 2)
        .map((event) => event.delta)
        .join(''),
    ).toBe('{"place": "Oslo"}')
    expect(response.store).toBe(false)
  })

  test('what was answered can be sent back', async () => {
    played.say(ANSWER)
    const first = await client().responses.create(request)
    const calls = first.output.filter((item) => item.type === 'function_call')
    played.say('It is warm.')
    const second = await client().responses.create({
      model: 'qwen',
      tools,
      input: [
        { role: 'user', content: 'How is the weather?' },
        ...(first.output as OpenAI.Responses.ResponseInputItem[]),
        ...calls.map(({ call_id }) => ({ type: 'function_call_output' as const, call_id, output: '21 degrees' })),
      ],
    })
    expect(second.output_text).toBe('It is warm.')
    const prompt = played.prompt()
    expect(prompt.match(/<\|im_start\|>assistant/g)).toHaveLength(2)
    expect(prompt.match(/21 degrees/g)).toHaveLength(2)
    expect(prompt).toContain(THOUGHT)
  })

  test('an answer that was cut is incomplete', async () => {
    played.say('It is', 'length')
    const cut = await client().responses.create({ model: 'qwen', input: 'Hi' })
    expect(cut).toMatchObject({ status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } })
    expectValid('Response', { ...cut, output_text: undefined })
  })

  test.each([
    ['previous_response_id', 'resp_1'],
    ['conversation', 'conv_1'],
    ['background', true],
    ['input', [{ type: 'item_reference', id: 'a' }]],
    ['tools', [{ type: 'web_search' }]],
  ])('%s is refused by name', async (field, value) => {
    const { status, json } = await post(server, '/v1/responses', { model: 'qwen', input: 'Hi', [field]: value })
    expect(status).toBe(400)
    expect(json.error.param).toContain(field)
  })
})

describe.skipIf(!hasBrowser)('the page', () => {
  test('reasoning and the call are shown, the result goes back', async () => {
    const { page, problems, picture } = await openPage(server.url)
    played.say(
      '<think>\nI must look.\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": {"place": "Oslo"}}\n</tool_call>',
    )
    await page.locator('details > summary', { hasText: 'Settings' }).click()
    const tool = { type: 'function', function: { name: 'get_weather', parameters: { type: 'object', properties: {} } } }
    await page.getByLabel(/^Tools/).fill(JSON.stringify([tool]))
    await page.getByLabel(/^Message/).fill('How is the weather in Oslo?')
    await page.keyboard.press('Enter')
    const result = page.getByLabel('What get_weather gave')
    await result.waitFor()
    expect(await page.locator('.thought pre').textContent()).toContain('I must look.')
    expect(await page.locator('.call pre').textContent()).toBe('{"place": "Oslo"}')
    await picture('call')
    played.say('It is 21 degrees in Oslo.')
    await result.fill('21 degrees')
    await page.keyboard.press('Enter')
    await expect
      .poll(() => page.locator('.turn.assistant .text').last().textContent())
      .toBe('It is 21 degrees in Oslo.')
    expect(played.prompt()).toContain('21 degrees')
    expect(problems).toEqual([])
    await page.close()
  })
})

test('a GPU that is lost is 503, and /ready says so from then on', async () => {
  const other = await start({ models: { qwen: played.model } })
  expect((await fetch(`${other.url}/ready`)).status).toBe(200)
  played.native.refusal = Object.assign(new Error('a fault'), { code: 'GPU_LOST' })
  const { status, json } = await post(other, '/v1/chat/completions', { model: 'qwen', messages: [USER] })
  played.native.refusal = undefined
  expect({ status, code: json.error.code }).toEqual({ status: 503, code: 'GPU_LOST' })
  expect((await fetch(`${other.url}/ready`)).status).toBe(503)
  expect((await fetch(`${other.url}/health`)).status).toBe(200)
})

test('a stream has a comment where nothing else comes', async () => {
  const slow = await start({ models: { qwen: played.model }, pingMs: 5 })
  const response = await fetch(`${slow.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'qwen', messages: [USER], stream: true }),
  })
  const decoder = new TextDecoder()
  let text = ''
  let answered = false
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    text += decoder.decode(chunk, { stream: true })
    if (answered || text.split(': ping\n\n').length < 3) continue
    answered = true // behind two of them
    played.native.answer([...(await played.model.tokenizer.encode('It is warm.', { specialTokens: false }))])
    played.native.answer([], { finish: 'stop' })
  }
  expect(eventsOf(text).at(-1).choices[0].finish_reason).toBe('stop')
  expect(eventsOf(text).some(({ choices }) => choices[0].delta.content === 'It is warm.')).toBe(true)
})

/** Chats, completions, models, errors and vLLM's endpoints, on the real engine: against the library's own answers. */
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load, type Model } from '../../../lib/index.ts'
import type { Server } from '../../../lib/server/index.ts'
import { expectValid } from './openai_schema.ts'
import { DEMO, eventsOf, post, start } from './server.ts'

let server: Server
let model: Model
let client: OpenAI
beforeAll(async () => {
  model = await load(DEMO, { device: 'cpu', threads: 1 })
  server = await start({ models: { demo: model } })
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
})
afterAll(() => model.close())

const PROMPT = 'Once upon a time'
const messages = [{ role: 'user' as const, content: 'Tell me a story about a curious otter and a paper plane.' }]

describe('chat', () => {
  test('options reach the model: the same answer as chat() with the same seed', async () => {
    const options = { maxTokens: 20, temperature: 1.2, topP: 0.9, topK: 30, minP: 0.01, seed: 7, frequencyPenalty: 0.5 }
    const expected = await model.chat(messages, { ...options, repetitionPenalty: 1.1, presencePenalty: 0.2 }).result
    const { json } = await post(server, '/v1/chat/completions', {
      ...{ model: 'demo', messages, max_completion_tokens: 20, temperature: 1.2, top_p: 0.9, top_k: 30, min_p: 0.01 },
      ...{ seed: 7, frequency_penalty: 0.5, repetition_penalty: 1.1, presence_penalty: 0.2, user: null, n: null },
    })
    expect(json.choices[0].message.content).toBe(expected.text)
    expectValid('CreateChatCompletionResponse', json)
  })

  test('n answers have seeds of their own, streamed or not', async () => {
    const request = { model: 'demo', messages, max_tokens: 12, temperature: 1.5, seed: 3, n: 3 }
    const { choices, usage } = await client.chat.completions.create(request)
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2])
    const texts = choices.map(({ message }) => message.content!)
    expect(new Set(texts).size).toBe(3)
    for (const [index, text] of texts.entries()) {
      const alone = await model.chat(messages, { maxTokens: 12, temperature: 1.5, seed: 3 + index }).result
      expect(text).toBe(alone.text)
    }
    expect(usage!.completion_tokens).toBe(36)
    const { text } = await post(server, '/v1/chat/completions', { ...request, stream: true })
    const streamed = ['', '', '']
    for (const event of eventsOf(text)) {
      expectValid('CreateChatCompletionStreamResponse', event)
      for (const { index, delta } of event.choices) streamed[index] += delta.content ?? ''
    }
    expect(streamed).toEqual(texts)
    expect(text.endsWith('data: [DONE]\n\n')).toBe(true)
  })

  test('log-probabilities, with bytes', async () => {
    const request = { model: 'demo', messages, max_tokens: 6, logprobs: true, top_logprobs: 3 }
    const expected = await model.chat(messages, { maxTokens: 6, logprobs: true, topLogprobs: 3 }).result
    const whole = await client.chat.completions.create(request)
    const { content } = whole.choices[0]!.logprobs!
    expect(content!.map(({ logprob }) => logprob)).toEqual(expected.logprobs)
    expect(content!.map(({ token }) => token).join('')).toContain(expected.text.trim())
    expect(Buffer.from(content!.flatMap(({ bytes }) => bytes!)).toString()).toContain(expected.text.trim())
    expect(content![0]!.top_logprobs).toHaveLength(3)
    const stream = await client.chat.completions.create({ ...request, stream: true })
    const streamed: unknown[] = []
    for await (const { choices } of stream) streamed.push(...(choices[0]?.logprobs?.content ?? []))
    expect(streamed).toEqual(content)
  })

  test('stop, logit_bias and stop_token_ids', async () => {
    const plain = await model.chat(messages, { maxTokens: 20 }).result
    const word = plain.text.trim().split(' ')[3]!
    const stopped = await client.chat.completions.create({ model: 'demo', messages, max_tokens: 20, stop: [word] })
    expect(stopped.choices[0]!.message.content).toBe(plain.text.slice(0, plain.text.indexOf(word)))
    expect(stopped.choices[0]!.finish_reason).toBe('stop')
    const biased = await client.chat.completions.create({
      ...{ model: 'demo', messages, max_tokens: 3, logit_bias: { [plain.tokens[0]!]: -100 } },
    })
    expect(biased.choices[0]!.message.content).not.toBe(plain.text)
    const { json } = await post(server, '/v1/chat/completions', {
      ...{ model: 'demo', messages, max_tokens: 20, stop_token_ids: [plain.tokens[2]] },
    })
    const expected = await model.chat(messages, { maxTokens: 20, stopTokens: [plain.tokens[2]!] }).result
    expect(json.usage.completion_tokens).toBe(expected.tokens.length)
    expect(json.choices[0].finish_reason).toBe('stop')
  })

  test('a negative seed is a seed', async () => {
    const ask = (seed: number) =>
      client.chat.completions.create({ model: 'demo', messages, max_tokens: 12, temperature: 1.5, seed })
    const texts = (await Promise.all([-5, -5, -6].map(ask))).map(({ choices }) => choices[0]!.message.content)
    expect(texts[0]).toBe(texts[1])
    expect(texts[0]).not.toBe(texts[2])
  })

  test.each([
    ['max_tokens', 0],
    ['max_tokens', 'many'],
    ['temperature', -1],
    ['top_p', 2],
    ['n', 0],
    ['n', 1000],
    ['stop', ''],
    ['logit_bias', { a: 1 }],
    ['messages', []],
    ['messages', 'Hello'],
    ['messages', [{ content: 'Hello' }]],
    ['messages', [{ role: 'wizard', content: 'Hello' }]],
    ['messages', [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:' } }] }]],
    ['stream', 'yes'],
    ['top_logprobs', 2],
    ['stream_options', { include_usage: true }],
    ['response_format', { type: 'xml' }],
    ['top_k', -2],
  ])('a wrong %s (%j) is 400 in the shape of OpenAI, and names the field', async (field, value) => {
    const { status, json } = await post(server, '/v1/chat/completions', { model: 'demo', messages, [field]: value })
    expect(status).toBe(400)
    expectValid('ErrorResponse', json)
    expect(json.error.type).toBe('invalid_request_error')
    expect(json.error.param).toMatch(new RegExp(`^${field}`))
  })

  test('unknown fields are ignored', async () => {
    const { status } = await post(server, '/v1/chat/completions', {
      ...{ model: 'demo', messages, max_tokens: 1, store: true, metadata: { a: 'b' }, frobnicate: [1] },
    })
    expect(status).toBe(200)
  })

  test('a forced call is refused by its name where the chat template has no tools', async () => {
    const tools = [{ type: 'function' as const, function: { name: 'look', parameters: { type: 'object' } } }]
    const error = await client.chat.completions
      .create({ model: 'demo', messages: [{ role: 'user', content: 'Hi' }], tools, tool_choice: 'required' })
      .catch((caught) => caught)
    expect(error).toMatchObject({ status: 400, code: 'CONSTRAINT_UNSUPPORTED', param: 'tool_choice' })
    expect(error.message).toMatch(/whose chat template has tools, or tool_choice 'auto'$/)
  })

  test('a prompt that fills the context is context_length_exceeded', async () => {
    const content = 'otter '.repeat(3000)
    const error = await client.chat.completions
      .create({ model: 'demo', messages: [{ role: 'user', content }] })
      .catch((caught) => caught)
    expect(error).toBeInstanceOf(OpenAI.BadRequestError)
    expect(error.code).toBe('context_length_exceeded')
    // No advice of options that requests do not have.
    expect(error.message).toMatch(/Shorten the prompt; .*--context of millrace serve$/)
    const stream = client.chat.completions.create({
      model: 'demo',
      messages: [{ role: 'user', content }],
      stream: true,
    })
    await expect(stream).rejects.toThrow(OpenAI.BadRequestError)
  })

  test('deadlines are 504', async () => {
    const { status, json } = await post(server, '/v1/chat/completions', {
      ...{ model: 'demo', messages, max_tokens: 900, ignore_eos: true, deadline_ms: 1 },
    })
    expect({ status, code: json.error.code }).toEqual({ status: 504, code: 'DEADLINE_EXCEEDED' })
  })

  test('a reader that leaves ends the request', async () => {
    const before = model.stats.rows.decode
    const stream = await client.chat.completions.create({
      ...({ model: 'demo', messages, max_tokens: 900, stream: true, ignore_eos: true } as const),
    })
    for await (const _ of stream) break
    await expect.poll(() => model.stats.sequences.running, { timeout: 10_000 }).toBe(0)
    await expect.poll(() => model.stats.kv.blocksUsed, { timeout: 10_000 }).toBe(0)
    expect(model.stats.rows.decode - before).toBeLessThan(880)
  })
})

describe('completions', () => {
  test('a text, ids, several, n: each as generate() has it', async () => {
    const expected = await model.generate(PROMPT, { maxTokens: 8 }).result
    const ids = [...(await model.tokenizer.encode(PROMPT))]
    const whole = await client.completions.create({ model: 'demo', prompt: PROMPT, max_tokens: 8 })
    expectValid('CreateCompletionResponse', whole)
    expect(whole.choices).toEqual([{ index: 0, text: expected.text, logprobs: null, finish_reason: 'length' }])
    expect(whole.usage).toMatchObject({ prompt_tokens: ids.length, completion_tokens: 8 })
    const byIds = await client.completions.create({ model: 'demo', prompt: [ids, ids], max_tokens: 8, n: 2 })
    expect(byIds.choices.map(({ index, text }) => ({ index, text }))).toEqual(
      [0, 1, 2, 3].map((index) => ({ index, text: expected.text })),
    )
    expect(byIds.usage!.prompt_tokens).toBe(2 * ids.length)
    const several = await client.completions.create({ model: 'demo', prompt: [PROMPT, 'The sun'], max_tokens: 8 })
    expect(several.choices[0]!.text).toBe(expected.text)
    expect(several.choices[1]!.text).toBe((await model.generate('The sun', { maxTokens: 8 }).result).text)
    const stream = await client.completions.create({ model: 'demo', prompt: PROMPT, max_tokens: 8, stream: true })
    let text = ''
    for await (const chunk of stream) text += chunk.choices[0]?.text ?? ''
    expect(text).toBe(expected.text)
  })

  test('16 tokens where nobody says', async () => {
    const { usage } = await client.completions.create({ model: 'demo', prompt: PROMPT })
    expect(usage!.completion_tokens).toBe(16)
  })

  test('echo with log-probabilities: those of score(), then those of the answer', async () => {
    const scored = await model.score(PROMPT, { logits: true })
    const answer = await model.generate(PROMPT, { maxTokens: 4, logprobs: true, topLogprobs: 2 }).result
    const request = { model: 'demo', prompt: PROMPT, max_tokens: 4, echo: true, logprobs: 2 }
    const { choices } = await client.completions.create(request)
    const { text, logprobs } = choices[0]!
    expect(text).toBe(PROMPT + answer.text)
    const values = logprobs!.token_logprobs!
    expect(values[0]).toBe(null)
    expect(values.slice(1)).toEqual([...scored.logprobs, ...answer.logprobs!])
    // What is most likely by the logits is what the list has, with its own log-probability.
    const vocab = model.spec.vocab
    for (let row = 0; row + 1 < scored.tokens.length; row++) {
      const logits = scored.logits!.subarray(row * vocab, (row + 1) * vocab)
      const best = logits.indexOf(Math.max(...logits))
      const top = Object.entries(logprobs!.top_logprobs![row + 1]!)
      expect(top).toHaveLength(2)
      expect(top[0]![0]).toBe(Buffer.from(model.tokenizer.bytesOf(best)!).toString())
      if (best === scored.tokens[row + 1]) expect(top[0]![1]).toBeCloseTo(scored.logprobs[row]!, 4)
    }
    for (const [index, token] of logprobs!.tokens!.entries()) {
      const at = logprobs!.text_offset![index]!
      if (index > 0) expect(text.slice(at, at + token.length)).toBe(token)
    }
    const only = await client.completions.create({
      model: 'demo',
      prompt: PROMPT,
      max_tokens: 0,
      echo: true,
      logprobs: 1,
    })
    expect(only.choices[0]!.text).toBe(PROMPT)
    expect(only.choices[0]!.logprobs!.token_logprobs!.slice(1)).toEqual([...scored.logprobs])
  })

  test.each([
    ['suffix', 'the end'],
    ['best_of', 4],
    ['prompt', 7],
    ['prompt', []],
    ['prompt', [-1]],
    ['max_tokens', 0],
    ['logprobs', 100],
  ])('%s: %j is refused by name', async (field, value) => {
    const { status, json } = await post(server, '/v1/completions', { model: 'demo', prompt: PROMPT, [field]: value })
    expect(status).toBe(400)
    expect(json.error.param).toMatch(new RegExp(`^${field}`))
  })

  test('a token that the model has not is 400', async () => {
    const { status } = await post(server, '/v1/completions', { model: 'demo', prompt: [99_999_999] })
    expect(status).toBe(400)
  })
})

describe('models and errors', () => {
  test('the list, and one', async () => {
    const list = await client.models.list()
    expectValid('ListModelsResponse', { object: 'list', data: list.data })
    expect(list.data.map(({ id }) => id)).toEqual(['demo'])
    expect((await client.models.retrieve('demo')).id).toBe('demo')
  })

  test.each(['none', '../demo', '/etc/passwd', 'models/demo', '__proto__', DEMO])(
    'the model %s is not there: only configured names load',
    async (name) => {
      const error = await client.chat.completions.create({ model: name, messages }).catch((caught) => caught)
      expect(error).toBeInstanceOf(OpenAI.NotFoundError)
      expect(error.code).toBe('model_not_found')
      await expect(client.models.retrieve(name)).rejects.toThrow(OpenAI.NotFoundError)
    },
  )

  test.each([
    ['', 400],
    ['{', 400],
    ['[]', 400],
    ['null', 400],
    ['"text"', 400],
    ['{"__proto__": {"a": 1}}', 400],
  ])('the body %j is %i', async (body, status) => {
    for (const path of ['/v1/chat/completions', '/v1/completions', '/v1/responses', '/tokenize']) {
      const answer = await post(server, path, body)
      expect(answer.status).toBe(status)
      expectValid('ErrorResponse', answer.json)
      expect(answer.json.error).toMatchObject({ type: 'invalid_request_error', code: null })
    }
  })

  test('what is not JSON by its type, and what is not there', async () => {
    const typed = await post(server, '/v1/chat/completions', 'a=b', {
      'content-type': 'application/x-www-form-urlencoded',
    })
    expect(typed.status).toBe(415)
    expect(typed.json.error.message).toContain('Content-Type: application/json')
    expectValid('ErrorResponse', typed.json)
    const nowhere = await post(server, '/v1/none', {})
    expect(nowhere.status).toBe(404)
    expectValid('ErrorResponse', nowhere.json)
    expect(nowhere.headers.get('x-request-id')).toMatch(/^req_/)
    const wrongMethod = await fetch(`${server.url}/v1/chat/completions`)
    expect(wrongMethod.status).toBe(405)
    expect(wrongMethod.headers.get('allow')).toBe('POST')
    expectValid('ErrorResponse', await wrongMethod.json())
    expect((await post(server, '/v1/models', {})).headers.get('allow')).toBe('GET')
    const short = await post(server, '/chat/completions', {})
    expect(short.status).toBe(404)
    expect(short.json.error.message).toContain('/v1/chat/completions')
  })

  test('a request id of the client comes back, a strange one does not', async () => {
    const id = async (given: string) =>
      (await post(server, '/tokenize', { prompt: 'a' }, { 'x-request-id': given })).headers.get('x-request-id')
    expect(await id('my-id.1')).toBe('my-id.1')
    expect(await id('a b')).toMatch(/^req_/)
    expect(await id('x'.repeat(200))).toMatch(/^req_/)
  })
})

describe('as vLLM has it', () => {
  test('tokenize and detokenize are there and back', async () => {
    const tokens = [...(await model.tokenizer.encode(PROMPT))]
    const { json } = await post(server, '/tokenize', { model: 'demo', prompt: PROMPT, return_token_strs: true })
    expect(json).toMatchObject({ count: tokens.length, max_model_len: 1024, tokens })
    expect(json.token_strs.slice(1).join('')).toBe(PROMPT)
    const without = await post(server, '/tokenize', { prompt: PROMPT, add_special_tokens: false })
    expect(without.json.tokens).toEqual(tokens.slice(1))
    expect((await post(server, '/detokenize', { tokens })).json).toEqual({ prompt: PROMPT })
    expect((await post(server, '/detokenize', { tokens: [1e6] })).status).toBe(400)
    const chat = await post(server, '/tokenize', { messages })
    expect(chat.json.tokens).toEqual([...(await model.tokenizer.encodeChat(messages))])
    expect((await post(server, '/tokenize', { messages, prompt: 'a' })).status).toBe(400)
  })

  test('apply-template', async () => {
    const { json } = await post(server, '/apply-template', { messages })
    expect(json.prompt).toBe(await model.tokenizer.applyChatTemplate(messages))
  })

  test('version, sleep, wake_up', async () => {
    expect(await (await fetch(`${server.url}/version`)).json()).toEqual({ version: expect.stringMatching(/^\d/) })
    const sleeping = async () => (await fetch(`${server.url}/is_sleeping`)).json()
    expect(await sleeping()).toEqual({ is_sleeping: false })
    expect((await fetch(`${server.url}/sleep?level=1`, { method: 'POST' })).status).toBe(200)
    expect(await sleeping()).toEqual({ is_sleeping: true })
    expect((await post(server, '/v1/completions', { prompt: PROMPT, max_tokens: 2 })).status).toBe(200)
    expect((await fetch(`${server.url}/wake_up`, { method: 'POST' })).status).toBe(200)
    expect(await sleeping()).toEqual({ is_sleeping: false })
    expect((await fetch(`${server.url}/sleep?model=none`, { method: 'POST' })).status).toBe(404)
  })

  test('lower priorities go first', async () => {
    const { status } = await post(server, '/v1/completions', { prompt: PROMPT, max_tokens: 1, priority: -5 })
    expect(status).toBe(200)
  })
})

describe('metrics and health', () => {
  test('the names that schedulers read', async () => {
    const text = await (await fetch(`${server.url}/metrics`)).text()
    const label = 'model_name="demo"'
    for (const name of [
      ...['num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc', 'gpu_cache_usage_perc'],
      ...['num_preemptions_total', 'prompt_tokens_total', 'generation_tokens_total'],
      ...['prefix_cache_queries_total', 'prefix_cache_hits_total', 'time_to_first_token_seconds_count'],
      ...['inter_token_latency_seconds_count', 'e2e_request_latency_seconds_count'],
    ]) {
      expect(text).toContain(`vllm:${name}{${label}}`)
    }
    expect(text).toMatch(/vllm:cache_config_info\{model_name="demo",block_size="16",num_gpu_blocks="\d+"\} 1/)
    const value = (name: string) => Number(new RegExp(`^${name}\\{${label}\\} (.+)$`, 'm').exec(text)?.[1])
    expect(value('vllm:prefix_cache_queries_total')).toBe(model.stats.prefixCache.promptTokens)
    expect(value('millrace:prefix_cache_returned_tokens_total')).toBe(model.stats.prefixCache.returnedTokens)
    expect(value('millrace:kv_tier_bytes')).toBe(model.stats.kv.tierBytes)
    expect(value('millrace:steps_total')).toBe(model.stats.steps)
  })

  test('generated tokens are counted', async () => {
    const count = async () => {
      const text = await (await fetch(`${server.url}/metrics`)).text()
      return Number(/^vllm:generation_tokens_total\{model_name="demo"\} (.+)$/m.exec(text)?.[1])
    }
    const before = await count()
    await client.completions.create({ model: 'demo', prompt: PROMPT, max_tokens: 5 })
    expect(await count()).toBe(before + 5)
  })

  test('health and ready', async () => {
    for (const [path, status] of Object.entries({ health: 'ok', ready: 'ready' })) {
      const response = await fetch(`${server.url}/${path}`)
      expect({ code: response.status, ...((await response.json()) as object) }).toEqual({ code: 200, status })
    }
  })
})

/** /v1/embeddings with the clients as they are, against the library's own vectors. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { embed, embedMany } from 'ai'
import OpenAI from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { embeddingModel } from '../../../lib/ai/index.ts'
import { load, type Model } from '../../../lib/index.ts'
import { runBatch } from '../../../lib/server/batch.ts'
import type { Server } from '../../../lib/server/index.ts'
import { expectValid } from './openai_schema.ts'
import { DEMO, post, start } from './server.ts'

let server: Server
let model: Model
let client: OpenAI
beforeAll(async () => {
  model = await load(DEMO, { device: 'cpu', threads: 1 })
  server = await start({ models: { demo: model } })
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
})
afterAll(() => model.close())

const input = ['An otter by the river.', 'A paper plane.', 'Tell me a story.']
const vectors = async (...args: Parameters<Model['embed']>) =>
  (await model.embed(...args)).embeddings.map((vector) => [...vector])

test('the official client, which asks for base64, and floats', async () => {
  const expected = await model.embed(input)
  const found = await client.embeddings.create({ model: 'demo', input })
  expect(found.data.map(({ embedding }) => embedding)).toEqual(await vectors(input))
  expect(found.data.map(({ index }) => index)).toEqual([0, 1, 2])
  const { promptTokens } = expected.usage
  expect(found.usage).toEqual({ prompt_tokens: promptTokens, total_tokens: promptTokens })
  const { json } = await post(server, '/v1/embeddings', { model: 'demo', input })
  expectValid('CreateEmbeddingResponse', json)
  expect(json.data.map(({ embedding }: { embedding: number[] }) => embedding)).toEqual(await vectors(input))
  const base64 = await post(server, '/v1/embeddings', { input: input[0], encoding_format: 'base64' })
  const bytes = Buffer.from(base64.json.data[0].embedding, 'base64')
  expect(bytes).toHaveLength(4 * model.spec.hidden)
  expect(bytes.readFloatLE(0)).toBe(expected.embeddings[0]![0])
})

test('token ids, pooling, dimensions', async () => {
  const ids = await Promise.all(input.map(async (text) => [...(await model.tokenizer.encode(text))]))
  const ask = async (body: object) => {
    const { json } = await post(server, '/v1/embeddings', { model: 'demo', ...body })
    return json.data.map(({ embedding }: { embedding: number[] }) => embedding)
  }
  expect(await ask({ input: ids[1] })).toEqual(await vectors(input[1]!))
  expect(await ask({ input: ids })).toEqual(await vectors(input))
  expect(await ask({ input, pooling: 'last', dimensions: 8 })).toEqual(
    await vectors(input, { pooling: 'last', dimensions: 8 }),
  )
  expect(await ask({ input, add_special_tokens: false })).toEqual(await vectors(input, { specialTokens: false }))
})

test.each([
  [{ input: '' }, 'input'],
  [{ input: [] }, 'input'],
  [{ input: ['a', ''] }, 'input[1]'],
  [{ input: [[]] }, 'input[0]'],
  [{ input: [1, 'a'] }, 'input'],
  [{ input: Array(2049).fill('a') }, 'input'],
  [{ input: undefined }, 'input'],
  [{ encoding_format: 'int8' }, 'encoding_format'],
  [{ dimensions: 0 }, 'dimensions'],
  [{ dimensions: 100_000 }, 'dimensions'],
  [{ pooling: 'cls' }, 'pooling'],
])('%j is 400 and names the field', async (body, param) => {
  const { status, json } = await post(server, '/v1/embeddings', { model: 'demo', input: 'a', ...body })
  expect(status).toBe(400)
  expectValid('ErrorResponse', json)
  expect(json.error.param).toBe(param)
})

test('a model that is none, a token that is none, a text that is too long', async () => {
  const ask = (body: object) => post(server, '/v1/embeddings', { model: 'demo', ...body })
  expect((await ask({ model: 'other', input: 'a' })).status).toBe(404)
  expect(await ask({ input: [99_999] })).toMatchObject({
    status: 400,
    json: { error: { type: 'invalid_request_error' } },
  })
  const long = await ask({ input: ['a', 'word '.repeat(5000)] })
  expect(long).toMatchObject({ status: 400, json: { error: { code: 'context_length_exceeded' } } })
})

test('the AI SDK, over HTTP and in process', async () => {
  const provider = createOpenAICompatible({ name: 'millrace', baseURL: `${server.url}/v1` })
  const expected = await vectors(input)
  for (const given of [provider.textEmbeddingModel('demo'), embeddingModel(model)]) {
    const many = await embedMany({ model: given, values: input })
    expect(many.embeddings).toEqual(expected)
    expect(many.usage.tokens).toBe((await model.embed(input)).usage.promptTokens)
  }
  const last = await embed({
    model: embeddingModel(model),
    value: input[0]!,
    providerOptions: { millrace: { pooling: 'last' } },
  })
  expect(last.embedding).toEqual((await vectors(input[0]!, { pooling: 'last' }))[0])
  const gone = embed({ model: embeddingModel(model), value: 'a', abortSignal: AbortSignal.abort() })
  await expect(gone).rejects.toMatchObject({ name: 'AbortError' })
  const wrong = embed({ model: embeddingModel(model), value: 'a', providerOptions: { millrace: { pooling: 'cls' } } })
  await expect(wrong).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})

test('lines of a batch, and the metrics', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-embeddings-'))
  const [from, to] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')]
  const lines = input.map((text, index) =>
    JSON.stringify({ custom_id: `${index}`, method: 'POST', url: '/v1/embeddings', body: { input: text } }),
  )
  writeFileSync(from, lines.join('\n'))
  await runBatch({ models: { demo: model } }, { input: from, output: to, concurrency: 2 })
  const answers = readFileSync(to, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  rmSync(folder, { recursive: true })
  const expected = await vectors(input)
  for (const { custom_id, response } of answers) {
    expect(response.body.data[0].embedding).toEqual(expected[custom_id])
  }
  expect(answers).toHaveLength(3)
  const metric = async () => {
    const text = await (await fetch(`${server.url}/metrics`)).text()
    return Number(/vllm:prompt_tokens_total\{model_name="demo"\} (\d+)/.exec(text)![1])
  }
  const before = await metric()
  const { json } = await post(server, '/v1/embeddings', { input })
  expect((await metric()) - before).toBe(json.usage.prompt_tokens)
})

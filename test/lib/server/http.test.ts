/** What a server does as a server: keys, origins, limits, streams that nobody reads, queues that are full, its end. */
import { once } from 'node:events'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { type AddressInfo, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fastify } from 'fastify'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load, type Model } from '../../../lib/index.ts'
import { millraceServer, type Server, serve } from '../../../lib/server/index.ts'
import { expectValid } from './openai_schema.ts'
import { DEMO, eventsOf, post, start } from './server.ts'

let model: Model
beforeAll(async () => {
  model = await load(DEMO, { device: 'cpu', threads: 1 })
})
afterAll(() => model.close())
const messages = [{ role: 'user' as const, content: 'Tell me a story.' }]
const chat = { model: 'demo', messages, max_tokens: 2 }
const endless = { model: 'demo', messages, max_tokens: 900, ignore_eos: true, stream: true }

describe('keys', () => {
  let server: Server
  beforeAll(async () => {
    server = await start({ models: { demo: model }, apiKey: ['first-key', 'second-key'] })
  })

  test.each(['/v1/chat/completions', '/v1/completions', '/v1/responses', '/v1/messages', '/tokenize', '/sleep'])(
    '%s wants one',
    async (path) => {
      for (const headers of [
        {},
        { authorization: 'Bearer wrong' },
        { authorization: 'first-key' },
        { 'x-api-key': '' },
      ]) {
        const { status, json } = await post(server, path, chat, headers as Record<string, string>)
        expect(status).toBe(401)
        expect(json.error).toBeDefined()
      }
    },
  )

  test('either of them, in either header', async () => {
    for (const headers of [{ authorization: 'Bearer second-key' }, { 'x-api-key': 'first-key' }]) {
      expect((await post(server, '/v1/chat/completions', chat, headers as Record<string, string>)).status).toBe(200)
    }
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'wrong', maxRetries: 0 })
    await expect(client.models.list()).rejects.toThrow(OpenAI.AuthenticationError)
  })

  test('probes and metrics need none', async () => {
    for (const path of ['/health', '/ready', '/metrics', '/']) {
      expect((await fetch(`${server.url}${path}`)).status).toBe(200)
    }
    expect((await fetch(`${server.url}/live`)).status).toBe(401)
  })
})

describe('origins', () => {
  test('none by default: no header for a foreign page, and no effect of what it sends unasked', async () => {
    const server = await start({ models: { demo: model } })
    const foreign = { origin: 'http://evil.example' }
    const asked = await fetch(`${server.url}/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: { ...foreign, 'access-control-request-method': 'POST' },
    })
    expect(asked.headers.get('access-control-allow-origin')).toBe(null)
    const sent = await fetch(`${server.url}/sleep`, { method: 'POST', headers: foreign })
    expect(sent.status).toBe(403)
    expect(model.asleep).toBe(false)
    const own = await post(server, '/v1/chat/completions', chat, { origin: server.url })
    expect(own.status).toBe(200)
  })

  test('those that are named', async () => {
    const server = await start({ models: { demo: model }, cors: ['http://app.example'] })
    const { status, headers } = await post(server, '/v1/chat/completions', chat, { origin: 'http://app.example' })
    expect(status).toBe(200)
    expect(headers.get('access-control-allow-origin')).toBe('http://app.example')
    expect((await post(server, '/v1/chat/completions', chat, { origin: 'http://evil.example' })).status).toBe(403)
  })

  test('a name of the internet that leads to a server of this machine alone is none of its own', async () => {
    const statusOf = async (server: Server, origin: string, headers = {}) => {
      const { host } = new URL(origin)
      const asked = request(`${server.url}/sleep`, { method: 'POST', headers: { ...headers, origin, host } }).end()
      const [response] = await once(asked, 'response')
      response.resume()
      return response.statusCode
    }
    const server = await start({ models: { demo: model }, cors: ['http://app.example'] })
    const { port } = new URL(server.url)
    expect(await statusOf(server, `http://evil.example:${port}`)).toBe(403)
    expect(model.asleep).toBe(false)
    const own = [
      `http://127.0.0.1:${port}`,
      `http://[::1]:${port}`,
      `http://localhost:${port}`,
      `http://box.local:${port}`,
    ]
    for (const origin of [...own, 'http://gpubox', 'https://chat.example', 'http://app.example']) {
      expect(await statusOf(server, origin), origin).toBe(200)
    }
    const keyed = await start({ models: { demo: model }, apiKey: 'secret' })
    const key = { authorization: 'Bearer secret' }
    expect(await statusOf(keyed, `http://evil.example:${new URL(keyed.url).port}`, key)).toBe(200)
    await model.wake()
  })

  test('all, by a star', async () => {
    const server = await start({ models: { demo: model }, cors: ['*'] })
    const { status, headers } = await post(server, '/v1/chat/completions', chat, { origin: 'http://app.example' })
    expect([status, headers.get('access-control-allow-origin')]).toEqual([200, 'http://app.example'])
  })

  test('what is no origin is refused', async () => {
    await expect(serve({ models: { demo: model }, cors: ['https://app.example/'], port: 0 })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('an origin such as'),
    })
  })
})

describe('limits', () => {
  test('of a body, and of headers', async () => {
    const server = await start({ models: { demo: model }, bodyLimit: 2048 })
    const large = await post(server, '/v1/chat/completions', { ...chat, user: 'x'.repeat(4096) })
    expect(large.status).toBe(413)
    expect(large.json.error).toMatchObject({ type: 'invalid_request_error', code: 'request_too_large' })
    const headers = await fetch(`${server.url}/health`, { headers: { 'x-large': 'x'.repeat(64 * 1024) } })
    expect(headers.status).toBe(431)
    expectValid('ErrorResponse', await headers.json())
    expect((await post(server, '/v1/chat/completions', chat)).status).toBe(200)
  })

  test('what is no HTTP, or no path, is told as everything else', async () => {
    const server = await start({ models: { demo: model } })
    const { port } = new URL(server.url)
    const ask = async (bytes: string) => {
      const socket = connect({ host: '127.0.0.1', port: Number(port) })
      socket.end(bytes)
      let text = ''
      for await (const part of socket.setEncoding('utf8')) text += part
      return text
    }
    for (const bytes of ['nonsense\r\n\r\n', 'POST /v1/completions HTTP/1.1\r\ncontent-length: many\r\n\r\n']) {
      const [head, body] = (await ask(bytes)).split('\r\n\r\n')
      expect(head).toMatch(/^HTTP\/1\.1 400 Bad Request/)
      expectValid('ErrorResponse', JSON.parse(body!))
    }
    for (const path of ['/v1/models/%E0%A4%A', `/v1/models/${'x'.repeat(3000)}`]) {
      const response = await fetch(server.url + path)
      expect([400, 404, 414]).toContain(response.status)
      const text = await response.text()
      expectValid('ErrorResponse', JSON.parse(text))
      expect(text).not.toContain('FST_')
    }
  })

  test('a stream is not torn by what its client sends meanwhile', async () => {
    const server = await start({ models: { demo: model } })
    const socket = connect({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
    const body = JSON.stringify({ ...endless, max_tokens: 60 })
    const head = 'POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n'
    socket.write(`${head}content-length: ${body.length}\r\n\r\n${body}`)
    let text = ''
    socket.setEncoding('utf8').on('data', (part) => {
      if (text === '') socket.write('nonsense\r\n\r\n')
      text += part
    })
    await once(socket, 'close')
    expect(text.match(/HTTP\/1\.1/g)).toHaveLength(1)
  })

  test('a full queue is 429, with when to come again', async () => {
    const narrow = await load(DEMO, { device: 'cpu', threads: 1, maxQueue: 1 })
    const server = await start({ models: { demo: narrow } })
    const answers = await Promise.all(Array.from({ length: 12 }, () => post(server, '/v1/chat/completions', chat)))
    const refused = answers.filter(({ status }) => status === 429)
    expect(refused.length).toBeGreaterThan(0)
    expect(answers.every(({ status }) => status === 200 || status === 429)).toBe(true)
    expect(Number(refused[0]!.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(refused[0]!.json.error).toMatchObject({ type: 'rate_limit_error', code: 'QUEUE_FULL' })
    await narrow.close()
  })

  test('prompts that are given back with log-probabilities are scored one after the other', async () => {
    const narrow = await load(DEMO, { device: 'cpu', threads: 1, maxQueue: 1 })
    const server = await start({ models: { demo: narrow } })
    const prompt = Array.from({ length: 8 }, (_, index) => `Story number ${index}`)
    const { status, json } = await post(server, '/v1/completions', { prompt, echo: true, logprobs: 1, max_tokens: 0 })
    expect(status, JSON.stringify(json)).toBe(200)
    expect(json.choices.map(({ text }: { text: string }) => text)).toEqual(prompt)
    await narrow.close()
  })
})

describe('a model that is loaded when it is asked for', () => {
  test('and then is not as its settings say: 500 without details, whatever the load failed by', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'millrace-lazy-'))
    await cp(DEMO, folder, { recursive: true })
    const path = join(folder, 'config.json')
    const config = await readFile(path, 'utf8')
    const lines: string[] = []
    const server = await serve(
      {
        models: { demo: { path: folder, contextLength: 1024, device: 'cpu', threads: 1 } },
        lazy: true,
        port: 0,
        logLevel: 'error',
      },
      { write: (line) => lines.push(line) },
    )
    const spoilt = [config.replace('"max_position_embeddings": 1024', '"max_position_embeddings": 512'), '{']
    for (const text of spoilt) {
      await writeFile(path, text)
      const { status, json } = await post(server, '/v1/chat/completions', chat)
      expect({ status, ...json.error }).toMatchObject({ status: 500, type: 'server_error', code: 'MODEL_NOT_LOADED' })
      expect(json.error.message).toContain('demo')
      expect(json.error.message).not.toContain(folder)
    }
    const text = lines.join('')
    expect(text).toContain('contextLength')
    expect(text).toContain(path)
    await writeFile(path, config)
    expect((await post(server, '/v1/chat/completions', chat)).status).toBe(200)
    await server.close(0)
    await rm(folder, { recursive: true })
  })
})

describe('streams', () => {
  test('a reader that takes nothing is given up, others are not held up', async () => {
    const server = await start({ models: { demo: model }, stallMs: 300 })
    const { port } = new URL(server.url)
    const body = JSON.stringify({ ...endless, n: 16, logprobs: true, top_logprobs: 20 })
    const socket = connect({ host: '127.0.0.1', port: Number(port) })
    socket.on('error', () => {})
    socket.pause()
    socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
    await expect.poll(() => model.stats.sequences.running, { timeout: 20_000 }).toBeGreaterThan(0)
    expect((await post(server, '/v1/chat/completions', chat)).status).toBe(200)
    const connections = () =>
      new Promise<number>((resolve) => server.app.server.getConnections((_, count) => resolve(count)))
    await expect.poll(connections, { timeout: 60_000 }).toBeLessThanOrEqual(1)
    await expect.poll(() => model.stats.sequences.running, { timeout: 20_000 }).toBe(0)
    socket.destroy()
  }, 120_000)

  test('a reader that pauses for longer than buffers last misses nothing', async () => {
    const server = await start({ models: { demo: model } })
    const asked = { model: 'demo', prompt: 'Once', max_tokens: 900, ignore_eos: true, n: 2, logprobs: 64 }
    const { json } = await post(server, '/v1/completions', asked)
    const response = await fetch(`${server.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...asked, stream: true }),
    })
    await expect.poll(() => model.stats.sequences.running, { timeout: 60_000 }).toBe(0)
    const texts = ['', '']
    for (const { choices } of eventsOf(await response.text())) texts[choices[0].index] += choices[0].text
    expect(texts).toEqual(json.choices.map(({ text }: { text: string }) => text))
  }, 120_000)
})

describe('the end', () => {
  test('streams that have begun are whole, new connections are refused, /ready says no', async () => {
    const server = await start({ models: { demo: model } })
    const streams = Array.from({ length: 4 }, () =>
      fetch(`${server.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ...endless, max_tokens: 200 }),
      }),
    )
    const responses = await Promise.all(streams)
    const closed = server.close(30_000)
    for (const response of responses) {
      const text = await response.text()
      expect(eventsOf(text).at(-1).choices[0].finish_reason).toBe('length')
      expect(text.endsWith('data: [DONE]\n\n')).toBe(true)
    }
    await closed
    await expect(fetch(`${server.url}/health`)).rejects.toThrow()
    // Who brought the model goes on with it.
    expect((await model.generate('Once', { maxTokens: 1 }).result).tokens).toHaveLength(1)
  })

  test('what is left at the limit is ended by an error that says so', async () => {
    const own = await start({ load: { device: 'cpu', threads: 1, contextLength: 1024 } })
    const response = await fetch(`${own.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...endless, n: 8 }),
    })
    const reading = response.text()
    await own.close(1)
    const text = await reading
    expect(eventsOf(text).at(-1).error).toMatchObject({ code: 'STOPPING' })
  })
})

describe('options', () => {
  test.each([
    [{ models: {} }, 'models'],
    [{ models: { '../a': DEMO } }, 'models'],
    [{ models: JSON.parse(JSON.stringify({ demo: DEMO, proto: DEMO }).replace('proto', '__proto__')) }, '__proto__'],
    [{ models: { demo: DEMO }, port: 99999 }, 'port'],
    [{ models: { demo: DEMO }, ramBudget: '6G' }, 'ramBudget'],
    [{ models: { demo: DEMO }, frob: 1 }, 'frob'],
    [{ models: { demo: DEMO }, apiKey: '' }, 'apiKey'],
  ])('%j is INVALID_ARGUMENT by the name of %s', async (options, name) => {
    const error = await serve(options as never).catch((caught) => caught)
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain(name)
  })

  test('a model may be named as what every object inherits, and nothing else is by such a name', async () => {
    const server = await start({ models: { constructor: model } })
    const named = await post(server, '/v1/chat/completions', { ...chat, model: 'constructor' })
    expect(named).toMatchObject({ status: 200, json: { model: 'constructor' } })
    for (const other of ['toString', '__proto__', 'hasOwnProperty']) {
      expect((await post(server, '/v1/chat/completions', { ...chat, model: other })).status, other).toBe(404)
    }
    await server.close(0)
  })

  test('a model that does not load, or a port that is taken, rejects and leaves nothing', async () => {
    await expect(start({ models: { none: '/nowhere' } })).rejects.toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
    await expect(start({ models: { none: '/nowhere' }, lazy: true })).rejects.toMatchObject({
      code: 'CHECKPOINT_NOT_FOUND',
    })
    // Known to plans, which need no files.
    for (const path of ['nowhere', 'llama3-8b']) {
      await expect(start({ models: { shape: path } })).rejects.toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
    }
    const several = { first: DEMO, second: { path: DEMO, contextLength: 99_999 } }
    for (const lazy of [false, true]) {
      await expect(start({ models: several, lazy })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringMatching(/^second: .*contextLength/),
      })
    }
    const other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    const { port } = other.address() as AddressInfo
    // Told before the model that cannot be loaded is.
    await expect(start({ port, models: { none: '/nowhere' } })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: `port ${port} of 127.0.0.1 is taken: something listens there already`,
    })
    other.close()
  })

  test('options of load() that plans know nothing of reach load()', async () => {
    const given = { speculation: { method: 'ngram', tokens: 4 }, deterministic: true, cache: false } as const
    const server = await start({ models: { demo: { path: DEMO, ...given } } })
    expect((await post(server, '/v1/chat/completions', chat)).status).toBe(200)
    expect((await (await fetch(`${server.url}/metrics`)).text()).match(/draft_tokens_total\{.*\} (\d+)/)).toBeTruthy()
  })

  test('lazy models load when they are asked for', async () => {
    const server = await start({ lazy: true })
    const state = async () => (await (await fetch(`${server.url}/metrics`)).text()).match(/model_loaded\{.*\} (\d)/)![1]
    expect((await fetch(`${server.url}/ready`)).status).toBe(200)
    expect(await state()).toBe('0')
    expect((await post(server, '/v1/chat/completions', chat)).status).toBe(200)
    expect(await state()).toBe('1')
  })

  test('the log has no prompt, and no key', async () => {
    let log = ''
    const server = await serve(
      { models: { demo: model }, port: 0, logLevel: 'trace', apiKey: 'my-secret-key' },
      {
        write: (line: string) => {
          log += line
        },
      },
    )
    const secret = 'a-private-thought'
    const headers = { authorization: 'Bearer my-secret-key' }
    await post(server, '/v1/chat/completions', { ...chat, messages: [{ role: 'user', content: secret }] }, headers)
    await post(server, '/v1/chat/completions', { ...chat, messages: [{ role: secret, content: secret }] }, headers)
    await post(server, '/v1/chat/completions', { ...chat, stop: { [secret]: secret } }, headers)
    await post(server, '/v1/chat/completions', { ...chat, [`my-${secret.length}`]: secret }, headers)
    await server.close()
    expect(log).toContain('request completed')
    expect(log).not.toContain(secret)
    expect(log).not.toContain('my-secret-key')
  })
})

describe('the plugin', () => {
  test("in an application of one's own, under a prefix, beside its routes and errors", async () => {
    const app = fastify()
    app.get('/mine', async () => ({ mine: true }))
    app.get('/broken', async () => {
      throw new Error('mine')
    })
    await app.register(millraceServer, { models: { demo: model }, prefix: '/llm' })
    await app.listen({ port: 0 })
    const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
    const client = new OpenAI({ baseURL: `${url}/llm/v1`, apiKey: 'none', maxRetries: 0 })
    expect((await client.chat.completions.create(chat)).choices).toHaveLength(1)
    await expect(client.chat.completions.create({ ...chat, model: 'none' })).rejects.toThrow(OpenAI.NotFoundError)
    expect(await (await fetch(`${url}/mine`)).json()).toEqual({ mine: true })
    expect(await (await fetch(`${url}/broken`)).json()).toMatchObject({ message: 'mine' })
    await app.close()
  })

  test('an application that closes waits for no stream that would never end', async () => {
    const app = fastify()
    await app.register(millraceServer, { models: { demo: model } })
    const response = await fetch(`${await app.listen({ port: 0 })}/live`)
    const reader = response.body!.getReader()
    await reader.read()
    const closed = app.close()
    for (let done = false; !done; ) done = (await reader.read()).done
    await closed
  })
})

test('a model that its owner has closed is shown as none, and told as not ready', async () => {
  const own = await load(DEMO, { device: 'cpu', threads: 1 })
  const server = await start({ models: { own, demo: model } })
  const get = (path: string) => fetch(`${server.url}${path}`)
  expect((await get('/ready')).status).toBe(200)
  await own.close()
  const metrics = await (await get('/metrics')).text()
  expect(metrics).toContain('millrace:model_loaded{model_name="own"} 0')
  expect(metrics).toContain('millrace:model_loaded{model_name="demo"} 1')
  const reader = (await get('/live')).body!.getReader()
  const { value } = await reader.read()
  const [report] = eventsOf(new TextDecoder().decode(value))
  expect(report.models).toMatchObject([
    { name: 'own', state: 'cold' },
    { name: 'demo', state: 'ready' },
  ])
  await reader.cancel()
  expect((await get('/ready')).status).toBe(503)
  expect((await post(server, '/v1/chat/completions', { ...chat, model: 'own' })).status).toBe(503)
})

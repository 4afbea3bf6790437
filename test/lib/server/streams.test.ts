/** Streams as bytes: chunks over connections of every kind, one behind the other or injected. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { fastify } from 'fastify'
import { beforeAll, expect, test, vi } from 'vitest'
import { millraceServer, type Server } from '../../../lib/server/index.ts'
import type { FakeAddon } from '../model/fake_addon.ts'
import { type Played, playedModel } from './played.ts'
import { eventsOf, start } from './server.ts'

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

const TEXT =
  'Übergrößenträger: 日本語のテキスト, 🌞🌞🌞 and plain text, a\n\nblank line, data: {"no": "event"} — "quoted\\".'
const body = (stream = true) => JSON.stringify({ model: 'qwen', prompt: 'Once', max_tokens: 500, stream })
const requestOf = (version: string, text: string, more = '') =>
  `POST /v1/completions HTTP/${version}\r\nhost: a\r\ncontent-type: application/json\r\n${more}content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`

async function open(): Promise<Socket> {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1')
  await once(socket, 'connect')
  return socket
}

/** All that comes until the other side closes. */
async function readAll(socket: Socket): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const part of socket) parts.push(part as Buffer)
  return Buffer.concat(parts)
}

/** One answer from the front of what was read, by RFC 9112; and what follows it. */
function takeAnswer(raw: Buffer): { head: string; body: string; rest: Buffer } {
  const end = raw.indexOf('\r\n\r\n') + 4
  const head = raw.subarray(0, end).toString()
  const length = /content-length: (\d+)/i.exec(head)?.[1]
  if (length !== undefined) {
    return { head, body: raw.subarray(end, end + Number(length)).toString(), rest: raw.subarray(end + Number(length)) }
  }
  if (!/transfer-encoding: chunked/i.test(head)) return { head, body: raw.subarray(end).toString(), rest: Buffer.of() }
  const chunks: Buffer[] = []
  for (let at = end; ; ) {
    const line = raw.indexOf('\r\n', at)
    const size = raw.subarray(at, line).toString()
    expect(size).toMatch(/^[0-9a-f]+$/i)
    const from = line + 2
    const to = from + Number.parseInt(size, 16)
    expect(raw.subarray(to, to + 2).toString()).toBe('\r\n')
    chunks.push(raw.subarray(from, to))
    at = to + 2
    if (to === from) return { head, body: Buffer.concat(chunks).toString(), rest: raw.subarray(at) }
  }
}

const textOf = (stream: string) => {
  expect(stream.endsWith('data: [DONE]\n\n')).toBe(true)
  return eventsOf(stream)
    .map(({ choices }) => choices[0].text)
    .join('')
}

test('chunks have the length in bytes of the text that they bring', async () => {
  played.say(TEXT)
  const socket = await open()
  socket.write(requestOf('1.1', body(), 'connection: close\r\n'))
  const { head, body: stream, rest } = takeAnswer(await readAll(socket))
  expect(head).toMatch(/content-type: text\/event-stream/i)
  expect(head).toMatch(/x-request-id: /i)
  expect(textOf(stream)).toBe(TEXT)
  expect(rest).toHaveLength(0)
})

test('requests that come before the answers of others are answered in turn over one connection', async () => {
  const answers = ['One: ä.', 'Two, which is not streamed: ö.', 'Three: 🌞.']
  for (const text of answers) played.say(text)
  const socket = await open()
  socket.write(
    requestOf('1.1', body()) + requestOf('1.1', body(false)) + requestOf('1.1', body(), 'connection: close\r\n'),
  )
  const first = takeAnswer(await readAll(socket))
  const second = takeAnswer(first.rest)
  const third = takeAnswer(second.rest)
  const found = [textOf(first.body), JSON.parse(second.body).choices[0].text, textOf(third.body)]
  expect(found).toEqual(answers)
  expect(third.rest).toHaveLength(0)
})

test('HTTP/1.0 has no chunks: the connection ends with the answer', async () => {
  played.say(TEXT)
  const socket = await open()
  socket.write(requestOf('1.0', body()))
  const { head, body: stream } = takeAnswer(await readAll(socket))
  expect(head).not.toMatch(/transfer-encoding/i)
  expect(textOf(stream)).toBe(TEXT)
})

test('within an application: its hooks see the stream, injected requests are answered', async () => {
  const app = fastify()
  const seen: string[] = []
  app.addHook('onSend', async (request, reply, payload) => {
    seen.push(`${request.url} ${typeof (payload as { pipe?: unknown }).pipe}`)
    reply.header('x-own', 'yes')
    return payload
  })
  app.addHook('onResponse', async (request) => {
    seen.push(`${request.url} answered`)
  })
  await app.register(millraceServer, { models: { qwen: played.model }, prefix: '/llm' })
  played.say(TEXT)
  const injected = await app.inject({
    method: 'POST',
    url: '/llm/v1/completions',
    headers: { 'content-type': 'application/json' },
    payload: body(),
  })
  expect(textOf(injected.body)).toBe(TEXT)
  const url = await app.listen({ port: 0 })
  played.say(TEXT)
  const response = await fetch(`${url}/llm/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: body(),
  })
  expect(response.headers.get('x-own')).toBe('yes')
  expect(textOf(await response.text())).toBe(TEXT)
  await expect.poll(() => seen.filter((one) => one.endsWith('answered'))).toHaveLength(2)
  expect(seen.filter((one) => one.endsWith('function'))).toHaveLength(2)
  await app.close()
})

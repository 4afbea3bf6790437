/** Servers for tests, on ports of their own, with the models that ship. */
import { join } from 'node:path'
import { afterAll } from 'vitest'
import type { ServeOptions, Server } from '../../../lib/server/index.ts'
import { serve } from '../../../lib/server/index.ts'
import { MODELS } from '../../models.ts'
import { checkAnswersOf } from './checked_fetch.ts'

export const DEMO = join(MODELS, 'demo')

const running: Server[] = []
afterAll(() => Promise.all(running.splice(0).map((server) => server.close(0))))

/** The demo on the CPU, unless the options say otherwise. */
export async function start(options: Partial<ServeOptions> = {}): Promise<Server> {
  const server = await serve({
    models: { demo: DEMO },
    load: { device: 'cpu', threads: 1 },
    port: 0,
    logLevel: 'silent',
    drainMs: 5000,
    ...options,
  })
  running.push(server)
  checkAnswersOf(server)
  return server
}

/** What a request without a client of its own comes to. */
export async function post(server: Server, path: string, body: unknown, headers: Record<string, string> = {}) {
  const response = await fetch(`${server.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
  const text = await response.text()
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {}
  return { status: response.status, headers: response.headers, text, json: json as Json }
}

// biome-ignore lint/suspicious/noExplicitAny: bodies of answers, whose shape the tests assert
export type Json = any

/** The events of a stream: what `data:` has, [DONE] left out. */
export function eventsOf(text: string): Json[] {
  return text
    .split('\n\n')
    .flatMap((block) => block.split('\n').filter((line) => line.startsWith('data: ')))
    .map((line) => line.slice(6))
    .filter((data) => data !== '[DONE]')
    .map((data) => JSON.parse(data))
}

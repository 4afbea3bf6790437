/** Two replicas behind Debian's haproxy; skipped, with a word, where there is none. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { load, type Model } from '../../lib/index.ts'
import type { Server } from '../../lib/server/index.ts'
import { ROOT } from '../built.ts'
import { DEMO, eventsOf, start } from '../lib/server/server.ts'

const HAPROXY = process.env.MILLRACE_HAPROXY ?? '/usr/sbin/haproxy'
const there = existsSync(HAPROXY)
if (!there) process.stderr.write(`tests of replicas are skipped: there is no ${HAPROXY} (MILLRACE_HAPROXY)\n`)

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

describe.skipIf(!there)('two replicas behind haproxy', () => {
  const models: Model[] = []
  const replicas: Server[] = []
  let proxy: ChildProcess
  let url: string
  beforeAll(async () => {
    for (let index = 0; index < 2; index++) {
      models.push(await load(DEMO, { device: 'cpu', threads: 1 }))
      replicas.push(await start({ models: { demo: models[index]! } }))
    }
    const port = await freePort()
    const [first, second] = replicas.map((replica) => new URL(replica.url).host)
    proxy = spawn(HAPROXY, ['-db', '-f', join(ROOT, 'deploy', 'haproxy', 'haproxy.cfg')], {
      stdio: 'ignore',
      env: { LISTEN: `127.0.0.1:${port}`, REPLICA_1: first, REPLICA_2: second },
    })
    url = `http://127.0.0.1:${port}`
    await vi.waitFor(async () => expect((await fetch(`${url}/ready`)).status).toBe(200), {
      timeout: 60_000,
      interval: 200,
    })
  })
  afterAll(async () => {
    proxy?.kill()
    await Promise.all(models.map((model) => model.close({ drain: false })))
  })

  const ask = (more: object = {}, headers: Record<string, string> = {}) =>
    fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify({
        ...{ model: 'demo', messages: [{ role: 'user', content: 'Tell me a story.' }], max_tokens: 2, ...more },
      }),
    })
  const prompts = () => models.map((model) => model.stats.prefixCache.promptTokens)

  test('by turns', async () => {
    const before = prompts()
    for (let turn = 0; turn < 6; turn++) expect((await ask()).status).toBe(200)
    const after = prompts()
    const each = after.map((tokens, index) => tokens - before[index]!)
    expect(each[0]).toBe(each[1])
  })

  test('a session stays with its replica', async () => {
    const before = prompts()
    for (let turn = 0; turn < 4; turn++) await ask({}, { 'x-session': 'reader-7' })
    const moved = prompts().filter((tokens, index) => tokens > before[index]!)
    expect(moved).toHaveLength(1)
  })

  test('one ends in mid-stream: every answer is whole, and the other goes on', async () => {
    const answers = Array.from({ length: 24 }, (_, index) =>
      ask({ stream: true, max_tokens: 150, ignore_eos: true, seed: index }).then(async (response) => ({
        status: response.status,
        text: await response.text(),
      })),
    )
    await expect
      .poll(() => Math.min(...models.map((model) => model.stats.sequences.running)), { timeout: 60_000 })
      .toBeGreaterThan(0)
    const ended = replicas[0]!.close(60_000)
    const later = Array.from({ length: 8 }, async () => {
      const response = await ask({ max_tokens: 5 })
      return { status: response.status, text: await response.text() }
    })
    for (const { status, text } of await Promise.all(answers)) {
      expect(status).toBe(200)
      expect(text.endsWith('data: [DONE]\n\n')).toBe(true)
      expect(eventsOf(text).at(-1).choices[0].finish_reason).toBe('length')
    }
    for (const { status } of await Promise.all(later)) expect(status).toBe(200)
    await ended
    expect((await ask()).status).toBe(200)
  }, 300_000)
})

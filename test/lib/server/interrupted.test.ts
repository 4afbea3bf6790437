/** Commands that a signal ends while they wait for a hub that takes connections and never answers. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { load } from '../../../lib/index.ts'
import { runBatch } from '../../../lib/server/batch.ts'
import { serve } from '../../../lib/server/index.ts'
import { build, DIST } from '../../built.ts'
import { temporaryFolder } from '../folder.ts'
import { DEMO } from './server.ts'

let hub: Server
beforeAll(async () => {
  await build()
  hub = createServer(() => {}).listen(0, '127.0.0.1')
  await once(hub, 'listening')
}, 200_000)
afterAll(() => {
  hub.closeAllConnections()
  hub.close()
})

const LINE = JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/completions', body: { prompt: 'Once' } })

test.each([
  ['serve', ['serve', 'some/model', '--port', '0'], 'SIGTERM', 143, 'terminated'],
  ['serve, lazily', ['serve', 'some/model', '--port', '0', '--lazy'], 'SIGINT', 130, 'interrupted'],
  ['batch', ['batch', 'in.jsonl', 'out.jsonl', '--model', 'some/model'], 'SIGTERM', 143, 'terminated'],
  ['plan', ['plan', 'some/model'], 'SIGTERM', 143, 'terminated'],
  ['inspect', ['inspect', 'some/model'], 'SIGINT', 130, 'interrupted'],
] as const)(
  '%s',
  async (_, args, signal, code, word) => {
    const cwd = await temporaryFolder({ 'in.jsonl': `${LINE}\n` })
    const endpoint = `http://127.0.0.1:${(hub.address() as AddressInfo).port}`
    const env = { PATH: process.env.PATH, HOME: cwd, HF_ENDPOINT: endpoint }
    const child = spawn(process.execPath, [join(DIST, 'cli', 'main.js'), ...args], {
      cwd,
      env,
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text))
    await once(hub, 'request')
    child.kill(signal)
    const [ended] = await once(child, 'close')
    expect({ ended, stderr }).toEqual({ ended: code, stderr: `millrace: ${word}\n` })
  },
  60_000,
)

test('serve() and runBatch() reject with ABORTED, whenever the signal comes; the process serves on', async () => {
  const controller = new AbortController()
  const { signal } = controller
  const models = { demo: { path: DEMO, device: 'cpu', threads: 1 } }
  const starting = serve({ models, port: 0, logLevel: 'silent', signal })
  controller.abort()
  await expect(starting).rejects.toMatchObject({ code: 'ABORTED' })
  await expect(serve({ models, port: 0, logLevel: 'silent', signal })).rejects.toMatchObject({ code: 'ABORTED' })
  const folder = await temporaryFolder({ 'in.jsonl': `${LINE}\n` })
  const files = { input: join(folder, 'in.jsonl'), output: join(folder, 'out.jsonl') }
  await expect(runBatch({ models }, { ...files, signal })).rejects.toMatchObject({ code: 'ABORTED' })
  await using model = await load(DEMO, { device: 'cpu', threads: 1 })
  expect((await model.generate('Once', { maxTokens: 2 }).result).usage.completionTokens).toBe(2)
}, 60_000)

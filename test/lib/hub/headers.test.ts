/** Headers of weights that are not here: as much of them as is needed, and no more than a machine can bear. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { ggufHeadBytes } from '../../../lib/hub/gguf_head.ts'
import { locateIn } from '../../../lib/hub/locate.ts'
import { parseHubName } from '../../../lib/hub/name.ts'
import type { HubSettings } from '../../../lib/hub/settings.ts'
import { inspect } from '../../../lib/index.ts'
import { LocalHub } from './server.ts'

const GGUF = join(import.meta.dirname, '..', '..', 'goldens', 'gguf')
const files = readdirSync(GGUF).filter((name) => name.endsWith('.gguf'))

let hub: LocalHub
let folder: string
let settings: HubSettings
beforeEach(async () => {
  hub = await LocalHub.start()
  folder = mkdtempSync(join(tmpdir(), 'millrace-heads-'))
  settings = hub.settings(join(folder, 'hub'))
})
afterEach(() => {
  hub.close()
  rmSync(folder, { recursive: true, force: true })
})

const headers = (name: string) => locateIn(parseHubName(name)!, {}, 'headers', settings)
const refused = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.fail('expected an error'),
    (error) => error as { code: string; message: string; remedy: string },
  )

describe('safetensors', () => {
  test.each([40_000_000n, 99_000_000n, 2n ** 63n])('with a header of %d bytes are refused unread', async (bytes) => {
    const weights = Buffer.alloc(50_000_000)
    weights.writeBigUInt64LE(bytes)
    const config = Buffer.from('{"model_type":"llama"}')
    hub.repos.set('some/model', { files: { 'config.json': config, 'model.safetensors': weights } })
    const error = await refused(headers('some/model'))
    expect(error).toMatchObject({ code: 'CHECKPOINT_INVALID', remedy: expect.stringContaining('pull the model') })
    expect(error.message).toMatch(/^model\.safetensors: its header is [\d.e+]+ MB long .* at most 33\.6 MB are read$/)
    expect(hub.bytesOf('model.safetensors')).toBe(65_536)
  })
})

describe('GGUF', () => {
  test.each(files)('the header of %s ends where its last tensor is described', async (name) => {
    const bytes = readFileSync(join(GGUF, name))
    const end = ggufHeadBytes(bytes)!
    expect(end).toBeGreaterThan(24)
    expect(ggufHeadBytes(bytes.subarray(0, end))).toBe(end)
    for (const cut of [4, 20, 100, end - 1]) expect(ggufHeadBytes(bytes.subarray(0, cut))).toBeUndefined()
    // It is all that a plan reads.
    const path = join(folder, name)
    writeFileSync(path, bytes.subarray(0, end))
    truncateSync(path, bytes.length)
    const { path: _, cache: __, ...seen } = await inspect(path)
    expect(await inspect(join(GGUF, name))).toMatchObject(seen)
  })

  test('of a large file not much more than the header is fetched', async () => {
    const whole = Buffer.concat([readFileSync(join(GGUF, files[0]!)), Buffer.alloc(60_000_000)])
    hub.repos.set('some/model', { files: { 'model.gguf': whole } })
    hub.fault = () => ({ slow: 5 })
    const start = ggufHeadBytes(whole)!
    await using located = await headers('some/model')
    expect(readFileSync(located.path).subarray(0, start).equals(whole.subarray(0, start))).toBe(true)
    // What is under way when the connection ends counts as sent.
    expect(hub.bytesOf('model.gguf')).toBeLessThan(16_000_000)
  })

  test('with a header that does not end is refused, and one that is none is told by its reader', async () => {
    const endless = Buffer.alloc(40_000_000)
    endless.write('GGUF', 'latin1')
    endless.writeUInt32LE(3, 4)
    endless.writeBigUInt64LE(1n, 8)
    endless.writeBigUInt64LE(1n, 16)
    endless.writeBigUInt64LE(2n ** 40n, 24)
    const other = Buffer.alloc(40_000_000, 'other ')
    hub.repos.set('some/model', { files: { 'endless.gguf': endless, 'other.gguf': other } })
    expect(await refused(headers('some/model:endless.gguf'))).toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringMatching(/^endless\.gguf: its header goes on behind 33\.6 MB/),
    })
    await using located = await headers('some/model:other.gguf')
    expect(await refused(inspect(located.path))).toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringContaining("begins with 'GGUF'"),
    })
  })
})

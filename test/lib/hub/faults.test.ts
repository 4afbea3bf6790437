/** What hubs, mirrors, proxies and disks do beside what they should. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { readCache } from '../../../lib/hub/list.ts'
import { parseHubName } from '../../../lib/hub/name.ts'
import { type HubOptions, pull as publicPull, pullInto } from '../../../lib/hub/pull.ts'
import { removeCached } from '../../../lib/hub/remove.ts'
import { type HubSettings, hubSettings } from '../../../lib/hub/settings.ts'
import { build, DIST } from '../../built.ts'
import { blobOf, commitOf, type Fault, LocalHub } from './server.ts'

/** Set to what a file system without links answers. */
const without = vi.hoisted(() => ({ links: undefined as string | undefined }))
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>()
  const refusing =
    <A extends unknown[], T>(call: (...args: A) => Promise<T>) =>
    (...args: A): Promise<T> =>
      without.links === undefined
        ? call(...args)
        : Promise.reject(Object.assign(new Error(`${without.links}: no links here`), { code: without.links }))
  return { ...real, symlink: refusing(real.symlink), link: refusing(real.link) }
})

const weights = randomBytes(900_000)
const FILES = {
  'config.json': Buffer.from('{"model_type":"llama"}'),
  'tokenizer.json': Buffer.from(JSON.stringify({ filler: 'x'.repeat(100_000) })),
  'model.safetensors': weights,
}
const SUM = Object.values(FILES).reduce((bytes, content) => bytes + content.length, 0)
const POINTER = Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 900000\n')

let hub: LocalHub
let folder: string
let settings: HubSettings
beforeEach(async () => {
  hub = await LocalHub.start()
  hub.repos.set('some/model', { files: FILES })
  folder = mkdtempSync(join(tmpdir(), 'millrace-faults-'))
  settings = hub.settings(join(folder, 'hub'))
})
afterEach(() => {
  without.links = undefined
  hub.close()
  rmSync(folder, { recursive: true, force: true })
})

const pull = (name: string, options: HubOptions = {}, more: Partial<HubSettings> = {}) =>
  pullInto(parseHubName(name)!, options, { ...settings, ...more })
const refused = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.fail('expected an error'),
    (error) => error as { code: string; message: string; remedy: string },
  )
const repoPath = (...parts: string[]) => join(settings.cache, 'models--some--model', ...parts)
const unfinished = () => `${repoPath('blobs', blobOf(weights))}.incomplete`
const snapshot = () => repoPath('snapshots', commitOf('some/model'))
const whole = () => expect(readFileSync(join(snapshot(), 'model.safetensors')).equals(weights)).toBe(true)
/** Of the weights: the first answer is cut after 300,000 bytes, the others are as they are told. */
const cutThen = (fault: Fault) => {
  hub.fault = (where, path, times) =>
    where === 'storage' && path === 'model.safetensors' ? (times === 0 ? { cutAfter: 300_000 } : fault) : undefined
}

describe('an answer', () => {
  test.each([
    ['of another part', { contentRange: 'bytes 5-899999/900000' }],
    ['that does not say of which part', { contentRange: '' }],
  ])('%s is not taken for the next one', async (_, fault) => {
    cutThen(fault)
    const { fetchedBytes } = await pull('some/model')
    whole()
    // Asked once for the rest, then for all: nothing of the wrong part was written or hashed.
    const ranges = hub.served.filter(({ path }) => path === 'model.safetensors').map(({ range }) => range)
    expect(ranges).toEqual([undefined, expect.stringMatching(/^bytes=[1-9]/), undefined])
    expect(fetchedBytes).toBeGreaterThan(SUM)
  })

  test('that a proxy has packed is unpacked, and a part of a packed one is not glued to what is there', async () => {
    hub.fault = () => ({ gzip: true })
    await pull('some/model')
    whole()
    rmSync(settings.cache, { recursive: true })
    mkdirSync(repoPath('blobs'), { recursive: true })
    writeFileSync(unfinished(), weights.subarray(0, 200_000))
    await pull('some/model')
    whole()
  })

  test('that never begins is given up', async () => {
    hub.fault = (where, _, times) => (where === 'storage' && times === 0 ? { before: () => new Promise(() => {}) } : {})
    await pull('some/model', {}, { stallMs: 200 })
    whole()
  })

  test.each([true, false])('with a Git LFS pointer is told as one, ranges or not (%s)', async (ranges) => {
    hub.fault = (where) => (where === 'storage' ? { content: POINTER, ignoreRange: !ranges } : undefined)
    const error = await refused(pull('some/model'))
    expect(error).toMatchObject({ code: 'CHECKPOINT_INVALID', message: expect.stringContaining('Git LFS pointer') })
    hub.fault = () => undefined
    await pull('some/model')
    whole()
  })

  test('of a repository that was renamed leads to it, with the token', async () => {
    hub.repos.set('new/name', { files: FILES, access: 'private' })
    hub.moved.set('some/model', 'new/name')
    const { path } = await pull('some/model', {}, { token: { value: hub.token, from: 'HF_TOKEN' } })
    expect(readFileSync(join(path, 'model.safetensors')).equals(weights)).toBe(true)
  })

  test('whose next page is elsewhere takes no token there', async () => {
    const seen: (string | undefined)[] = []
    const other = createServer(({ headers }, response) => {
      seen.push(headers.authorization)
      response.writeHead(200, { 'content-type': 'application/json' }).end('[]')
    }).listen(0, '127.0.0.1')
    await once(other, 'listening')
    const files = { ...FILES, ...Object.fromEntries(['a', 'b', 'c'].map((name) => [name, Buffer.from(name)])) }
    hub.repos.set('some/model', { files })
    hub.nextPage = (url) => new URL(url.pathname, `http://127.0.0.1:${(other.address() as AddressInfo).port}`)
    await pull('some/model', {}, { token: { value: hub.token, from: 'HF_TOKEN' } }).finally(() => other.close())
    expect(seen).toEqual([undefined])
  })
})

describe('names', () => {
  test('of files may have blanks, other letters and signs that addresses know', async () => {
    const name = 'Größe 模型 #1 50% &?+.gguf'
    hub.repos.set('some/model', { files: { [name]: weights } })
    const { path } = await pull(`some/model:${name}`)
    expect(path).toBe(join(snapshot(), name))
    expect(readFileSync(path).equals(weights)).toBe(true)
  })

  test.each(['v1.0', 'refs/pr/1', 'feature/x-1', 'abc1234'])('of a revision may be %s', async (revision) => {
    const commit = 'c'.repeat(40)
    hub.repos.set('some/model', { files: FILES, refs: { [revision]: commit } })
    const { path } = await pull('some/model', { revision })
    expect(path).toBe(repoPath('snapshots', commit))
    expect((await pull('some/model', { revision }, { offline: true })).path).toBe(path)
    const [model] = await readCache(settings.cache)
    expect(model!.revisions).toMatchObject([{ commit, refs: [revision] }])
  })

  test.each(['../main', 'a/../../b', '/etc/passwd', '..', 'a//b', 'a/', 'a b', ''])(
    'of a revision are never %j',
    async (revision) => {
      expect(await refused(publicPull('some/model', { revision }))).toMatchObject({ code: 'INVALID_ARGUMENT' })
    },
  )
})

describe('settings', () => {
  test.each(['hf_ä', 'hf a', 'hf_a\nb'])(
    'a token that is none (%j) is refused without being shown',
    async (HF_TOKEN) => {
      const error = await refused(hubSettings({}, { HOME: folder, HF_TOKEN }))
      expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('HF_TOKEN') })
      expect(error.message).not.toContain(HF_TOKEN)
    },
  )

  test('an address with a password in it is none', async () => {
    const error = await refused(hubSettings({}, { HOME: folder, HF_ENDPOINT: 'https://user:secret@hub.example' }))
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})

describe('a file system without links', () => {
  test.each(['EPERM', 'ENOTSUP', 'ENOSYS'])('(%s) has files, fetched once, listed and removed', async (code) => {
    without.links = code
    const { path } = await pull('some/model')
    whole()
    for (const name of Object.keys(FILES)) expect(lstatSync(join(path, name)).isFile(), name).toBe(true)
    expect(readdirSync(repoPath('blobs')), 'nothing is there twice').toEqual([])
    const before = hub.served.length
    expect((await pull('some/model')).fetchedBytes).toBe(0)
    expect(hub.served.length).toBe(before)
    expect((await pull('some/model', {}, { offline: true })).path).toBe(path)
    const [model] = await readCache(settings.cache)
    expect(model).toMatchObject({ name: 'some/model', bytes: SUM })
    expect(await removeCached(model!)).toBe(SUM)
    expect(existsSync(path)).toBe(false)
  })

  test('has one who fetches at a time', async () => {
    without.links = 'EPERM'
    hub.fault = () => ({ slow: 5 })
    const both = await Promise.all([pull('some/model'), pull('some/model')])
    whole()
    expect(both[0].fetchedBytes + both[1].fetchedBytes).toBe(SUM)
    expect(
      readdirSync(join(settings.cache, '.locks'), { recursive: true, withFileTypes: true }).filter((one) =>
        one.isFile(),
      ),
    ).toEqual([])
  })
})

describe('the command', () => {
  beforeAll(build)

  const command = (...args: string[]) => {
    const environment = {
      PATH: process.env.PATH,
      HF_ENDPOINT: hub.endpoint,
      HF_HUB_CACHE: settings.cache,
      HOME: folder,
    }
    const child = spawn(process.execPath, [join(DIST, 'cli', 'main.js'), ...args], { env: environment })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text))
    return { child, ended: once(child, 'exit').then(([code]) => ({ code, output })) }
  }

  test('that Ctrl-C ends says so by its code, and the next goes on where it ended', async () => {
    hub.fault = (where, path, times) =>
      where === 'storage' && path === 'model.safetensors' && times === 0 ? { stallAfter: 600_000 } : undefined
    const first = command('pull', 'some/model')
    await expect.poll(() => existsSync(unfinished()) && statSync(unfinished()).size, { timeout: 30_000 }).toBe(600_000)
    first.child.kill('SIGINT')
    expect(await first.ended).toMatchObject({ code: 130 })
    expect(statSync(unfinished()).size).toBe(600_000)
    expect(await command('pull', 'some/model').ended).toMatchObject({ code: 0 })
    whole()
    expect(hub.served.at(-1)).toMatchObject({ range: 'bytes=600000-', bytes: weights.length - 600_000 })
  })
})

/** Models by name, from a server that behaves like the hub and fails like it. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { fetchFiles } from '../../../lib/hub/fetch.ts'
import { parseHubName } from '../../../lib/hub/name.ts'
import { type HubOptions, pullInto } from '../../../lib/hub/pull.ts'
import type { HubSettings } from '../../../lib/hub/settings.ts'
import type { LoadProgress } from '../../../lib/index.ts'
import { build, DIST } from '../../built.ts'
import { blobOf, commitOf, type Fault, LocalHub } from './server.ts'

const run = promisify(execFile)

/** Weights of a few hundred kilobytes are large: they lie in the storage. */
const weights = randomBytes(900_000)
const FILES = {
  'config.json': Buffer.from('{"model_type":"llama"}'),
  'generation_config.json': Buffer.from('{"temperature":1}'),
  'tokenizer.json': Buffer.from(JSON.stringify({ filler: 'x'.repeat(100_000) })),
  'tokenizer_config.json': Buffer.from('{}'),
  'chat_template.jinja': Buffer.from('{{ messages }}'),
  'model.safetensors': weights,
}
/** Of no use to a load. */
const OTHERS = {
  'README.md': Buffer.from('# A model'),
  '.gitattributes': Buffer.from('* lfs'),
  'pytorch_model.bin': randomBytes(200_000),
  'original/consolidated.00.pth': randomBytes(200_000),
  'original/params.json': Buffer.from('{}'),
  'onnx/model.onnx': randomBytes(100_000),
  'onnx/model.safetensors': randomBytes(100_000),
  'vocab.txt': Buffer.from('a'),
}

let hub: LocalHub
let folder: string
let settings: HubSettings
beforeEach(async () => {
  hub = await LocalHub.start()
  hub.repos.set('some/model', { files: { ...OTHERS, ...FILES } })
  folder = mkdtempSync(join(tmpdir(), 'millrace-hub-'))
  settings = hub.settings(join(folder, 'hub'))
})
afterEach(() => {
  hub.close()
  rmSync(folder, { recursive: true, force: true })
})

const pull = (name: string, options: HubOptions = {}, more: Partial<HubSettings> = {}) =>
  pullInto(parseHubName(name)!, options, { ...settings, ...more })
const refused = async (promise: Promise<unknown>) =>
  promise.then(
    () => expect.fail('expected an error'),
    (error) => error as { code: string; message: string; remedy: string; retryAfterMs?: number },
  )
const repoPath = (...parts: string[]) => join(settings.cache, 'models--some--model', ...parts)
const blobPath = (content: Buffer) => repoPath('blobs', blobOf(content))
/** Of the weights alone; everything else is as it should be. */
const faulty = (fault: (times: number) => Fault | undefined) => {
  hub.fault = (where, path, times) => (where === 'storage' && path === 'model.safetensors' ? fault(times) : undefined)
}
const whole = () => {
  expect(readFileSync(join(repoPath('snapshots', commitOf('some/model')), 'model.safetensors')).equals(weights)).toBe(
    true,
  )
  expect(readdirSync(repoPath('blobs')).filter((name) => name.endsWith('.incomplete'))).toEqual([])
}

describe('names', () => {
  test.each(['some/model', 'TheBloke/Llama-2-7B-GPTQ', 'a/b', 'Qwen/Qwen2.5-0.5B_x', 'a/b:Q4_K_M', 'a/b:sub/c.gguf'])(
    '%s is of the hub',
    (name) => expect(parseHubName(name)).toBeDefined(),
  )
  test.each([
    'model',
    './some/model',
    '/some/model',
    '~/model',
    'a/b/c',
    '../a',
    'a/..',
    'a--b/c',
    'a/b.gguf',
    'a/',
    '/b',
    'models/demo',
    'a b/c',
    '-a/b',
  ])('%s is a path', (name) => expect(parseHubName(name)).toBeUndefined())
})

describe('pull', () => {
  test('fetches what a load needs, once, into the layout of huggingface_hub', async () => {
    const pulled = await pull('some/model')
    const commit = commitOf('some/model')
    expect(pulled.path).toBe(repoPath('snapshots', commit))
    expect(readdirSync(pulled.path, { recursive: true }).sort()).toEqual(Object.keys(FILES).sort())
    for (const [name, content] of Object.entries(FILES)) {
      expect(readFileSync(join(pulled.path, name)).equals(content), name).toBe(true)
      expect(readlinkSync(join(pulled.path, name))).toBe(join('..', '..', 'blobs', blobOf(content)))
      expect(hub.bytesOf(name), name).toBe(content.length)
    }
    expect(readFileSync(repoPath('refs', 'main'), 'utf8')).toBe(commit)
    expect(hub.served.map(({ path }) => path).filter((path) => path in OTHERS)).toEqual([])
    const sum = Object.values(FILES).reduce((bytes, content) => bytes + content.length, 0)
    expect(pulled).toMatchObject({ name: 'some/model', commit, bytes: sum, fetchedBytes: sum, warnings: [] })

    const again = await pull('some/model')
    expect(again).toMatchObject({ path: pulled.path, fetchedBytes: 0 })
    expect(hub.served).toHaveLength(Object.keys(FILES).length)
  })

  test('takes shards that the index names, and neither variants nor duplicates', async () => {
    const index = { weight_map: { a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors' } }
    const { 'model.safetensors': _, ...others } = FILES
    hub.repos.set('some/model', {
      files: {
        ...OTHERS,
        ...others,
        'model.safetensors.index.json': Buffer.from(JSON.stringify(index)),
        'model-00001-of-00002.safetensors': randomBytes(100_000),
        'model-00002-of-00002.safetensors': randomBytes(100_000),
        'pytorch_model.bin.index.json': Buffer.from('{}'),
        'consolidated.safetensors': randomBytes(100_000),
      },
    })
    const { path } = await pull('some/model')
    const names = readdirSync(path).filter((name) => name.includes('safetensors'))
    expect(names.sort()).toEqual([
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
    ])
    expect(hub.bytesOf('consolidated.safetensors')).toBe(0)
  })

  test('of another revision keeps both', async () => {
    const commit = 'a'.repeat(40)
    hub.repos.set('some/model', { files: FILES, refs: { 'refs/pr/1': 'b'.repeat(40), v1: commit } })
    await pull('some/model')
    const { path, fetchedBytes } = await pull('some/model', { revision: 'v1' })
    expect(path).toBe(repoPath('snapshots', commit))
    expect(fetchedBytes).toBe(0)
    expect(readFileSync(repoPath('refs', 'v1'), 'utf8')).toBe(commit)
    const before = hub.asked.length
    expect((await pull('some/model', { revision: commit })).path).toBe(path)
    expect(hub.asked.length, 'what a commit has never changes').toBe(before)
    expect((await refused(pull('some/model', { revision: 'v9' }))).message).toContain("no revision 'v9'")
  })

  test('tells its progress up to all bytes', async () => {
    const seen: LoadProgress[] = []
    await pull('some/model', { onProgress: (progress) => seen.push(progress) })
    const sum = Object.values(FILES).reduce((bytes, content) => bytes + content.length, 0)
    expect(seen.at(-1)).toEqual({ stage: 'download', done: sum, total: sum })
    for (const [index, { done }] of seen.entries()) expect(done).toBeGreaterThanOrEqual(seen[index - 1]?.done ?? 0)
  })

  test('refuses weights that no load could read before it fetches any', async () => {
    hub.repos.set('some/model', {
      files: { 'config.json': FILES['config.json'], 'pytorch_model.bin': randomBytes(100_000) },
    })
    const error = await refused(pull('some/model'))
    expect(error).toMatchObject({ code: 'CHECKPOINT_UNSUPPORTED' })
    expect(error.message).toMatch(/^some\/model: .*pytorch_model\.bin/)
    expect(hub.bytesOf('pytorch_model.bin')).toBe(0)
    hub.repos.set('some/model', { files: { 'README.md': FILES['config.json'] } })
    expect(await refused(pull('some/model'))).toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
  })

  test('takes no path that leads out of its folder', async () => {
    hub.repos.set('some/model', { files: { ...FILES, '../../outside.json': Buffer.from('{}') } })
    expect(await refused(pull('some/model'))).toMatchObject({ code: 'HUB_UNAVAILABLE' })
    expect(hub.served).toEqual([])
  })
})

describe('a connection', () => {
  test('that is cut again and again ends in the right file, and no byte comes twice', async () => {
    faulty(() => ({ cutAfter: 150_000 }))
    const { fetchedBytes } = await pull('some/model')
    whole()
    const ranges = hub.served.filter(({ path }) => path === 'model.safetensors').map(({ range }) => range)
    expect(ranges.length).toBeGreaterThan(4)
    expect(ranges[1]).toMatch(/^bytes=[1-9]\d*-$/)
    expect(hub.bytesOf('model.safetensors')).toBe(weights.length)
    expect(fetchedBytes).toBe(Object.values(FILES).reduce((bytes, content) => bytes + content.length, 0))
  })

  test('that brings nothing more is given up for another', async () => {
    faulty((times) => (times === 0 ? { stallAfter: 200_000 } : undefined))
    await pull('some/model', {}, { stallMs: 300 })
    whole()
    expect(hub.bytesOf('model.safetensors')).toBe(weights.length)
  })

  test('that is slow and steady is not', async () => {
    faulty(() => ({ slow: 60 }))
    await pull('some/model', {}, { stallMs: 500 })
    whole()
    expect(hub.served.filter(({ path }) => path === 'model.safetensors')).toHaveLength(1)
  })

  test('that never brings anything is told, with what came kept', async () => {
    faulty((times) => (times === 0 ? { cutAfter: 300_000 } : { cutAfter: 0 }))
    const error = await refused(pull('some/model'))
    expect(error).toMatchObject({ code: 'HUB_UNAVAILABLE', remedy: expect.stringContaining('is kept') })
    const unfinished = `${blobPath(weights)}.incomplete`
    const { size } = statSync(unfinished)
    expect(size).toBeGreaterThan(200_000)
    faulty(() => undefined)
    await pull('some/model')
    whole()
    expect(hub.served.at(-1)!.range).toBe(`bytes=${size}-`)
  })

  test('to a server without ranges begins again', async () => {
    faulty((times) => (times === 0 ? { cutAfter: 300_000 } : { ignoreRange: true }))
    await pull('some/model')
    whole()
  })

  test('to a server without ranges that is always cut at one place ends', async () => {
    faulty(() => ({ ignoreRange: true, cutAfter: 300_000 }))
    expect(await refused(pull('some/model'))).toMatchObject({ code: 'HUB_UNAVAILABLE' })
  })

  test('that cannot be made is told', async () => {
    const error = await refused(pull('some/model', {}, { endpoint: 'http://127.0.0.1:2' }))
    expect(error).toMatchObject({ code: 'HUB_UNAVAILABLE' })
    expect(error.message).toMatch(
      /'some\/model': found no such folder here, and http:\/\/127\.0\.0\.1:2: cannot be reached/,
    )
  })
})

describe('content', () => {
  test('of another hash is fetched once more', async () => {
    faulty((times) => (times === 0 ? { corrupt: true } : undefined))
    await pull('some/model')
    whole()
  })

  test('of another hash every time is refused, and nothing of it stays', async () => {
    faulty(() => ({ corrupt: true }))
    const error = await refused(pull('some/model'))
    expect(error).toMatchObject({ code: 'CHECKPOINT_INVALID' })
    expect(error.message).toContain('model.safetensors')
    expect(readdirSync(repoPath('blobs')).some((name) => name.startsWith(blobOf(weights)))).toBe(false)
  })

  test('of small files is checked by git’s hash', async () => {
    hub.fault = (_, path) => (path === 'config.json' ? { corrupt: true } : undefined)
    expect(await refused(pull('some/model'))).toMatchObject({ code: 'CHECKPOINT_INVALID' })
  })

  test('with more than there should be is refused', async () => {
    faulty(() => ({ surplus: 1000 }))
    expect(await refused(pull('some/model'))).toMatchObject({ code: 'CHECKPOINT_INVALID' })
  })

  test.each([
    ['begins otherwise', () => randomBytes(400_000)],
    ['is longer', () => randomBytes(1_000_000)],
    ['is whole already', () => weights],
    ['is as long and another', () => randomBytes(weights.length)],
  ])('of an earlier try that %s is dealt with', async (_, begun) => {
    mkdirSync(repoPath('blobs'), { recursive: true })
    writeFileSync(`${blobPath(weights)}.incomplete`, begun())
    await pull('some/model')
    whole()
    if (begun() === weights) expect(hub.bytesOf('model.safetensors')).toBe(0)
  })
})

describe('refusals', () => {
  const token = { value: 'hf_test', from: 'HF_TOKEN' }

  test('of a gated model name the page', async () => {
    hub.repos.set('some/model', { files: FILES, access: 'gated' })
    for (const more of [{}, { token }]) {
      const error = await refused(pull('some/model', {}, more))
      expect(error).toMatchObject({ code: 'HUB_ACCESS_DENIED' })
      expect(error.remedy).toContain(`${hub.endpoint}/some/model`)
      expect(error.remedy).toContain('token')
    }
  })

  test('of a private model are as of one that is not there; the token opens it, and goes to nobody else', async () => {
    hub.repos.set('some/model', { files: FILES, access: 'private' })
    expect(await refused(pull('some/model'))).toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
    await pull('some/model', {}, { token })
    whole()
    const { authorization } = hub.served.find(({ path }) => path === 'model.safetensors')!
    expect(authorization, 'at the storage').toBeUndefined()
    expect(hub.served.find(({ path }) => path === 'config.json')!.authorization).toBe('Bearer hf_test')
  })

  test('of a wrong token name where it came from', async () => {
    const error = await refused(pull('some/model', {}, { token: { value: 'hf_old', from: '/home/x/token' } }))
    expect(error).toMatchObject({ code: 'HUB_ACCESS_DENIED', message: expect.stringContaining('/home/x/token') })
  })

  test('of what is not there say so', async () => {
    const error = await refused(pull('some/other'))
    expect(error).toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
    expect(error.message).toMatch(/^'some\/other': found no such folder here, and no repository/)
  })

  test('for too many requests are waited for, as long as the hub says', async () => {
    hub.apiFault = (times) => (times < 2 ? { status: 429, headers: { 'retry-after': '0' } } : undefined)
    faulty((times) => (times < 2 ? { status: 503 } : undefined))
    await pull('some/model')
    whole()
    hub.apiFault = () => ({ status: 429, headers: { 'retry-after': '300' } })
    expect(await refused(pull('some/model', { revision: 'main' }, { cache: join(folder, 'other') }))).toMatchObject({
      code: 'HUB_UNAVAILABLE',
      retryAfterMs: 300_000,
    })
  })

  test('of an address that has expired lead to another', async () => {
    faulty((times) => (times === 0 ? { cutAfter: 200_000 } : times === 1 ? { status: 403 } : undefined))
    await pull('some/model')
    whole()
  })

  test('of a file in the middle end the others', async () => {
    hub.fault = (where, path) => (where === 'resolve' && path === 'tokenizer.json' ? { status: 418 } : undefined)
    expect(await refused(pull('some/model'))).toMatchObject({
      code: 'HUB_UNAVAILABLE',
      message: expect.stringContaining('418'),
    })
  })
})

describe('a disk', () => {
  test('that is full is told, with what to do', async () => {
    mkdirSync(repoPath('blobs'), { recursive: true })
    symlinkSync('/dev/full', `${blobPath(weights)}.incomplete`)
    const error = await refused(pull('some/model'))
    expect(error).toMatchObject({ code: 'WRITE_FAILED', remedy: expect.stringContaining('HF_HUB_CACHE') })
    expect(error.message).toContain('ENOSPC')
  })

  test('has room for the rest of what was begun', async () => {
    const { bavail, bsize } = statfsSync(folder)
    const large = { path: 'model.safetensors', size: bavail * bsize + 2 ** 30, blob: 'f'.repeat(64) }
    const files = { repo: 'some/model', revision: 'main', commit: commitOf('some/model'), files: [large] }
    const fetch = (signal?: AbortSignal) => refused(fetchFiles(files, [large], settings, { signal }))
    expect(await fetch()).toMatchObject({ code: 'WRITE_FAILED', message: expect.stringContaining('are free there') })
    mkdirSync(repoPath('blobs'), { recursive: true })
    const begun = repoPath('blobs', `${large.blob}.incomplete`)
    writeFileSync(begun, '')
    truncateSync(begun, large.size - 2 ** 20)
    // It is looked at, which takes longer than this.
    expect(await fetch(AbortSignal.timeout(50))).toMatchObject({ code: 'ABORTED' })
  })

  test('that may not be written to is told', async () => {
    writeFileSync(join(folder, 'file'), '')
    expect(await refused(pull('some/model', {}, { cache: join(folder, 'file') }))).toMatchObject({
      code: 'WRITE_FAILED',
    })
  })
})

describe('an abort', () => {
  test('ends the download, and keeps what came', async () => {
    const controller = new AbortController()
    faulty(() => ({ stallAfter: 300_000 }))
    const onProgress = ({ done }: LoadProgress) => done > 350_000 && controller.abort()
    const error = await refused(pull('some/model', { signal: controller.signal, onProgress }))
    expect(error).toMatchObject({ code: 'ABORTED' })
    expect(statSync(`${blobPath(weights)}.incomplete`).size).toBeGreaterThan(100_000)
    expect(await refused(pull('some/model', { signal: controller.signal }))).toMatchObject({ code: 'ABORTED' })
  })
})

describe('offline', () => {
  test('the cache is used, and what it has not is told', async () => {
    const off = { offline: true }
    const error = await refused(pull('some/model', {}, off))
    expect(error).toMatchObject({
      code: 'CHECKPOINT_NOT_FOUND',
      remedy: expect.stringContaining('millrace pull some/model'),
    })
    const { path } = await pull('some/model')
    const before = hub.asked.length
    expect((await pull('some/model', {}, off)).path).toBe(path)
    expect(hub.asked.length).toBe(before)
  })

  test('a hub that cannot be reached is no obstacle where all is there, and is told', async () => {
    const { path } = await pull('some/model')
    const again = await pull('some/model', {}, { endpoint: 'http://127.0.0.1:2' })
    expect(again.path).toBe(path)
    expect(again.warnings[0]).toContain('127.0.0.1:2')
    rmSync(blobPath(weights))
    expect(await refused(pull('some/model', {}, { endpoint: 'http://127.0.0.1:2' }))).toMatchObject({
      code: 'HUB_UNAVAILABLE',
    })
  })
})

describe('processes', () => {
  beforeAll(build)

  const program = (name: string) =>
    `import { pull } from ${JSON.stringify(join(DIST, 'index.js'))}
     const { path, fetchedBytes } = await pull(${JSON.stringify(name)})
     console.log(JSON.stringify({ path, fetchedBytes }))`
  const environment = () => ({
    PATH: process.env.PATH,
    HF_ENDPOINT: hub.endpoint,
    HF_HUB_CACHE: settings.cache,
    HOME: folder,
  })
  const start = (name: string) =>
    run(process.execPath, ['--input-type=module', '-e', program(name)], { env: environment() })

  test('two at once fetch every file once', async () => {
    hub.fault = () => ({ slow: 20 })
    const both = (await Promise.all([start('some/model'), start('some/model')])).map(({ stdout }) => JSON.parse(stdout))
    whole()
    const sum = Object.values(FILES).reduce((bytes, content) => bytes + content.length, 0)
    expect(both[0].fetchedBytes + both[1].fetchedBytes).toBe(sum)
    for (const [name, content] of Object.entries(FILES)) expect(hub.bytesOf(name), name).toBe(content.length)
  })

  test('one that is killed leaves what it has to the next, and no lock', async () => {
    const reached = new Promise<void>((resolve) => {
      faulty((times) =>
        times === 0 ? { stallAfter: 600_000, before: () => void setTimeout(resolve, 400) } : undefined,
      )
    })
    const child = start('some/model')
    child.catch(() => {})
    await reached
    child.child.kill('SIGKILL')
    await refused(child)
    const { size } = statSync(`${blobPath(weights)}.incomplete`)
    expect(size).toBeGreaterThan(0)
    await pull('some/model')
    whole()
    expect(hub.served.at(-1)).toMatchObject({ range: `bytes=${size}-`, bytes: weights.length - size })
  })
})

/** The cache: what a name means there, whatever was fetched before, and what is removed of it. */
import { randomBytes } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { readCache } from '../../../lib/hub/list.ts'
import { locateIn } from '../../../lib/hub/locate.ts'
import { parseHubName } from '../../../lib/hub/name.ts'
import { type HubOptions, pullInto, pullTokenizer } from '../../../lib/hub/pull.ts'
import { removeCached } from '../../../lib/hub/remove.ts'
import type { HubSettings } from '../../../lib/hub/settings.ts'
import { blobOf, commitOf, LocalHub } from './server.ts'

const file = (bytes: number) => randomBytes(bytes)
const SETTINGS = {
  'config.json': Buffer.from('{"model_type":"llama"}'),
  'tokenizer.json': Buffer.from('{}'),
  'chat_template.jinja': Buffer.from('{{ messages }}'),
}
const [q4, q8, weights, newer] = [file(100_000), file(200_000), file(150_000), file(150_000)]
const FIRST = 'a'.repeat(40)
const SECOND = 'b'.repeat(40)

let hub: LocalHub
let folder: string
let settings: HubSettings
beforeEach(async () => {
  hub = await LocalHub.start()
  folder = mkdtempSync(join(tmpdir(), 'millrace-cache-'))
  settings = hub.settings(join(folder, 'hub'))
})
afterEach(() => {
  hub.close()
  rmSync(folder, { recursive: true, force: true })
})

const pull = (name: string, options: HubOptions = {}, more: Partial<HubSettings> = {}) =>
  pullInto(parseHubName(name)!, options, { ...settings, ...more })
const offline = (name: string, options: HubOptions = {}) => pull(name, options, { offline: true })
const refused = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.fail('expected an error'),
    (error) => error as { code: string; message: string; remedy: string },
  )
const repoPath = (...parts: string[]) => join(settings.cache, 'models--some--model', ...parts)
/** `main` is at a commit, and files are these. */
const publish = (commit: string, files: Record<string, Buffer>) =>
  hub.repos.set('some/model', { files, refs: { main: commit } })

describe('what a name means does not depend on what was fetched before', () => {
  test('the only GGUF file of a commit that is here is not the only one that it has', async () => {
    publish(FIRST, { 'model-Q4_0.gguf': q4, 'model-Q8_0.gguf': q8 })
    await pull('some/model:Q8_0', { revision: FIRST })
    expect(await refused(pull('some/model', { revision: FIRST }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('has 2 GGUF models'),
    })
    expect(await refused(locateIn(parseHubName('some/model')!, {}, 'headers', settings))).toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
  })

  test('a GGUF file that is here is not the model of a repository with safetensors', async () => {
    publish(FIRST, { ...SETTINGS, 'model.safetensors': weights, 'model-Q4_0.gguf': q4 })
    await pull('some/model:Q4_0', { revision: FIRST })
    expect(await refused(offline('some/model', { revision: FIRST })), 'nor without the hub').toMatchObject({
      code: 'CHECKPOINT_NOT_FOUND',
      message: expect.stringContaining('config.json'),
    })
    expect((await pull('some/model', { revision: FIRST })).path).toBe(repoPath('snapshots', FIRST))
    expect(existsSync(repoPath('snapshots', FIRST, 'model.safetensors'))).toBe(true)
  })

  test('what another tool has fetched of a commit is not all of it', async () => {
    publish(FIRST, { ...SETTINGS, 'model.safetensors': weights })
    // As hf_hub_download() leaves them, one by one.
    mkdirSync(repoPath('blobs'), { recursive: true })
    mkdirSync(repoPath('snapshots', FIRST), { recursive: true })
    for (const [name, content] of Object.entries({ ...SETTINGS, 'model.safetensors': weights })) {
      if (name === 'chat_template.jinja') continue
      writeFileSync(repoPath('blobs', blobOf(content)), content)
      symlinkSync(join('..', '..', 'blobs', blobOf(content)), repoPath('snapshots', FIRST, name))
    }
    const { fetchedBytes } = await pull('some/model', { revision: FIRST })
    expect(fetchedBytes).toBe(SETTINGS['chat_template.jinja'].length)
    expect(existsSync(repoPath('snapshots', FIRST, 'chat_template.jinja'))).toBe(true)
  })

  test('a plan and a tokenizer are of the commit that a load would take', async () => {
    publish(FIRST, { ...SETTINGS, 'model.safetensors': weights })
    await pull('some/model')
    publish(SECOND, { ...SETTINGS, 'tokenizer.json': Buffer.from('{"new":1}'), 'model.safetensors': weights })
    const { path } = await pullTokenizer(parseHubName('some/model')!, {}, settings)
    expect(readFileSync(join(path, 'tokenizer.json'), 'utf8')).toBe('{"new":1}')
    // All of its weights are here, under the other commit: nothing is a mere header.
    await using located = await locateIn(parseHubName('some/model')!, {}, 'headers', settings)
    expect(located).toMatchObject({ path: repoPath('snapshots', SECOND), headersOnly: false })
    expect(hub.bytesOf('model.safetensors')).toBe(weights.length)
  })

  test('a file that two commits share is of both, offline too', async () => {
    publish(FIRST, { 'model-Q4_0.gguf': q4, 'model-Q8_0.gguf': q8 })
    await pull('some/model:Q4_0')
    publish(SECOND, { 'model-Q4_0.gguf': q4, 'model-Q8_0.gguf': newer })
    await pull('some/model:Q8_0')
    const { path } = await offline('some/model:Q4_0')
    expect(path).toBe(repoPath('snapshots', SECOND, 'model-Q4_0.gguf'))
    expect(readFileSync(path).equals(q4)).toBe(true)
    expect((await refused(offline('some/model:Q2_K'))).code).toBe('CHECKPOINT_NOT_FOUND')
  })

  test('the same answer comes with the hub, without it, and for a commit without asking it', async () => {
    publish(FIRST, { ...SETTINGS, 'model.safetensors': weights })
    const { path } = await pull('some/model')
    const asked = hub.asked.length
    for (const revision of ['main', FIRST]) {
      expect((await offline('some/model', { revision })).path).toBe(path)
      const { warnings } = await pull('some/model', { revision }, { endpoint: 'http://127.0.0.1:2' })
      expect(warnings).toHaveLength(revision === 'main' ? 1 : 0)
    }
    expect(hub.asked.length).toBe(asked)
    unlinkSync(repoPath('blobs', blobOf(weights)))
    expect(await refused(offline('some/model'))).toMatchObject({
      code: 'CHECKPOINT_NOT_FOUND',
      message: expect.stringContaining('model.safetensors'),
    })
  })

  test('a list of files that was spoilt is fetched again', async () => {
    publish(FIRST, { ...SETTINGS, 'model.safetensors': weights })
    await pull('some/model')
    for (const text of ['', '[]x', '{"files":[{"path":"../../outside","size":1,"blob":"x"}]}']) {
      const [list] = readdirSync(repoPath('.millrace'))
      writeFileSync(repoPath('.millrace', list!), text)
      const asked = hub.asked.length
      expect((await pull('some/model', { revision: FIRST })).fetchedBytes).toBe(0)
      expect(hub.asked.length).toBeGreaterThan(asked)
    }
  })
})

describe('a removal', () => {
  const only = async () => (await readCache(settings.cache))[0]!
  beforeEach(() => {
    hub.repos.set('some/model', { files: { 'model-Q4_0.gguf': q4, 'sub/model-Q8_0.gguf': q8 } })
  })
  const outside = () => {
    const path = join(folder, 'outside')
    mkdirSync(path)
    writeFileSync(join(path, 'mine.gguf'), q4)
    return path
  }
  const isThere = (path: string) => expect(readFileSync(join(path, 'mine.gguf')).equals(q4)).toBe(true)

  test('takes a link away and leaves what it points to outside of the cache', async () => {
    const path = outside()
    await pull('some/model:Q8_0')
    symlinkSync(join(path, 'mine.gguf'), repoPath('snapshots', commitOf('some/model'), 'mine.gguf'))
    expect(await removeCached(await only(), (name) => name === 'mine.gguf')).toBe(0)
    isThere(path)
    expect((await only()).revisions[0]!.files.map(({ name }) => name)).toEqual(['sub/model-Q8_0.gguf'])
    symlinkSync(join(path, 'mine.gguf'), repoPath('blobs', 'c'.repeat(64)))
    expect(await removeCached(await only())).toBe(q8.length)
    isThere(path)
  })

  test('removes nothing in a folder that a link leads to', async () => {
    const path = outside()
    await pull('some/model:Q8_0')
    symlinkSync(path, repoPath('snapshots', commitOf('some/model'), 'linked'))
    expect(await refused(removeCached(await only(), (name) => name === 'linked/mine.gguf'))).toMatchObject({
      code: 'WRITE_FAILED',
      message: expect.stringContaining('outside'),
    })
    isThere(path)
    await removeCached(await only())
    isThere(path)
  })

  test('of a model that lies elsewhere takes the link to it', async () => {
    await pull('some/model:Q8_0')
    const path = join(folder, 'elsewhere')
    renameSync(repoPath(), path)
    symlinkSync(path, repoPath())
    expect(await refused(removeCached(await only(), () => true))).toMatchObject({ code: 'WRITE_FAILED' })
    expect(await removeCached(await only())).toBe(0)
    expect(existsSync(repoPath())).toBe(false)
    expect(readFileSync(join(path, 'blobs', blobOf(q8))).equals(q8)).toBe(true)
  })

  test('in a cache that is itself reached by a link frees what it says', async () => {
    symlinkSync(join(folder, 'disk'), join(folder, 'link'))
    mkdirSync(join(folder, 'disk'))
    settings = { ...settings, cache: join(folder, 'link') }
    await pull('some/model:Q8_0')
    await pull('some/model:Q4_0')
    expect(await removeCached(await only(), (name) => name === 'sub/model-Q8_0.gguf')).toBe(q8.length)
    expect(existsSync(repoPath('blobs', blobOf(q8)))).toBe(false)
    expect(existsSync(repoPath('blobs', blobOf(q4)))).toBe(true)
  })
})

import { mkdtempSync, readdirSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { NativePacked, NativeSlabPlan } from '../../../lib/binding.ts'
import type { CheckpointFolder } from '../../../lib/checkpoint/folder.ts'
import {
  cacheFolder,
  clearCache,
  keepPacked,
  listCache,
  type ModelCache,
  packedFile,
} from '../../../lib/model/cache.ts'

const MIB = 2 ** 20
const silent = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() }

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-cache-'))
})
afterEach(() => {
  vi.unstubAllEnvs()
  vi.clearAllMocks()
  rmSync(folder, { recursive: true, force: true })
})

/** A file of so many bytes, of which the disk holds none, last used so many seconds ago. */
function entry(name: string, bytes: number, secondsAgo: number): void {
  writeFileSync(join(folder, name), '')
  truncateSync(join(folder, name), bytes)
  const time = Date.now() / 1000 - secondsAgo
  utimesSync(join(folder, name), time, time)
}

describe('the folder', () => {
  const byDefault = join(homedir(), '.cache', 'millrace', 'packed')
  test.each([
    [undefined, undefined, byDefault],
    [true, undefined, byDefault],
    [true, 'off', byDefault],
    [undefined, 'on', byDefault],
    [undefined, 'off', undefined],
    [undefined, '0', undefined],
    [false, '/elsewhere', undefined],
    [undefined, '/elsewhere', '/elsewhere'],
    [true, '/elsewhere', '/elsewhere'],
    ['/mine', '/elsewhere', '/mine'],
    ['/mine', 'off', '/mine'],
  ])('option %j, MILLRACE_CACHE %j: %j', (option, word, expected) => {
    vi.stubEnv('XDG_CACHE_HOME', '')
    vi.stubEnv('MILLRACE_CACHE', word)
    expect(cacheFolder(option)).toBe(expected)
  })

  test('XDG_CACHE_HOME is followed where it is absolute', () => {
    vi.stubEnv('MILLRACE_CACHE', undefined)
    vi.stubEnv('XDG_CACHE_HOME', '/caches')
    expect(cacheFolder(undefined)).toBe('/caches/millrace/packed')
    vi.stubEnv('XDG_CACHE_HOME', 'relative')
    expect(cacheFolder(undefined)).toBe(byDefault)
  })
})

describe('a packed file', () => {
  const checkpoint = (path: string) => ({ path, weightFiles: [join(path, 'model.safetensors')] }) as CheckpointFolder
  const plan = (headBytes: number, type: 'f16' | 'q4' = 'f16'): NativeSlabPlan => ({
    layoutVersion: 1,
    units: [{ name: 'head', kind: 'head', layer: -1, kvClass: -1, bytes: headBytes, types: [type] }],
    embeddingBytes: 10,
    embeddingType: 'f16',
    kv: [],
    kvBytesPerToken: 1,
  })

  test('is named after its checkpoint, and has its bytes', () => {
    const file = packedFile('/c', checkpoint('/models/A b'), plan(64 * MIB))!
    expect(file.path).toMatch(/^\/c\/A_b-[0-9a-f]{16}\.packed$/)
    expect(file.bytes).toBe(64 * MIB + 10)
    expect(packedFile('/c', checkpoint('/h/models--me--it/snapshots/abc'), plan(64 * MIB))!.path).toMatch(
      /^\/c\/me--it-[0-9a-f]{16}\.packed$/,
    )
  })

  test('is another for other files and for other weights', () => {
    const paths = [
      packedFile('/c', checkpoint('/a/model'), plan(64 * MIB)),
      packedFile('/c', checkpoint('/b/model'), plan(64 * MIB)),
      packedFile('/c', checkpoint('/a/model'), plan(64 * MIB, 'q4')),
    ].map((file) => file!.path)
    expect(new Set(paths).size).toBe(3)
  })

  test('is not made of small models, nor where nothing is to be kept', () => {
    expect(packedFile('/c', checkpoint('/a/model'), plan(64 * MIB - 11))).toBeUndefined()
    expect(packedFile(undefined, checkpoint('/a/model'), plan(64 * MIB))).toBeUndefined()
  })
})

test('listing and clearing concern packed files alone', async () => {
  entry('new.packed', 10, 5)
  entry('old.packed', 20, 50)
  entry('half.packed.part', 30, 5)
  entry('notes.txt', 40, 5)
  expect((await listCache(folder)).map(({ path, bytes }) => [path, bytes])).toEqual([
    [join(folder, 'old.packed'), 20],
    [join(folder, 'new.packed'), 10],
  ])
  expect(await clearCache(folder)).toHaveLength(3)
  expect(readdirSync(folder)).toEqual(['notes.txt'])
  expect(await listCache(join(folder, 'missing'))).toEqual([])
})

describe('after a load', () => {
  const model = (packed: NativePacked, write: (path: string) => Promise<string> = async () => '') => ({
    packed,
    writePacked: vi.fn(write),
  })
  const cacheOf = (bytes = 100): ModelCache => ({ path: join(folder, 'this.packed'), bytes, state: 'writing' })

  test.each([
    ['read', 'read'],
    ['unused', 'shared'],
  ] as const)('%s: nothing is written', async (state, expected) => {
    const native = model({ state, reason: '' })
    const cache = cacheOf()
    await keepPacked(native, cache, folder, silent)
    expect(cache.state).toBe(expected)
    expect(native.writePacked).not.toHaveBeenCalled()
  })

  test.each([
    ['absent', '', 0],
    ['stale', 'the files have changed', 0],
    ['damaged', 'its header is damaged', 1],
  ] as const)('%s: it is written', async (state, reason, warnings) => {
    const native = model({ state, reason })
    const cache = cacheOf()
    await keepPacked(native, cache, join(folder, 'new', 'folder'), silent)
    expect(cache).toMatchObject({ state: 'written' })
    expect(native.writePacked).toHaveBeenCalledWith(cache.path)
    expect(statSync(join(folder, 'new', 'folder')).mode & 0o777).toBe(0o700)
    expect(silent.warn).toHaveBeenCalledTimes(warnings)
    if (reason !== '') {
      const told = warnings > 0 ? silent.warn : silent.info
      expect(told).toHaveBeenCalledWith(expect.objectContaining({ reason }), expect.stringContaining(reason))
    }
  })

  test('what keeps it from being written is told, and fails nothing', async () => {
    const cache = cacheOf()
    await keepPacked(
      model({ state: 'absent', reason: '' }, async () => 'the disk has too little free space'),
      cache,
      folder,
      silent,
    )
    expect(cache).toMatchObject({ state: 'failed', reason: 'the disk has too little free space' })
    expect(silent.warn).toHaveBeenCalledOnce()
    writeFileSync(join(folder, 'file'), '')
    const other = cacheOf()
    await keepPacked(model({ state: 'absent', reason: '' }), other, join(folder, 'file', 'below'), silent)
    expect(other).toMatchObject({ state: 'failed', reason: expect.stringContaining('ENOTDIR') })
  })

  test('what was unused longest makes room', async () => {
    vi.stubEnv('MILLRACE_CACHE_LIMIT', '1KiB')
    entry('oldest.packed', 400, 300)
    entry('older.packed', 300, 200)
    entry('recent.packed', 200, 100)
    entry('this.packed', 900, 400) // replaced, so it counts for nothing
    entry('ended.packed.part', 500, 2 * 86_400)
    entry('running.packed.part', 500, 10)
    const cache = cacheOf(500)
    await keepPacked(model({ state: 'stale', reason: 'changed' }), cache, folder, silent)
    expect(cache.state).toBe('written')
    expect(readdirSync(folder).sort()).toEqual(['older.packed', 'recent.packed', 'running.packed.part', 'this.packed'])
  })

  test('what is larger than the cache may be is not written, and removes nothing', async () => {
    vi.stubEnv('MILLRACE_CACHE_LIMIT', '1KiB')
    entry('other.packed', 400, 300)
    const native = model({ state: 'absent', reason: '' })
    const cache = cacheOf(2000)
    await keepPacked(native, cache, folder, silent)
    expect(cache).toMatchObject({ state: 'failed', reason: expect.stringContaining('MILLRACE_CACHE_LIMIT') })
    expect(native.writePacked).not.toHaveBeenCalled()
    expect(readdirSync(folder)).toEqual(['other.packed'])
  })

  test('a limit that is no size is told and ignored', async () => {
    vi.stubEnv('MILLRACE_CACHE_LIMIT', 'plenty')
    const cache = cacheOf()
    await keepPacked(model({ state: 'absent', reason: '' }), cache, folder, silent)
    expect(cache.state).toBe('written')
    expect(silent.warn).toHaveBeenCalledOnce()
  })
})

describe('listCache and clearCache', () => {
  test('of no folder there is nothing', async () => {
    expect(await listCache(join(folder, 'none'))).toEqual([])
    expect(await clearCache(join(folder, 'none'))).toEqual([])
  })

  test('what is no folder is refused, and left as it is', async () => {
    entry('a.packed', 1, 0)
    for (const wrong of [5, null, {}, '', join(folder, 'a.packed')]) {
      await expect(listCache(wrong as string)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
      await expect(clearCache(wrong as string)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
    expect(readdirSync(folder)).toEqual(['a.packed'])
  })
})

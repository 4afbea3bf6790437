import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { makeFolder, messageOf, replaceFile, userCacheFolder, writeFailed } from '../../lib/files.ts'
import { temporaryFolder } from './folder.ts'

describe('the folder of caches', () => {
  const home = process.env.HOME
  test.each(['', 'relative', '.'])('HOME %j is no home: that of the list of users is', (word) => {
    try {
      process.env.HOME = word
      expect(userCacheFolder({})).toEqual({ path: join(userInfo().homedir, '.cache') })
      expect(userCacheFolder({ XDG_CACHE_HOME: word })).toEqual({ path: join(userInfo().homedir, '.cache') })
      expect(userCacheFolder({ XDG_CACHE_HOME: '/caches' })).toEqual({ path: '/caches' })
    } finally {
      process.env.HOME = home
    }
  })
})

describe('makeFolder', () => {
  test('makes all that are missing, with the mode, and leaves what is there', async () => {
    const folder = await temporaryFolder({ file: 'x' })
    await makeFolder(join(folder, 'a', 'b', 'c'), 0o700)
    expect(statSync(join(folder, 'a')).mode & 0o777).toBe(0o700)
    expect(statSync(join(folder, 'a', 'b', 'c')).isDirectory()).toBe(true)
    await makeFolder(join(folder, 'a', 'b'))
    await makeFolder(folder)
    await makeFolder('/')
  })

  // The recursive mkdir of Node.js calls one of these forever.
  test.each(['/proc/a', '/proc/a/b/c', '/sys/kernel/a/b', '/dev/null/a/b'])('ends at %s', async (path) => {
    await expect(makeFolder(path)).rejects.toMatchObject({ code: expect.stringMatching(/^E[A-Z]+$/) })
  })

  test('what is below a file cannot be made', async () => {
    const folder = await temporaryFolder({ file: 'x' })
    await expect(makeFolder(join(folder, 'file', 'a', 'b'))).rejects.toMatchObject({ code: 'ENOTDIR' })
  })
})

test('replaceFile leaves nothing beside where it fails', async () => {
  const folder = await temporaryFolder({ 'is/a/folder': 'x', old: 'old' })
  await replaceFile(join(folder, 'old'), 'new')
  await expect(replaceFile(join(folder, 'is'), 'text')).rejects.toMatchObject({ code: 'EISDIR' })
  expect(readdirSync(folder).sort()).toEqual(['is', 'old'])
  expect(existsSync(join(folder, 'is', 'a', 'folder'))).toBe(true)
})

test('replaceFile, several at once: the file is one of theirs, and nothing beside it', async () => {
  const folder = await temporaryFolder({})
  const texts = Array.from({ length: 20 }, (_, index) => String(index))
  await Promise.all(texts.map((text) => replaceFile(join(folder, 'file'), text)))
  expect(readdirSync(folder)).toEqual(['file'])
  expect(texts).toContain(readFileSync(join(folder, 'file'), 'utf8'))
})

test('a failure names the path and says what to do', () => {
  const cause = Object.assign(new Error("ENOSPC: no space left on device, open '/a/b, c'"), { code: 'ENOSPC' })
  expect(messageOf(cause)).toBe('no space left on device (ENOSPC)')
  expect(messageOf(new Error('something else'))).toBe('something else')
  expect(writeFailed('the page', '/a/b, c', cause)).toMatchObject({
    code: 'WRITE_FAILED',
    message: 'the page was not written to /a/b, c: no space left on device (ENOSPC)',
    remedy: expect.stringMatching(/room/),
  })
})

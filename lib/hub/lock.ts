/** A lock file that one process at a time holds, on this machine or another that shares the folder. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { link, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { makeFolder, writeFailed } from '../files.ts'
import { requireNotAborted } from '../model/signals.ts'
import { isWithoutLinks } from './cache.ts'

const BEAT_MS = 2000
/** Without a beat for so long, its holder is dead, or on a machine that is. */
const DEAD_MS = 20_000
const POLL_MS = 100

/**
 * Runs `body` while this process holds the lock; `waiting` is called once if another holds it first. Rejects with
 * WRITE_FAILED, ABORTED or what `body` throws.
 */
export async function withFileLock<T>(
  path: string,
  body: () => Promise<T>,
  { signal, waiting }: { signal?: AbortSignal | undefined; waiting?: (() => void) | undefined } = {},
): Promise<T> {
  const mine = `${hostname()} ${process.pid} ${startOf(process.pid)} ${randomBytes(8).toString('hex')}\n`
  for (let told = false; !(await take(path, mine)); told = true) {
    if (!told) waiting?.()
    requireNotAborted(signal, 'the download')
    if (await isDead(path)) await breakLock(path)
    else await sleep(POLL_MS)
  }
  const beat = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => {}), BEAT_MS).unref()
  try {
    return await body()
  } finally {
    clearInterval(beat)
    if ((await readFile(path, 'utf8').catch(() => '')) === mine) await rm(path, { force: true })
  }
}

/** It appears with its content, or not at all; where there are no links, with its content a moment later. */
async function take(path: string, mine: string): Promise<boolean> {
  const draft = `${path}.${randomBytes(6).toString('hex')}`
  try {
    await makeFolder(dirname(path))
    await writeFile(draft, mine)
    await link(draft, path).catch((error) => {
      if (!isWithoutLinks(error)) throw error
      return writeFile(path, mine, { flag: 'wx' })
    })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw writeFailed('a lock', path, error)
  } finally {
    await rm(draft, { force: true }).catch(() => {})
  }
}

async function isDead(path: string): Promise<boolean> {
  const text = await readFile(path, 'utf8').catch(() => undefined)
  const info = await stat(path).catch(() => undefined)
  if (text === undefined || info === undefined) return false
  // One without content is being written.
  const [host, pid, start] = text.trim().split(' ')
  if (host === hostname() && startOf(Number(pid)) !== start) return true
  return Date.now() - info.mtimeMs > DEAD_MS
}

/** One of those that wait moves it away: a lock that was made since then is put back. */
async function breakLock(path: string): Promise<void> {
  const away = `${path}.${randomBytes(6).toString('hex')}`
  try {
    await rename(path, away)
  } catch {
    return
  }
  if (await isDead(away)) return rm(away, { force: true })
  await link(away, path).catch((error) => {
    if (isWithoutLinks(error)) return rename(away, path)
  })
  await rm(away, { force: true })
}

/** When a process began, in ticks since boot: tells it from a later one with its number. */
function startOf(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] // field 22 of proc(5)
  } catch {
    return undefined
  }
}

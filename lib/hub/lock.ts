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
/** Without a beat for so long, its holder is dead, on a machine that is, or asleep. */
const DEAD_MS = 20_000
const POLL_MS = 100

/** Another process has taken the lock, since this one gave no sign of life for too long: it slept. */
export class LockLost extends Error {}

export interface HeldLock {
  /** Aborted, with a LockLost, once the lock is known to be another's. */
  lost: AbortSignal
  /** Rejects with LockLost if the lock is another's now. */
  check: () => Promise<void>
  /** An earlier holder fell silent, and may wake and go on with what it has open. */
  mayWake: boolean
}

interface LockOptions {
  signal?: AbortSignal | undefined
  /** Called once if another holds it first. */
  waiting?: (() => void) | undefined
  deadMs?: number | undefined
}

/**
 * Runs `body` while this process holds the lock. Whoever is silent for `deadMs` loses it, dead or asleep: before what is
 * final, `body` checks. Rejects with WRITE_FAILED, ABORTED or what `body` throws.
 */
export async function withFileLock<T>(
  path: string,
  body: (held: HeldLock) => Promise<T>,
  { signal, waiting, deadMs = DEAD_MS }: LockOptions = {},
): Promise<T> {
  const mine = `${hostname()} ${process.pid} ${startOf(process.pid)} ${randomBytes(8).toString('hex')}\n`
  // Watched by a clock of one's own: those of machines differ, and after a sleep all beats look old.
  let seen: Beat | undefined
  let since = 0
  for (let told = false; !(await take(path, mine)); told = true) {
    if (!told) waiting?.()
    requireNotAborted(signal, 'the download')
    const now = await beatOf(path)
    if (now?.text !== seen?.text || now?.at !== seen?.at) [seen, since] = [now, performance.now()]
    if (now !== undefined && (isDead(now) || performance.now() - since > deadMs)) await breakLock(path, now)
    else await sleep(POLL_MS)
  }
  const lost = new AbortController()
  const check = async () => {
    // What cannot be read for another reason says nothing.
    const text = await readFile(path, 'utf8').catch(({ code }) => (code === 'ENOENT' ? '' : mine))
    if (text === mine) return
    const error = new LockLost('another process has taken the lock')
    lost.abort(error)
    throw error
  }
  const beat = async () => {
    await check()
    await utimes(path, new Date(), new Date())
  }
  const timer = setInterval(() => void beat().catch(() => {}), BEAT_MS).unref()
  const asleep = silentOf(path)
  try {
    const mayWake = await stat(asleep).then(
      () => true,
      () => false,
    )
    const result = await body({ lost: lost.signal, check, mayWake })
    if (mayWake) await rm(asleep, { force: true })
    return result
  } finally {
    clearInterval(timer)
    if ((await readFile(path, 'utf8').catch(() => '')) === mine) await rm(path, { force: true })
  }
}

/** Where the lock of one who fell silent goes: until somebody has ended what that one began, it may wake. */
const silentOf = (path: string) => `${path}.silent`

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

/** Whose a lock is, and when that one last touched it. */
interface Beat {
  text: string
  at: number
}

async function beatOf(path: string): Promise<Beat | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined)
  const info = await stat(path).catch(() => undefined)
  return text === undefined || info === undefined ? undefined : { text, at: info.mtimeMs }
}

/** For sure: a process of this machine that has ended. One without content is being written. */
function isDead({ text }: Beat): boolean {
  const [host, pid, start] = text.trim().split(' ')
  return host === hostname() && startOf(Number(pid)) !== start
}

/** One of those that wait moves it away: a lock that was made or touched since then is put back. */
async function breakLock(path: string, seen: Beat): Promise<void> {
  const dead = isDead(seen)
  // In one step, so that whoever takes the lock next finds that another may wake.
  const away = dead ? `${path}.${randomBytes(6).toString('hex')}` : silentOf(path)
  try {
    await rename(path, away)
  } catch {
    return
  }
  const moved = await beatOf(away)
  if (moved?.text === seen.text && (dead || moved.at === seen.at)) {
    if (dead) await rm(away, { force: true })
    return
  }
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

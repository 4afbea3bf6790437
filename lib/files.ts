/** Files that the package writes: where the user's caches are, folders that are made on the way, failures told alike. */
import { randomBytes } from 'node:crypto'
import { mkdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir, userInfo } from 'node:os'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { MillraceError } from './errors.ts'

/** The folder, or why there is none. */
export type UserFolder = { path: string; reason?: undefined } | { path?: undefined; reason: string }

/** XDG_CACHE_HOME, or .cache of the home folder. What is empty or relative names neither, as XDG has it. */
export function userCacheFolder(environment: NodeJS.ProcessEnv = process.env): UserFolder {
  const cache = environment.XDG_CACHE_HOME ?? ''
  if (isAbsolute(cache)) return { path: cache }
  // homedir() believes whatever HOME says, an empty text included; the system's list of users knows better then.
  for (const home of [homedir, () => userInfo().homedir]) {
    try {
      const path = home()
      if (isAbsolute(path)) return { path: join(path, '.cache') }
    } catch {} // a user that the system does not know
  }
  return { reason: 'this user has no home folder, and HOME and XDG_CACHE_HOME name none' }
}

/**
 * Makes a folder, and those above it that are missing; what is there already may be something else. (The recursive mkdir
 * of Node.js never ends where a parent refuses children as if it were missing, as /proc does.)
 */
export async function makeFolder(path: string, mode = 0o777): Promise<void> {
  const missing: string[] = []
  for (let at = resolve(path); ; at = dirname(at)) {
    if (await makeOne(at, mode)) break
    missing.unshift(at)
  }
  for (const at of missing) await makeOne(at, mode, true)
}

/** False where its parent is missing, unless that is there for sure. */
async function makeOne(path: string, mode: number, underParent = path === dirname(path)): Promise<boolean> {
  try {
    await mkdir(path, { mode })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' && !underParent) return false
    if (code !== 'EEXIST') throw error
  }
  return true
}

/** Writes a file so that whoever reads meanwhile finds the old one or the new one. Throws what the file system does. */
export async function replaceFile(path: string, text: string): Promise<void> {
  // Of this call alone: two at once would take each other's away.
  const next = `${path}.${randomBytes(6).toString('hex')}`
  try {
    await writeFile(next, text)
    await rename(next, path)
  } catch (error) {
    await rm(next, { force: true }).catch(() => {})
    throw error
  }
}

/** A file that could not be written, whose path the caller chose. */
export function writeFailed(what: string, path: string, cause: unknown): MillraceError {
  return new MillraceError('WRITE_FAILED', {
    message: `${what} was not written to ${path}: ${messageOf(cause)}`,
    cause,
  })
}

/** 'no space left on device (ENOSPC)', without the call and the path that Node.js adds. */
export function messageOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  if (code === undefined || !/^E[A-Z0-9]+$/.test(code)) return message
  return `${message.replace(/^E[A-Z0-9]+: /, '').replace(/, \w+( '[\s\S]*')?$/, '')} (${code})`
}

/** The folder, or the nearest above it that is there. */
export async function nearestFolder(path: string): Promise<string> {
  for (let at = resolve(path); ; at = dirname(at)) {
    const info = await stat(at).catch(() => undefined)
    if (info?.isDirectory() || at === dirname(at)) return at
  }
}

/** The packed files that loads leave on disk for the next load: where they are, and how much of the disk they take. */
import { createHash } from 'node:crypto'
import { access, constants, readdir, rm, stat, statfs } from 'node:fs/promises'
import { basename, dirname, join, resolve, sep } from 'node:path'
import type { NativeModel, NativeSlabPlan } from '../binding.ts'
import type { CheckpointFolder } from '../checkpoint/folder.ts'
import { MillraceError } from '../errors.ts'
import { makeFolder, messageOf, userCacheFolder } from '../files.ts'
import type { Logger } from '../log.ts'
import { invalidArgument, parseBytes } from '../options/validate.ts'

export interface CacheEntry {
  path: string
  bytes: number
  /** When it was last read or written. */
  usedAt: Date
}

/** A model's packed file. */
export interface PackedFile {
  path: string
  bytes: number
}

/** What a loaded model has of the cache. */
export interface ModelCache extends PackedFile {
  /**
   * 'read': the weights came from it; 'shared': they were in memory already; 'writing', then 'written', or 'failed' for
   * a `reason`.
   */
  state: 'read' | 'shared' | 'writing' | 'written' | 'failed'
  reason?: string
}

const SUFFIX = '.packed'
/** What a write has not ended. */
const UNFINISHED = '.packed.part'
const ABANDONED_MS = 24 * 60 * 60 * 1000
/** Smaller models are repacked as fast as they are read. */
const MIN_BYTES = 64 * 2 ** 20
/** Of the disk's free space, what is kept in the cache counted as free. */
const SHARE_OF_DISK = 0.2
const OFF = ['0', 'false', 'off', 'no']
const ON = ['', '1', 'true', 'on', 'yes']

/** The folder that an option means, undefined if nothing is to be kept. The environment's word is the default. */
export function cacheFolder(option: boolean | string | undefined): string | undefined {
  if (typeof option === 'string') return resolve(option)
  const word = process.env.MILLRACE_CACHE ?? ''
  if (option === false || (option === undefined && isOff(word))) return undefined
  if (!ON.includes(word.toLowerCase()) && !isOff(word)) return resolve(word)
  const { path } = userCacheFolder()
  return path && join(path, 'millrace', 'packed')
}

const isOff = (word: string) => OFF.includes(word.toLowerCase())

/** Why there is no folder although weights are to be kept. */
export function cacheObstacle(option: boolean | string | undefined): string | undefined {
  const unwanted = option === false || (option === undefined && isOff(process.env.MILLRACE_CACHE ?? ''))
  if (unwanted || cacheFolder(option) !== undefined) return undefined
  return `weights are not kept for the next load: ${userCacheFolder().reason}; MILLRACE_CACHE names a folder to keep them in`
}

/** Everything that will keep loads from keeping weights in a folder, or from heeding its limit; nothing is written. */
export async function cacheTroubles(folder?: string): Promise<string[]> {
  const troubles: string[] = []
  const limit = new Set<string>()
  cacheLimit({ warn: (_, message) => limit.add(message) })
  if (folder === undefined && isOff(process.env.MILLRACE_CACHE ?? '')) {
    troubles.push('MILLRACE_CACHE turns it off: loads keep nothing and read nothing')
  }
  const obstacle = cacheObstacle(folder ?? true)
  if (obstacle !== undefined) troubles.push(obstacle)
  const path = cacheFolder(folder ?? true)
  const why = path === undefined ? undefined : await whyNotWritable(path)
  if (why !== undefined) troubles.push(`weights cannot be kept in ${path}: ${why}; MILLRACE_CACHE names another folder`)
  return [...troubles, ...limit]
}

/** By the folder, or by what is nearest above it: making it to find out would leave it there. */
async function whyNotWritable(path: string): Promise<string | undefined> {
  for (let at = path; ; at = dirname(at)) {
    try {
      if (!(await stat(at)).isDirectory()) return `${at} is no folder`
      await access(at, constants.W_OK | constants.X_OK)
      const { bavail } = await statfs(at)
      return bavail === 0 ? `${at} has no room for files` : undefined // of /proc and its like, too
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code !== 'ENOENT' || at === dirname(at)) return messageOf(error)
    }
  }
}

/**
 * Where a checkpoint's packed file is: named after its files, so that a changed checkpoint replaces its own. `needed`:
 * units are to stay there, however small the model is.
 */
export function packedFile(
  folder: string | undefined,
  checkpoint: CheckpointFolder,
  slabs: NativeSlabPlan,
  needed = false,
): PackedFile | undefined {
  const bytes = slabs.units.reduce((sum, unit) => sum + unit.bytes, slabs.embeddingBytes)
  if (folder === undefined || (bytes < MIN_BYTES && !needed)) return undefined
  const units = slabs.units.map(({ bytes, types }) => [bytes, types])
  const hash = createHash('sha256').update(JSON.stringify([checkpoint.weightFiles, units, slabs.embeddingType]))
  // The Hugging Face cache keeps models in folders such as models--owner--name/snapshots/<commit>.
  const published = checkpoint.path.split(sep).find((part) => part.startsWith('models--'))
  const name = (published?.slice('models--'.length) ?? basename(checkpoint.path)).replace(/[^\w.-]+/g, '_').slice(0, 80)
  return { path: join(folder, `${name}-${hash.digest('hex').slice(0, 16)}${SUFFIX}`), bytes }
}

/**
 * What is in the cache, the longest unused first; nothing where there is no such folder. Rejects with INVALID_ARGUMENT
 * where the path is that of something else, or cannot be read.
 */
export async function listCache(folder: string | undefined = cacheFolder(true)): Promise<CacheEntry[]> {
  const entries = await entriesOf(folder, SUFFIX)
  return entries.sort((a, b) => a.usedAt.getTime() - b.usedAt.getTime())
}

/**
 * Removes what is in the cache, and nothing else that may be in the folder; models that are loaded do not need it.
 * Returns what was removed. Rejects as listCache() does.
 */
export async function clearCache(folder: string | undefined = cacheFolder(true)): Promise<CacheEntry[]> {
  const entries = [...(await listCache(folder)), ...(await entriesOf(folder, UNFINISHED))]
  for (const { path } of entries) {
    await rm(path, { force: true }).catch((cause) => {
      throw new MillraceError('WRITE_FAILED', {
        message: `${path} was not removed: ${messageOf(cause)}`,
        remedy: 'remove it as a user who may write to that folder',
        cause,
      })
    })
  }
  return entries
}

async function entriesOf(folder: string | undefined, suffix: string): Promise<CacheEntry[]> {
  if (folder === undefined) return []
  if (typeof folder !== 'string' || folder === '') throw invalidArgument('the path of a folder', 'folder', folder)
  const entries: CacheEntry[] = []
  for (const name of await namesIn(folder)) {
    const path = join(folder, name)
    const info = name.endsWith(suffix) ? await stat(path).catch(() => undefined) : undefined
    if (info?.isFile()) entries.push({ path, bytes: info.size, usedAt: info.mtime })
  }
  return entries
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `expected the path of a folder that can be read for the cache but received '${folder}': ${messageOf(cause)}`,
      remedy: 'pass the folder that loads keep repacked weights in; MILLRACE_CACHE names the default',
      cause,
    })
  }
}

/**
 * Sees to it that a packed file in which units are to stay can be written. Rejects with INVALID_ARGUMENT where nothing is
 * kept, with WRITE_FAILED where there is no room.
 */
export async function requirePacked(
  folder: string | undefined,
  packed: PackedFile | undefined,
  log: Logger,
): Promise<void> {
  if (folder === undefined || packed === undefined) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: 'weights beyond ramBudget stay in the packed file that loads keep, and this load is to keep none',
      remedy: 'leave the cache on (cache: true, or MILLRACE_CACHE with a folder), or raise ramBudget',
    })
  }
  if (await stat(packed.path).catch(() => undefined)) return
  let why: string | undefined
  try {
    await makeFolder(folder, 0o700)
    // Whoever leaves weights there has asked for the file: its share of the disk is no limit, its room is.
    const limit = cacheLimit(log) ?? Number.POSITIVE_INFINITY
    why = await makeRoom(folder, packed, limit, log)
  } catch (error) {
    why = messageOf(error)
  }
  if (why === undefined) return
  throw new MillraceError('WRITE_FAILED', {
    message: `the packed file in which weights beyond ramBudget stay, ${packed.path}, cannot be written: ${why}`,
    remedy: 'name another folder with cache or MILLRACE_CACHE, or load with a larger ramBudget',
  })
}

/**
 * Says what became of the packed file and, if there is none that can be used, has it written in the background. The
 * promise, which never rejects, waits for that; `cache` is kept up to date meanwhile. `fileBytes`: stay in the file.
 */
export async function keepPacked(
  model: Pick<NativeModel, 'packed' | 'writePacked'>,
  cache: ModelCache,
  folder: string,
  log: Logger,
  fileBytes = 0,
): Promise<void> {
  const { path, bytes } = cache
  const { state, reason } = model.packed
  const limit = cacheLimit(log)
  if (state === 'read' || state === 'unused') {
    cache.state = state === 'read' ? 'read' : 'shared'
    return
  }
  if (fileBytes > 0) {
    cache.state = 'written' // by the load, which left them there
    return
  }
  if (state === 'damaged') log.warn({ path, reason }, `the packed file was damaged: ${reason}; it is made anew`)
  if (state === 'stale') log.info({ path, reason }, `the packed file could not be used: ${reason}; it is made anew`)
  const began = performance.now()
  let why: string
  try {
    await makeFolder(folder, 0o700)
    why = (await makeRoom(folder, cache, limit, log)) ?? (await model.writePacked(path))
  } catch (error) {
    why = messageOf((error as Error).cause ?? error)
  }
  cache.state = why === '' ? 'written' : 'failed'
  if (why === '') {
    log.info({ path, bytes, ms: Math.round(performance.now() - began) }, 'packed file written')
  } else {
    cache.reason = why
    const remedy = 'MILLRACE_CACHE names another folder, or off'
    log.warn({ path, bytes, reason: why }, `the packed file was not written to ${path}: ${why}; ${remedy}`)
  }
}

/** Removes what was unused longest until the file has room. Returns why it can have none. */
async function makeRoom(
  folder: string,
  { path, bytes }: PackedFile,
  wanted: number | undefined,
  log: Logger,
): Promise<string | undefined> {
  for (const part of await entriesOf(folder, UNFINISHED)) {
    if (Date.now() - part.usedAt.getTime() > ABANDONED_MS) await rm(part.path, { force: true })
  }
  const others = (await listCache(folder)).filter((entry) => entry.path !== path)
  let used = others.reduce((sum, entry) => sum + entry.bytes, 0)
  const { bavail, bsize } = await statfs(folder)
  const limit = wanted ?? SHARE_OF_DISK * (bavail * bsize + used)
  if (bytes > limit) return `it has ${bytes} bytes, the cache may take ${Math.floor(limit)} (see MILLRACE_CACHE_LIMIT)`
  for (const entry of others) {
    if (used + bytes <= limit) break
    await rm(entry.path, { force: true })
    log.info({ ...entry }, 'packed file removed for want of room')
    used -= entry.bytes
  }
  return undefined
}

/** MILLRACE_CACHE_LIMIT in bytes, where it says any; what is no size is told. */
export function cacheLimit(log: Pick<Logger, 'warn'>): number | undefined {
  const word = process.env.MILLRACE_CACHE_LIMIT
  if (word === undefined || word === '') return undefined
  const bytes = parseBytes(word)
  if (bytes === undefined)
    log.warn(
      { word },
      `MILLRACE_CACHE_LIMIT is '${word}', which is no size such as '50GiB' (units up to TB and TiB): it is ignored`,
    )
  return bytes
}

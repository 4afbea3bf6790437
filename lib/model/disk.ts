/** calibrateDisk(): measures how fast the disk of the cache folder is read, and keeps the figure for plans. */
import { randomBytes } from 'node:crypto'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { MillraceError } from '../errors.ts'
import { makeFolder, userCacheFolder, writeFailed } from '../files.ts'
import { loadOptions } from '../options/model.ts'
import { invalidArgument, validate } from '../options/validate.ts'
import { calibrationPath, writeDiskRate } from '../plan/calibration.ts'
import { cacheFolder } from './cache.ts'
import { awaitNative, runtime } from './runtime.ts'
import { requireNotAborted } from './signals.ts'

export interface CalibrateDiskOptions {
  /** Where weights will be kept. Default: the cache folder of loads. */
  folder?: string | undefined
  signal?: AbortSignal | undefined
}

export interface DiskReport {
  folder: string
  /** Of reads past the page cache, as those of weights that RAM has no room for. */
  bytesPerSecond: number
  /** Where it is kept; undefined if the file could not be written, and why. */
  path: string | undefined
  writeError?: string
}

const schema = z.strictObject({ folder: z.string().min(1).optional(), signal: loadOptions.shape.signal })

/** More than caches of disks hold, little enough to be written soon; rounds of reading it begin within the seconds. */
const MEASURED = { bytes: 2 ** 30, seconds: 3 }
const PIECE_BYTES = 2 ** 26

/**
 * Writes a gibibyte into the folder, reads it for three seconds or, of a slow disk, twice, and removes it. Rejects with
 * INVALID_ARGUMENT, WRITE_FAILED, READ_FAILED or ABORTED. That the figure cannot be kept is told, not thrown.
 */
export async function calibrateDisk(options: CalibrateDiskOptions = {}): Promise<DiskReport> {
  const { folder: asked, signal } = validate(schema, options, 'options')
  const folder = cacheFolder(asked ?? true)
  if (folder === undefined) {
    throw invalidArgument('a folder to write to', 'folder', asked, `name one: ${userCacheFolder().reason}`)
  }
  const report = { folder, bytesPerSecond: await measureDisk(folder, { ...MEASURED, signal }) }
  const path = calibrationPath()
  if (path === undefined) return { ...report, path, writeError: userCacheFolder().reason! }
  try {
    await writeDiskRate(folder, report.bytesPerSecond, path)
    return { ...report, path }
  } catch (error) {
    const { message, remedy } = writeFailed('the calibration', path, error)
    return { ...report, path: undefined, writeError: `${message}; ${remedy}, by XDG_CACHE_HOME` }
  }
}

/** Bytes a second. Whatever happens, the file that it makes is removed. */
export async function measureDisk(
  folder: string,
  { bytes, seconds, signal }: { bytes: number; seconds: number; signal?: AbortSignal | undefined },
): Promise<number> {
  const file = join(folder, `disk-${process.pid}-${randomBytes(4).toString('hex')}.tmp`)
  try {
    await write(file, folder, bytes, signal)
    const rate = await awaitNative(() => runtime().native.measureReadRate(file, seconds))
    requireNotAborted(signal, 'the calibration')
    return rate
  } finally {
    // Where it could not be made there is none.
    await rm(file, { force: true }).catch(() => {})
  }
}

/** Nothing that a disk could make smaller; on the disk when it returns. */
async function write(path: string, folder: string, bytes: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await makeFolder(folder)
    const piece = randomBytes(Math.min(bytes, PIECE_BYTES))
    await using file = await open(path, 'wx')
    for (let at = 0; at < bytes; at += piece.length) {
      requireNotAborted(signal, 'the calibration')
      piece.writeUInt32LE(at / piece.length)
      await file.write(piece)
    }
    await file.sync()
  } catch (error) {
    if (MillraceError.isInstance(error)) throw error
    throw writeFailed('what is read to measure the disk', path, error)
  }
}

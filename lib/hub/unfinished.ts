/** The file of a download that has not ended: whose it is, and what it has. */
import { type Hash, randomBytes } from 'node:crypto'
import { constants, copyFile, type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { abortedError } from '../model/signals.ts'
import { LockLost } from './lock.ts'

const besides = (path: string) => `${path}.${randomBytes(4).toString('hex')}`

/** Whoever fell silent has the file open and may wake: it keeps that, and its copy is gone on with. */
export async function leaveToSleeper(path: string): Promise<void> {
  const copy = besides(path)
  try {
    await copyFile(path, copy, constants.COPYFILE_FICLONE)
    await rename(copy, path)
  } catch {
    // Nothing was begun, or there is no room for both.
    await rm(copy, { force: true })
    await rm(path, { force: true })
  }
}

/**
 * Takes the file from where others would go on with it, and returns where it is then. Rejects with LockLost if it is not
 * the `length` bytes that were written through `handle`, and `hasContent` does not know them either: a process that slept
 * finds another's file under the name, or in its own what another has added.
 */
export async function takeAway(
  path: string,
  handle: FileHandle,
  length: number,
  hasContent: (path: string) => Promise<boolean>,
): Promise<string> {
  const away = besides(path)
  await rename(path, away).catch((error) => {
    throw error.code === 'ENOENT' ? new LockLost('another process has taken the file', { cause: error }) : error
  })
  const [own, found] = await Promise.all([handle.stat({ bigint: true }), stat(away, { bigint: true })])
  const isOwn = own.ino === found.ino && own.dev === found.dev && own.size === BigInt(length)
  // There are file systems without lasting numbers.
  if (isOwn || (await hasContent(away))) return away
  await rename(away, path)
  throw new LockLost('another process writes the file')
}

/** Hashes a file of `size` bytes; false if it has another size. */
export async function hashInto(hash: Hash, path: string, size: number): Promise<boolean> {
  const handle = await open(path, 'r')
  try {
    return (await handle.stat()).size === size && (await readInto(hash, handle, size, undefined)) === size
  } finally {
    await handle.close()
  }
}

/** What a clone without Git LFS, or a mirror of one, has in the place of a large file. */
export async function isPointer(handle: FileHandle, length: number): Promise<boolean> {
  if (length === 0 || length > 1024) return false
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, 0)
  return buffer.toString('latin1', 0, bytesRead).startsWith('version https://git-lfs')
}

/** Writes all of it, at the end of the file. */
export async function append(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await handle.write(bytes, done)).bytesWritten
}

/** Hashes what a file has, and returns its length; one of more than `most` bytes is emptied. */
export async function readInto(
  hash: Hash,
  handle: FileHandle,
  most: number,
  signal: AbortSignal | undefined,
): Promise<number> {
  const info = await handle.stat()
  if (info.isFile() && info.size > most) await handle.truncate(0)
  const length = info.isFile() && info.size <= most ? info.size : 0
  const buffer = Buffer.alloc(Math.min(1 << 20, Math.max(1, length)))
  let at = 0
  while (at < length) {
    if (signal?.aborted) throw abortedError(signal, 'the download')
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, length - at), at)
    if (bytesRead === 0) break
    hash.update(buffer.subarray(0, bytesRead))
    at += bytesRead
  }
  return at
}

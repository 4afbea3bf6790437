/** Removes what is in the cache of models, and nothing that its links lead to. */
import { readdir, realpath, rm, rmdir, stat } from 'node:fs/promises'
import { dirname, join, sep } from 'node:path'
import { writeFailed } from '../files.ts'
import type { CachedModel } from './list.ts'

/**
 * Removes a model, or of it the files whose paths `chosen` takes and the blobs that nothing else links to. A link to what
 * is outside of the cache is removed, and never what it points to. Returns the bytes that were freed. Throws WRITE_FAILED.
 */
export async function removeCached(model: CachedModel, chosen?: (path: string) => boolean): Promise<number> {
  try {
    return chosen === undefined ? await removeAll(model) : await removeFiles(model, chosen)
  } catch (error) {
    throw writeFailed(`the removal of ${model.name}`, model.path, error)
  }
}

/** Links are removed as links. */
async function removeAll({ path }: CachedModel): Promise<number> {
  const name = path.slice(path.lastIndexOf(sep) + 1)
  const bytes = (await realpath(path)) === (await ownPath(path)) ? await fileBytes(path) : 0
  for (const folder of [path, join(dirname(path), '.locks', name)]) await rm(folder, { recursive: true, force: true })
  return bytes
}

/** Of blobs and of files of snapshots that are no links. */
async function fileBytes(path: string): Promise<number> {
  let sum = 0
  for (const part of ['blobs', 'snapshots']) {
    const entries = await readdir(join(path, part), { recursive: true, withFileTypes: true }).catch(() => [])
    for (const entry of entries) if (entry.isFile()) sum += (await stat(join(entry.parentPath, entry.name))).size
  }
  return sum
}

/** Where a model's folder is if it is in the cache and not elsewhere, behind a link. */
const ownPath = async (path: string) => join(await realpath(dirname(path)), path.slice(path.lastIndexOf(sep) + 1))

async function removeFiles(model: CachedModel, chosen: (path: string) => boolean): Promise<number> {
  const own = await ownPath(model.path)
  const isOwn = (path: string) => path.startsWith(own + sep)
  const kept = new Set<string>()
  const freed = new Map<string, number>()
  for (const { path, files } of model.revisions) {
    for (const { name, bytes } of files) {
      const link = join(path, name)
      const blob = await realpath(link)
      if (!chosen(name)) {
        kept.add(blob)
        continue
      }
      const folder = await realpath(dirname(link))
      if (!isOwn(folder))
        throw new Error(`a link leads to ${folder}, outside of the cache: remove what is there yourself`)
      if (isOwn(blob)) freed.set(blob, bytes)
      await rm(link)
      await removeEmpty(dirname(link), path)
    }
  }
  let sum = 0
  for (const [blob, bytes] of freed) {
    if (kept.has(blob)) continue
    await rm(blob, { force: true })
    sum += bytes
  }
  return sum
}

async function removeEmpty(folder: string, top: string): Promise<void> {
  for (let at = folder; at !== top; at = dirname(at)) {
    if ((await readdir(at)).length > 0) return
    await rmdir(at)
  }
}

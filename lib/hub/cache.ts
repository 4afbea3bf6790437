/** The cache of models as huggingface_hub lays it out: blobs by hash, and snapshots of commits that link to them. */
import { randomBytes } from 'node:crypto'
import type { Stats } from 'node:fs'
import { lstat, readdir, readFile, readlink, realpath, rename, rm, rmdir, stat, symlink } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { makeFolder, replaceFile, writeFailed } from '../files.ts'
import { COMMIT, type HubFile, type HubRepository } from './repository.ts'

export const repoFolder = (cache: string, repo: string) => join(cache, ['models', ...repo.split('/')].join('--'))
export const blobFile = (cache: string, repo: string, blob: string) => join(repoFolder(cache, repo), 'blobs', blob)
/** As huggingface_hub has it: either goes on with what the other began. */
export const unfinishedFile = (cache: string, repo: string, blob: string) => `${blobFile(cache, repo, blob)}.incomplete`
export const snapshotFolder = (cache: string, repo: string, commit: string) =>
  join(repoFolder(cache, repo), 'snapshots', commit)

/** Whether a blob is there as a whole. */
export async function hasBlob(cache: string, repo: string, { blob, size }: HubFile): Promise<boolean> {
  const info = await stat(blobFile(cache, repo, blob)).catch(() => undefined)
  return info?.isFile() === true && info.size === size
}

/** Whether a file is there as a whole: its blob, or in a cache without links the file itself. */
export async function hasFile(cache: string, { repo, commit }: HubRepository, file: HubFile): Promise<boolean> {
  if (await hasBlob(cache, repo, file)) return true
  const info = await lstat(join(snapshotFolder(cache, repo, commit), file.path)).catch(() => undefined)
  return info?.isFile() === true && info.size === file.size
}

/** What file systems without symbolic links answer: FAT, some network shares and mounts of containers. */
export const isWithoutLinks = (error: unknown) =>
  ['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EINVAL'].includes((error as NodeJS.ErrnoException).code ?? '')

/**
 * Puts a blob into the snapshot under its path: as a link, or where there are none, as huggingface_hub does, by moving it
 * there. Throws WRITE_FAILED.
 */
export async function linkFile(cache: string, { repo, commit }: HubRepository, file: HubFile): Promise<void> {
  const link = join(snapshotFolder(cache, repo, commit), file.path)
  const blob = blobFile(cache, repo, file.blob)
  const target = relative(dirname(link), blob)
  if ((await readlink(link).catch(() => undefined)) === target) return
  try {
    await makeFolder(dirname(link))
    const next = `${link}.${randomBytes(4).toString('hex')}`
    const isLinked = await symlink(target, next).then(
      () => true,
      (error) => {
        if (isWithoutLinks(error)) return false
        throw error
      },
    )
    if (isLinked) await rename(next, link)
    // Another call or process may have moved it.
    else if (await hasBlob(cache, repo, file)) await rename(blob, link)
  } catch (error) {
    throw writeFailed(file.path, link, error)
  }
}

/** Notes which commit a branch or tag is at. Throws WRITE_FAILED. */
export async function writeRef(cache: string, { repo, revision, commit }: HubRepository): Promise<void> {
  if (COMMIT.test(revision)) return
  const path = join(repoFolder(cache, repo), 'refs', revision)
  if ((await readFile(path, 'utf8').catch(() => '')) === commit) return
  try {
    await makeFolder(dirname(path))
    await replaceFile(path, commit)
  } catch (error) {
    throw writeFailed('the commit', path, error)
  }
}

/** The commit that a revision was at when it was last fetched; undefined where it never was. */
export async function cachedCommit(cache: string, repo: string, revision: string): Promise<string | undefined> {
  if (COMMIT.test(revision)) {
    const there = await stat(snapshotFolder(cache, repo, revision)).catch(() => undefined)
    return there?.isDirectory() ? revision : undefined
  }
  const text = await readFile(join(repoFolder(cache, repo), 'refs', revision), 'utf8').catch(() => '')
  return COMMIT.test(text.trim()) ? text.trim() : undefined
}

/** Paths of the files of a snapshot whose blobs are there. */
export async function cachedFiles(cache: string, repo: string, commit: string): Promise<string[]> {
  const folder = snapshotFolder(cache, repo, commit)
  const names = await readdir(folder, { recursive: true }).catch(() => [])
  const there = await Promise.all(names.map((name) => stat(join(folder, name)).catch(() => undefined)))
  return names.filter((_, index) => there[index]?.isFile()).sort()
}

export interface CachedModel {
  /** 'owner/name'. */
  name: string
  path: string
  /** Of all its blobs, those of several revisions counted once, and unfinished ones. */
  bytes: number
  revisions: { commit: string; refs: string[]; path: string; files: { name: string; bytes: number }[] }[]
  /** When a blob was last written or, where the file system notes it, read. */
  usedAt: Date
}

/** What is in a cache, by name. Models alone: data sets and spaces are not millrace's. */
export async function readCache(cache: string): Promise<CachedModel[]> {
  const folders = (await readdir(cache).catch(() => [])).filter((name) => /^models--[^-].*--/.test(name))
  const models = await Promise.all(folders.map((name) => readModel(join(cache, name))))
  return models.filter((model) => model !== undefined).sort((a, b) => (a.name < b.name ? -1 : 1))
}

async function readModel(path: string): Promise<CachedModel | undefined> {
  const [, owner, ...rest] = path.slice(path.lastIndexOf('/') + 1).split('--')
  const name = `${owner}/${rest.join('--')}`
  const blobs = await Promise.all(
    (await readdir(join(path, 'blobs')).catch(() => [])).map((blob) =>
      stat(join(path, 'blobs', blob)).catch(() => undefined),
    ),
  )
  const refs = await readRefs(join(path, 'refs'))
  const cache = dirname(path)
  const commits = (await readdir(join(path, 'snapshots')).catch(() => []))
    .filter((commit) => COMMIT.test(commit))
    .sort()
  const own: Stats[] = [] // files that are no links: of a cache without them
  const revisions = await Promise.all(
    commits.map(async (commit) => {
      const folder = join(path, 'snapshots', commit)
      const names = await cachedFiles(cache, name, commit)
      const files = await Promise.all(
        names.map(async (file) => {
          const at = join(folder, file)
          if ((await lstat(at)).isFile()) own.push(await stat(at))
          return { name: file, bytes: (await stat(at)).size }
        }),
      )
      return { commit, refs: refs.get(commit) ?? [], path: folder, files }
    }),
  )
  if (blobs.length === 0 && revisions.length === 0) return undefined
  const all = [...blobs, ...own]
  const times = all.map((one) => Math.max(one?.atimeMs ?? 0, one?.mtimeMs ?? 0))
  const bytes = all.reduce((sum, one) => sum + (one?.isFile() ? one.size : 0), 0)
  return { name, path, bytes, revisions, usedAt: new Date(Math.max(0, ...times)) }
}

async function readRefs(folder: string): Promise<Map<string, string[]>> {
  const refs = new Map<string, string[]>()
  for (const name of await readdir(folder, { recursive: true }).catch(() => [])) {
    const commit = (await readFile(join(folder, name), 'utf8').catch(() => '')).trim()
    if (COMMIT.test(commit)) refs.set(commit, [...(refs.get(commit) ?? []), name])
  }
  return refs
}

/**
 * Removes a model, or of it the files whose paths `chosen` takes and the blobs that nothing else links to. Returns the
 * bytes that were freed. Throws WRITE_FAILED.
 */
export async function removeCached(model: CachedModel, chosen?: (path: string) => boolean): Promise<number> {
  try {
    if (chosen === undefined) {
      await rm(model.path, { recursive: true, force: true })
      await rm(join(dirname(model.path), '.locks', model.path.slice(model.path.lastIndexOf('/') + 1)), {
        recursive: true,
        force: true,
      })
      return model.bytes
    }
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
        freed.set(blob, bytes)
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
  } catch (error) {
    throw writeFailed(`the removal of ${model.name}`, model.path, error)
  }
}

async function removeEmpty(folder: string, top: string): Promise<void> {
  for (let at = folder; at !== top; at = dirname(at)) {
    if ((await readdir(at)).length > 0) return
    await rmdir(at)
  }
}

/** The cache of models as huggingface_hub lays it out: blobs by hash, and snapshots of commits that link to them. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { lstat, readdir, readFile, readlink, rename, stat, symlink } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { makeFolder, replaceFile, writeFailed } from '../files.ts'
import { COMMIT, type HubFile, type HubRepository, isHubFile } from './repository.ts'

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

/** The list of what a commit has, which never changes. Where it is not known, undefined. */
export async function readList(cache: string, repo: string, commit: string): Promise<HubFile[] | undefined> {
  try {
    const { files } = JSON.parse(await readFile(listFile(cache, repo, commit), 'utf8'))
    return Array.isArray(files) && files.every(isHubFile) ? files : undefined
  } catch {
    return undefined
  }
}

/** Throws WRITE_FAILED. */
export async function writeList(cache: string, { repo, commit, files }: HubRepository): Promise<void> {
  const path = listFile(cache, repo, commit)
  if (existsSync(path) && (await readList(cache, repo, commit))) return
  try {
    await makeFolder(dirname(path))
    await replaceFile(path, JSON.stringify({ files }))
  } catch (error) {
    throw writeFailed('the list of files', path, error)
  }
}

/** Other tools of the cache do not look there. */
const listFile = (cache: string, repo: string, commit: string) =>
  join(repoFolder(cache, repo), '.millrace', `${commit}.json`)

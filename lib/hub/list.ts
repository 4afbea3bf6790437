/** What is in the cache of models. */
import type { Stats } from 'node:fs'
import { lstat, readdir, readFile, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { cachedFiles } from './cache.ts'
import { COMMIT } from './repository.ts'

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

/** Files of a repository into the cache. */
import { stat, statfs } from 'node:fs/promises'
import { list } from '../checkpoint/keys.ts'
import { MillraceError } from '../errors.ts'
import { nearestFolder } from '../files.ts'
import { hasFile, linkFile, unfinishedFile } from './cache.ts'
import type { HubOptions } from './pull.ts'
import type { HubFile, HubRepository } from './repository.ts'
import type { HubSettings } from './settings.ts'
import { fetchBlob } from './transfer.ts'

const STREAMS = 2

/**
 * Brings files into the snapshot, two at a time; returns how many bytes were fetched. Rejects as pull() does, offline with
 * CHECKPOINT_NOT_FOUND where one is missing.
 */
export async function fetchFiles(
  repository: HubRepository,
  files: readonly HubFile[],
  settings: HubSettings,
  { signal, onProgress }: HubOptions,
): Promise<number> {
  const { cache } = settings
  const total = files.reduce((sum, { size }) => sum + size, 0)
  const here = new Map<HubFile, number>()
  for (const file of files) here.set(file, (await hasFile(cache, repository, file)) ? file.size : 0)
  const missing = [...here].filter(([{ size }, bytes]) => bytes !== size).map(([{ path }]) => path)
  const whole = missing.length === 0
  if (!whole && settings.offline) throw notHere(repository, missing, cache)
  if (!whole)
    await checkRoom(cache, total - sum(here.values()) - (await begunBytes(cache, repository, files)), repository.repo)
  const failed = new AbortController()
  const both = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal
  const queue = [...files]
  let fetched = 0
  const work = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const one = file
      const onBytes = (bytes: number) => {
        here.set(one, bytes)
        if (!whole) onProgress?.({ stage: 'download', done: sum(here.values()), total })
      }
      const bytes = await fetchBlob(repository, one, settings, { signal: both, onBytes })
      fetched += bytes
      await linkFile(cache, repository, one)
    }
  }
  const workers = Array.from({ length: STREAMS }, () =>
    work().catch((error) => {
      failed.abort()
      throw error
    }),
  )
  const outcomes = await Promise.allSettled(workers)
  const errors = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []))
  // The one that failed, not the one that was ended for its sake.
  const told = errors.find((error) => signal?.aborted || error?.code !== 'ABORTED') ?? errors[0]
  if (told !== undefined) throw told
  return fetched
}

function sum(numbers: Iterable<number>): number {
  let total = 0
  for (const number of numbers) total += number
  return total
}

/** Of files that another download has left unfinished: their room is taken already. */
async function begunBytes(cache: string, { repo }: HubRepository, files: readonly HubFile[]): Promise<number> {
  const begun = files.map(async ({ blob, size }) => {
    const info = await stat(unfinishedFile(cache, repo, blob)).catch(() => undefined)
    return info?.isFile() && info.size <= size ? info.size : 0
  })
  return sum(await Promise.all(begun))
}

/** Throws WRITE_FAILED where a disk has less free than is to come. */
async function checkRoom(cache: string, bytes: number, repo: string): Promise<void> {
  const info = await nearestFolder(cache)
    .then(statfs)
    .catch(() => undefined)
  const free = info === undefined ? Number.POSITIVE_INFINITY : Number(info.bavail) * Number(info.bsize)
  if (free >= bytes || Number(info?.blocks) === 0) return
  const gb = (count: number) => `${(count / 1e9).toPrecision(3)} GB`
  throw new MillraceError('WRITE_FAILED', {
    message: `${repo} needs ${gb(bytes)} more in ${cache}, and ${gb(free)} are free there`,
    remedy: 'make room there (millrace ls, millrace rm), or name another folder by HF_HUB_CACHE',
  })
}

function notHere({ repo }: HubRepository, missing: string[], cache: string): MillraceError {
  return new MillraceError('CHECKPOINT_NOT_FOUND', {
    message: `${repo}: of its files in ${cache} there is no ${list(missing)}, offline`,
    remedy: `fetch it where there is a network (millrace pull ${repo}), or unset HF_HUB_OFFLINE`,
  })
}

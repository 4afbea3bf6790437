/** What a repository of the hub has, at one commit. */
import { MillraceError } from '../errors.ts'
import { askText, withRetries } from './request.ts'
import type { HubSettings } from './settings.ts'

export interface HubFile {
  /** Within the repository. */
  path: string
  size: number
  /** The name of its blob in the cache: the SHA-256 of a large file, git's SHA-1 of another. */
  blob: string
}

export interface HubRepository {
  repo: string
  /** As it was asked for: a branch, a tag or a commit. */
  revision: string
  commit: string
  files: HubFile[]
}

export const COMMIT = /^[0-9a-f]{40}$/
const BLOB = /^([0-9a-f]{40}|[0-9a-f]{64})$/

/** Rejects with CHECKPOINT_NOT_FOUND, HUB_ACCESS_DENIED, HUB_UNAVAILABLE or ABORTED. */
export async function readRepository(
  repo: string,
  revision: string,
  settings: HubSettings,
  signal: AbortSignal | undefined,
): Promise<HubRepository> {
  const { listFiles, modelInfo } = await import('@huggingface/hub')
  const asked = { repo, revision }
  const hub = {
    hubUrl: settings.endpoint,
    fetch: (url: string | URL | Request) =>
      withRetries(() => askText(String(url), asked, settings, signal), settings, signal),
  }
  try {
    const { sha: commit } = await modelInfo({ ...hub, name: repo, revision, additionalFields: ['sha'] })
    if (!COMMIT.test(commit)) throw strange(repo, `the commit '${commit}'`)
    const files: HubFile[] = []
    for await (const { type, path, size, oid, lfs } of listFiles({ ...hub, repo, revision: commit, recursive: true })) {
      if (type !== 'file') continue
      const file = { path, size: lfs?.size ?? size, blob: lfs?.oid ?? oid ?? '' }
      if (!isHubFile(file)) throw strange(repo, `a file '${path}'`)
      files.push(file)
    }
    return { repo, revision, commit, files }
  } catch (error) {
    if (MillraceError.isInstance(error)) throw error
    throw strange(repo, `an answer that cannot be read: ${(error as Error).message}`, error)
  }
}

/** What a hub would not say: a proxy's page of its own, for instance. */
function strange(repo: string, what: string, cause?: unknown): MillraceError {
  return new MillraceError('HUB_UNAVAILABLE', {
    message: `${repo}: the hub gave ${what}`,
    remedy: 'check HF_ENDPOINT and what is between this machine and the hub',
    cause,
  })
}

/** Whether it is one: with a path that stays in its folder, a size and a hash. */
export function isHubFile(value: unknown): value is HubFile {
  const { path, size, blob } = (value ?? {}) as Record<string, unknown>
  if (typeof path !== 'string' || typeof blob !== 'string') return false
  return isInside(path) && BLOB.test(blob) && Number.isSafeInteger(size) && (size as number) >= 0
}

/** No path that leads out of the folder it is put into. */
function isInside(path: string): boolean {
  return !/^\/|\\|\0/.test(path) && path.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
}

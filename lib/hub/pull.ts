/** pull(): a model of the hub into the cache, and only the files that a load needs. */
import { stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { readJson } from '../checkpoint/json.ts'
import { MillraceError } from '../errors.ts'
import { nearestFolder } from '../files.ts'
import { hubOptions, type LoadProgress } from '../options/model.ts'
import { invalidArgument, signal, validate } from '../options/validate.ts'
import { cachedCommit, cachedFiles, hasFile, linkFile, snapshotFolder, unfinishedFile, writeRef } from './cache.ts'
import { noSuchModel } from './errors.ts'
import { type HubName, parseHubName } from './name.ts'
import { COMMIT, type HubFile, type HubRepository, readRepository } from './repository.ts'
import { type GgufChoice, ggufChoices, isGgufOnly, matching, pathIn, settingsOf, weightsOf } from './select.ts'
import { type HubSettings, hubSettings } from './settings.ts'
import { severalModels } from './suggest.ts'
import { fetchBlob } from './transfer.ts'

export interface HubOptions {
  /** A branch, a tag or a commit. Default 'main'. */
  revision?: string | undefined
  /** Ask nothing of the network: what the cache has is used. Default: HF_HUB_OFFLINE of the environment. */
  offline?: boolean | undefined
  /** Aborts the download; what has come is kept. */
  signal?: AbortSignal | undefined
  onProgress?: ((progress: LoadProgress) => void) | undefined
}

export interface PulledModel {
  /** 'owner/name'. */
  name: string
  /** What load() takes: the snapshot's folder, or a GGUF file in it. */
  path: string
  commit: string
  /** Of the files that the model is made of; undefined where the cache was used as it is. */
  bytes: number | undefined
  /** What came over the network now. */
  fetchedBytes: number
  /** Sentences about why something else than the newest is used. */
  warnings: string[]
}

const pullOptions = z.strictObject({
  ...hubOptions,
  signal: signal().optional(),
  onProgress: z
    .custom<(progress: LoadProgress) => void>((value) => typeof value === 'function', { error: 'a function' })
    .optional(),
})

/**
 * Fetches 'owner/name', or 'owner/name:file.gguf', unless the cache has it. Two calls, or processes, at once fetch it
 * once; what was cut off goes on where it ended. Rejects with INVALID_ARGUMENT (also of several GGUF models), the
 * CHECKPOINT_ errors, HUB_ACCESS_DENIED, HUB_UNAVAILABLE, WRITE_FAILED or ABORTED.
 */
export async function pull(name: string, options: HubOptions = {}): Promise<PulledModel> {
  const checked = validate(pullOptions, options, 'options')
  const parsed = typeof name === 'string' ? parseHubName(name) : undefined
  if (parsed === undefined) throw invalidArgument("a name such as 'owner/name'", 'the model', name)
  return pullInto(parsed, checked, await hubSettings(checked))
}

/** As pull() does, with settings of one's own. */
export async function pullInto(name: HubName, options: HubOptions, settings: HubSettings): Promise<PulledModel> {
  const { revision = 'main' } = options
  if (settings.offline) return ofCache(name, revision, settings)
  // What a commit has never changes.
  if (COMMIT.test(revision)) {
    const kept = await wholeOfCache(name, revision, settings)
    if (kept) return kept
  }
  let repository: HubRepository
  try {
    repository = await readRepository(name.repo, revision, settings, options.signal)
  } catch (error) {
    const unreachable = MillraceError.isInstance(error) && error.code === 'HUB_UNAVAILABLE'
    const kept = unreachable ? await wholeOfCache(name, revision, settings) : undefined
    if (!kept) throw unreachable ? orFolder(name, error as MillraceError) : error
    return { ...kept, warnings: [`${name.repo}: the cache's copy is used: ${(error as Error).message}`] }
  }
  return fetchModel(name, repository, settings, options)
}

/** What a tokenizer is made of; of GGUF, whose file has it, all. */
export async function pullTokenizer(name: HubName, options: HubOptions, settings: HubSettings): Promise<PulledModel> {
  const { revision = 'main', signal } = options
  const kept = await wholeOfCache(name, revision, settings)
  if (kept) return kept
  const repository = await readRepository(name.repo, revision, settings, signal)
  if (name.file !== undefined || isGgufOnly(repository)) return fetchModel(name, repository, settings, options)
  const { repo, commit } = repository
  const files = settingsOf(repository)
  const fetchedBytes = await fetchFiles(repository, files, settings, options)
  const path = snapshotFolder(settings.cache, repo, commit)
  return { name: repo, path, commit, bytes: undefined, fetchedBytes, warnings: [] }
}

async function fetchModel(
  name: HubName,
  repository: HubRepository,
  settings: HubSettings,
  options: HubOptions,
): Promise<PulledModel> {
  const { repo, commit } = repository
  const snapshot = snapshotFolder(settings.cache, repo, commit)
  if (name.file !== undefined || isGgufOnly(repository)) {
    const choice = await chooseGguf(name, repository, settings, options.signal)
    const fetchedBytes = await fetchFiles(repository, choice.files, settings, options)
    await writeRef(settings.cache, repository)
    return { name: repo, path: pathIn(snapshot, choice), commit, bytes: choice.bytes, fetchedBytes, warnings: [] }
  }
  const described = await fetchSettings(repository, settings, options.signal)
  const weights = await weightsOf(repository, snapshot, described.config)
  const files = [...described.files, ...weights]
  const fetchedBytes = described.fetchedBytes + (await fetchFiles(repository, files, settings, options))
  await writeRef(settings.cache, repository)
  const bytes = files.reduce((sum, { size }) => sum + size, 0)
  return { name: repo, path: snapshot, commit, bytes, fetchedBytes, warnings: [] }
}

/** What says which weights there are, and the tokenizer. Throws CHECKPOINT_NOT_FOUND where it is no model's. */
export async function fetchSettings(repository: HubRepository, settings: HubSettings, signal: AbortSignal | undefined) {
  const files = settingsOf(repository)
  if (!files.some(({ path }) => path === 'config.json')) {
    throw new MillraceError('CHECKPOINT_NOT_FOUND', {
      message: `${repository.repo}: expected config.json or a GGUF file, found neither`,
      remedy: 'name a repository with the weights of a language model, as transformers or llama.cpp read them',
    })
  }
  const fetchedBytes = await fetchFiles(repository, files, settings, { signal })
  const { cache } = settings
  const config = await readJson(join(snapshotFolder(cache, repository.repo, repository.commit), 'config.json'))
  return { files, fetchedBytes, config: config! }
}

/** The model that a name means. Throws INVALID_ARGUMENT, with all of them, where it may mean several. */
export async function chooseGguf(
  { repo, file }: HubName,
  repository: HubRepository,
  settings: HubSettings,
  signal: AbortSignal | undefined,
): Promise<GgufChoice> {
  const all = ggufChoices(repository)
  const found = file === undefined ? all : matching(all, file)
  if (found.length === 1) return found[0]!
  if (found.length > 1) throw await severalModels(repository, found, settings, signal)
  throw new MillraceError('CHECKPOINT_NOT_FOUND', {
    message: `${repo}: expected a GGUF model${file === undefined ? '' : ` '${file}'`}, found ${all.length === 0 ? 'none' : all.map(({ name }) => name).join(', ')}`,
    remedy: all.length === 0 ? `pass '${repo}' alone` : `pass for instance '${repo}:${all[0]!.name}'`,
  })
}

const STREAMS = 2

/** Brings files into the snapshot, two at a time; returns how many bytes were fetched. */
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
  const whole = [...here].every(([{ size }, bytes]) => bytes === size)
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

/** Of the cache alone. Throws CHECKPOINT_NOT_FOUND. */
async function ofCache(name: HubName, revision: string, settings: HubSettings): Promise<PulledModel> {
  const kept = await ofSnapshot(name, revision, settings)
  if (kept) return kept
  const what = name.file === undefined ? name.repo : `${name.repo}:${name.file}`
  const { message } = noSuchModel(
    name.repo,
    `nothing of '${what}' at revision ${revision} in ${settings.cache}, offline`,
  )
  throw new MillraceError('CHECKPOINT_NOT_FOUND', {
    message,
    remedy: `fetch it where there is a network (millrace pull ${what}), or unset HF_HUB_OFFLINE`,
  })
}

async function ofSnapshot(name: HubName, revision: string, settings: HubSettings): Promise<PulledModel | undefined> {
  const { repo, file } = name
  const { cache } = settings
  const commit = await cachedCommit(cache, repo, revision)
  if (commit === undefined) return undefined
  const snapshot = snapshotFolder(cache, repo, commit)
  const files = (await cachedFiles(cache, repo, commit)).map((path) => ({ path, size: 0, blob: '' }))
  const there = { repo, revision, commit, files }
  const found = { name: repo, commit, bytes: undefined, fetchedBytes: 0, warnings: [] }
  if (file === undefined && files.some(({ path }) => path === 'config.json') && !isGgufOnly(there)) {
    return { ...found, path: snapshot }
  }
  const all = ggufChoices(there)
  const chosen = file === undefined ? all : matching(all, file)
  if (chosen.length === 1) return { ...found, path: pathIn(snapshot, chosen[0]!) }
  if (chosen.length === 0) return undefined
  throw await severalModels(there, chosen, { ...settings, offline: true }, undefined)
}

/** Of the cache, if all that a load reads is there. */
export async function wholeOfCache(
  name: HubName,
  revision: string,
  settings: HubSettings,
): Promise<PulledModel | undefined> {
  const kept = await ofSnapshot(name, revision, settings).catch(() => undefined)
  if (kept === undefined || kept.path.toLowerCase().endsWith('.gguf')) return kept
  const files = await cachedFiles(settings.cache, name.repo, kept.commit)
  const config = await readJson(join(kept.path, 'config.json')).catch(() => undefined)
  const there = {
    repo: name.repo,
    revision,
    commit: kept.commit,
    files: files.map((path) => ({ path, size: 0, blob: '' })),
  }
  const whole = await weightsOf(there, kept.path, config ?? {}).then(
    () => config !== undefined && files.includes('tokenizer.json'),
    () => false,
  )
  return whole ? kept : undefined
}

/** A text with one slash may be a misspelt path as well. */
function orFolder({ repo }: HubName, error: MillraceError): MillraceError {
  return new MillraceError(error.code, {
    message: `'${repo}': found no such folder here, and ${error.message}`,
    ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
    cause: error.cause,
  })
}

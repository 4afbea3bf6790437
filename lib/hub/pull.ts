/** pull(): a model of the hub into the cache, and only the files that a load needs. */
import { join } from 'node:path'
import { z } from 'zod'
import { readJson } from '../checkpoint/json.ts'
import { MillraceError } from '../errors.ts'
import { hubOptions, type LoadProgress } from '../options/model.ts'
import { invalidArgument, signal, validate } from '../options/validate.ts'
import { readList, snapshotFolder, writeList, writeRef } from './cache.ts'
import { fetchFiles } from './fetch.ts'
import { ofCache, type Part, wholeOfCache } from './kept.ts'
import { type HubName, parseHubName } from './name.ts'
import { COMMIT, type HubRepository, readRepository } from './repository.ts'
import { type GgufChoice, ggufChoices, isGgufOnly, matching, pathIn, settingsOf, weightsOf } from './select.ts'
import { type HubSettings, hubSettings } from './settings.ts'
import { severalModels } from './suggest.ts'

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
  const found = await find(name, options, settings, 'model')
  return 'path' in found ? found : fetchModel(name, found, settings, options)
}

/** What a tokenizer is made of; of GGUF, whose file has it, all. */
export async function pullTokenizer(name: HubName, options: HubOptions, settings: HubSettings): Promise<PulledModel> {
  const found = await find(name, options, settings, 'tokenizer')
  if ('path' in found) return found
  if (name.file !== undefined || isGgufOnly(found)) return fetchModel(name, found, settings, options)
  return fetchTokenizer(found, settings, options)
}

/** The model if all of it is here, else the repository that has it, of which nothing is fetched. */
export async function pullUnlessWeights(
  name: HubName,
  options: HubOptions,
  settings: HubSettings,
): Promise<PulledModel | HubRepository> {
  const found = await find(name, options, settings, 'model')
  if ('path' in found) return found
  return fetchModel(name, found, { ...settings, offline: true }, options).catch(() => found)
}

/**
 * What a name means is decided by the list of a commit's files, whatever of them the cache has: the list that the hub
 * gives, or that of an earlier time for a commit that is named. Where the hub cannot be asked, the cache's copy is used.
 */
async function find(
  name: HubName,
  options: HubOptions,
  settings: HubSettings,
  part: Part,
): Promise<PulledModel | HubRepository> {
  const { revision = 'main', signal } = options
  const { cache } = settings
  if (settings.offline) return ofCache(name, revision, settings, part)
  const known = COMMIT.test(revision) ? await readList(cache, name.repo, revision) : undefined
  if (known) return { repo: name.repo, revision, commit: revision, files: known }
  try {
    return await readRepository(name.repo, revision, settings, signal)
  } catch (error) {
    const unreachable = MillraceError.isInstance(error) && error.code === 'HUB_UNAVAILABLE'
    const kept = unreachable ? await wholeOfCache(name, revision, settings, part) : undefined
    if (!kept) throw unreachable ? orFolder(name, error as MillraceError) : error
    return { ...kept, warnings: [`${name.repo}: the cache's copy is used: ${(error as Error).message}`] }
  }
}

/** Of a repository that is not GGUF alone. */
export async function fetchTokenizer(
  repository: HubRepository,
  settings: HubSettings,
  options: HubOptions,
): Promise<PulledModel> {
  const { repo, commit } = repository
  const fetchedBytes = await fetchFiles(repository, settingsOf(repository), settings, options)
  const path = snapshotFolder(settings.cache, repo, commit)
  return { name: repo, path, commit, bytes: undefined, fetchedBytes, warnings: [] }
}

export async function fetchModel(
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
    await noteCommit(settings.cache, repository)
    return { name: repo, path: pathIn(snapshot, choice), commit, bytes: choice.bytes, fetchedBytes, warnings: [] }
  }
  const described = await fetchSettings(repository, settings, options.signal)
  const weights = await weightsOf(repository, snapshot, described.config)
  const files = [...described.files, ...weights]
  const fetchedBytes = described.fetchedBytes + (await fetchFiles(repository, files, settings, options))
  await noteCommit(settings.cache, repository)
  const bytes = files.reduce((sum, { size }) => sum + size, 0)
  return { name: repo, path: snapshot, commit, bytes, fetchedBytes, warnings: [] }
}

async function noteCommit(cache: string, repository: HubRepository): Promise<void> {
  await writeList(cache, repository)
  await writeRef(cache, repository)
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

/** A text with one slash may be a misspelt path as well. */
function orFolder({ repo }: HubName, error: MillraceError): MillraceError {
  return new MillraceError(error.code, {
    message: `'${repo}': found no such folder here, and ${error.message}`,
    ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
    cause: error.cause,
  })
}

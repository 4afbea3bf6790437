/** Models of the cache alone, where the hub cannot be asked. */
import { join } from 'node:path'
import { readJson } from '../checkpoint/json.ts'
import { MillraceError } from '../errors.ts'
import { cachedCommit, cachedFiles, hasFile, readList, snapshotFolder } from './cache.ts'
import { noSuchModel } from './errors.ts'
import { fetchFiles } from './fetch.ts'
import type { HubName } from './name.ts'
import { fetchModel, fetchTokenizer, type PulledModel } from './pull.ts'
import type { HubFile, HubRepository } from './repository.ts'
import { ggufChoices, isGgufOnly, matching, pathIn, weightsOf } from './select.ts'
import type { HubSettings } from './settings.ts'
import { severalModels } from './suggest.ts'

export type Part = 'model' | 'tokenizer'

/** Throws CHECKPOINT_NOT_FOUND, and INVALID_ARGUMENT where the cache has several of the models that a name may mean. */
export async function ofCache(
  name: HubName,
  revision: string,
  settings: HubSettings,
  part: Part,
): Promise<PulledModel> {
  const kept = await ofSnapshot(name, revision, { ...settings, offline: true }, part)
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

/** By the list of the commit's files; without one, which other tools do not keep, by the files that are there. */
async function ofSnapshot(
  name: HubName,
  revision: string,
  settings: HubSettings,
  part: Part,
): Promise<PulledModel | undefined> {
  const { repo, file } = name
  const { cache } = settings
  const commit = await cachedCommit(cache, repo, revision)
  if (commit === undefined) return undefined
  const listed = await readList(cache, repo, commit)
  const unlisted = async () => (await cachedFiles(cache, repo, commit)).map((path) => ({ path, size: 0, blob: '' }))
  const repository = { repo, revision, commit, files: listed ?? (await unlisted()) }
  if (file !== undefined || isGgufOnly(repository)) {
    return ofGguf(name, repository, listed ? await hereOf(cache, repository) : repository.files, settings)
  }
  if (listed && part === 'model') return fetchModel(name, repository, settings, {})
  if (listed) return fetchTokenizer(repository, settings, {})
  if (!repository.files.some(({ path }) => path === 'config.json')) return undefined
  const path = snapshotFolder(cache, repo, commit)
  return { name: repo, path, commit, bytes: undefined, fetchedBytes: 0, warnings: [] }
}

async function hereOf(cache: string, repository: HubRepository): Promise<HubFile[]> {
  const here = await Promise.all(repository.files.map((file) => hasFile(cache, repository, file)))
  return repository.files.filter((_, index) => here[index])
}

/** The one that is here of those that the name may mean. */
async function ofGguf(
  { repo, file }: HubName,
  repository: HubRepository,
  here: HubFile[],
  settings: HubSettings,
): Promise<PulledModel | undefined> {
  const { commit } = repository
  const all = ggufChoices({ ...repository, files: here })
  const chosen = file === undefined ? all : matching(all, file)
  if (chosen.length > 1) throw await severalModels(repository, chosen, settings, undefined)
  const [only] = chosen
  if (only === undefined) return undefined
  // Another commit's file may be this one's too.
  const listed = only.files.filter(({ blob }) => blob !== '')
  await fetchFiles(repository, listed, settings, {})
  const path = pathIn(snapshotFolder(settings.cache, repo, commit), only)
  const bytes = listed.length > 0 ? only.bytes : undefined
  return { name: repo, path, commit, bytes, fetchedBytes: 0, warnings: [] }
}

/** Of the cache, if all that a load reads is there. */
export async function wholeOfCache(
  name: HubName,
  revision: string,
  settings: HubSettings,
  part: Part,
): Promise<PulledModel | undefined> {
  const { cache } = settings
  const kept = await ofSnapshot(name, revision, { ...settings, offline: true }, part).catch(() => undefined)
  if (kept === undefined || kept.path.toLowerCase().endsWith('.gguf')) return kept
  if (await readList(cache, name.repo, kept.commit)) return kept
  const files = await cachedFiles(cache, name.repo, kept.commit)
  const config = await readJson(join(kept.path, 'config.json')).catch(() => undefined)
  if (config === undefined || !files.includes('tokenizer.json')) return undefined
  const there = {
    repo: name.repo,
    revision,
    commit: kept.commit,
    files: files.map((path) => ({ path, size: 0, blob: '' })),
  }
  return weightsOf(there, kept.path, config).then(
    () => kept,
    () => undefined,
  )
}

/** listModels() and removeModel(): what the cache of models has. */

import { ggufModels } from '../checkpoint/gguf/files.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument } from '../options/validate.ts'
import { type CachedModel, readCache } from './list.ts'
import { parseHubName } from './name.ts'
import { removeCached } from './remove.ts'
import { matching } from './select.ts'
import { hubSettings } from './settings.ts'

export interface RemovedModel {
  name: string
  path: string
  /** Freed on the disk. */
  bytes: number
}

/** Models of the cache that all tools of the hub share, by name. */
export async function listModels(): Promise<CachedModel[]> {
  return readCache((await hubSettings({ offline: true })).cache)
}

/**
 * Removes 'owner/name' with all its revisions, or of 'owner/name:file.gguf' that file. Rejects with INVALID_ARGUMENT,
 * CHECKPOINT_NOT_FOUND or WRITE_FAILED. Models that are loaded from it stay as they are.
 */
export async function removeModel(name: string): Promise<RemovedModel> {
  const parsed = typeof name === 'string' ? parseHubName(name) : undefined
  if (parsed === undefined) throw invalidArgument("a name such as 'owner/name'", 'the model', name)
  const { repo, file } = parsed
  const { cache } = await hubSettings({ offline: true })
  const model = (await readCache(cache)).find((one) => one.name.toLowerCase() === repo.toLowerCase())
  const missing = (found: string) =>
    new MillraceError('CHECKPOINT_NOT_FOUND', {
      message: `${name}: expected it in ${cache}, found ${found}`,
      remedy: 'millrace ls lists what is there',
    })
  if (model === undefined) throw missing('no model of that name')
  if (file === undefined) return { name: repo, path: model.path, bytes: await removeCached(model) }
  const paths = model.revisions.flatMap(({ files }) => files.map((one) => one.name))
  const choices = ggufModels(paths).map((parts) => ({
    name: parts[0]!,
    files: parts.map((path) => ({ path, size: 0, blob: '' })),
    bytes: 0,
  }))
  const [chosen, ...others] = matching(choices, file)
  if (chosen === undefined)
    throw missing(choices.length === 0 ? 'no GGUF file of it' : choices.map((one) => one.name).join(', '))
  if (others.length > 0)
    throw invalidArgument(`one of ${[chosen, ...others].map((one) => one.name).join(', ')}`, 'the file', file)
  const parts = new Set(chosen.files.map(({ path }) => path))
  return { name: repo, path: model.path, bytes: await removeCached(model, (path) => parts.has(path)) }
}

/** What a caller's model is on this machine: a path as it is, or a model of the hub, fetched where it is missing. */
import { join } from 'node:path'
import { packageRoot } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument } from '../options/validate.ts'
import { type HubName, parseHubName } from './name.ts'
import type { HubOptions } from './pull.ts'
import type { HubSettings } from './settings.ts'

export interface Located extends AsyncDisposable {
  path: string
  warnings: readonly string[]
  /** Only headers of weights are there, and only until it is disposed of. */
  headersOnly: boolean
}

type Need = 'weights' | 'headers' | 'tokenizer'

const stays = { headersOnly: false, [Symbol.asyncDispose]: async () => {} }

/**
 * With `need` 'headers', what is not in the cache is not fetched: inspect() and plan() read headers. Rejects as pull()
 * does; of a path with nothing, whoever reads it says what is wrong.
 */
export async function locate(model: string, options: HubOptions, need: Need = 'weights'): Promise<Located> {
  const name = typeof model === 'string' ? parseHubName(model) : undefined
  if (name?.repo === SHIPPED && name.file === undefined) throw notHere()
  if (name !== undefined) return ofHub(name, options, need)
  if (options.revision === undefined) return { path: model, warnings: [], ...stays }
  const expected = 'none, since the model is a path and no name of the hub,'
  throw invalidArgument(expected, 'revision', options.revision, 'leave revision out')
}

/** What examples name: in a clone it is there, and a project has it in its packages. Nobody means a repository of the hub. */
const SHIPPED = 'models/demo'

function notHere(): MillraceError {
  return new MillraceError('CHECKPOINT_NOT_FOUND', {
    message: `${SHIPPED}: expected a folder, found nothing`,
    remedy: `the model of this name that comes with the package is at ${join(packageRoot(), SHIPPED)}`,
  })
}

async function ofHub(name: HubName, options: HubOptions, need: Need): Promise<Located> {
  const { hubSettings } = await import('./settings.ts')
  return locateIn(name, options, need, await hubSettings(options))
}

/** As locate() does of a name, with settings of one's own. */
export async function locateIn(
  name: HubName,
  options: HubOptions,
  need: Need,
  settings: HubSettings,
): Promise<Located> {
  const { pullInto, pullTokenizer, pullUnlessWeights } = await import('./pull.ts')
  if (need === 'tokenizer') return { ...(await pullTokenizer(name, options, settings)), ...stays }
  if (need === 'weights' || settings.offline) return { ...(await pullInto(name, options, settings)), ...stays }
  const found = await pullUnlessWeights(name, options, settings)
  if ('path' in found) return { ...found, ...stays }
  const headers = await (await import('./headers.ts')).fetchHeaders(name, found, settings, options.signal)
  return {
    path: headers.path,
    warnings: [],
    headersOnly: true,
    [Symbol.asyncDispose]: () => headers[Symbol.asyncDispose](),
  }
}

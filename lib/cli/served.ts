/** Models that commands serve, by words of the command line and a config file. */
import { readFile } from 'node:fs/promises'
import { basename, extname, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { MillraceError } from '../errors.ts'
import type { LoadOptions } from '../options/model.ts'
import type { ServedModel, ServeOptions } from '../server/options.ts'
import {
  type AnswerFlags,
  addAnswerFlags,
  addHeadFlag,
  addHubFlags,
  addPlanFlags,
  addServeFlags,
  type HeadFlag,
  type HubFlags,
  type LoadFlags,
  loadFlagOptions,
  parseNumber,
  planOptions,
} from './options.ts'

/** How the models of a server load. */
export interface ServedFlags extends LoadFlags, HeadFlag, HubFlags, AnswerFlags {
  maxQueue?: number
  cache?: boolean | string
}

export function addServedFlags(command: Command): Command {
  return addHubFlags(addAnswerFlags(addHeadFlag(addServeFlags(addPlanFlags(command)))))
    .addOption(new Option('--max-queue <count>', 'requests of a model that may wait').argParser(parseNumber))
    .option('--cache <folder>', 'keep repacked weights for the next load there')
    .option('--no-cache', 'keep and use no repacked weights')
}

/** What was given of load()'s options; the budget of RAM is that of all models. */
export function servedLoad(flags: ServedFlags): { load: LoadOptions; ramBudget: LoadOptions['ramBudget'] } {
  const { maxQueue, cache, revision, offline } = flags
  const { ramBudget, coExecute, ...plan } = planOptions(flags)
  // A flag that says no is true where nobody gave it.
  const co = coExecute === false ? { coExecute } : {}
  const given = Object.entries({ ...plan, ...co, ...loadFlagOptions(flags), maxQueue, cache, revision, offline })
  return { load: Object.fromEntries(given.filter(([, value]) => value !== undefined)), ramBudget }
}

/** 'models/demo' and 'name=models/demo', by their names. Throws INVALID_ARGUMENT where two have one. */
export function modelsOf(words: readonly string[]): Record<string, ServedModel> {
  // Models may have the names of what other objects inherit.
  const found: Record<string, ServedModel> = Object.create(null)
  for (const word of words) {
    const [, name, path = word] = /^([\w.:@+-][\w.:@+/-]*)=(.+)$/.exec(word) ?? []
    const known = name ?? nameOf(path)
    if (found[known] !== undefined) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `two models are named ${known}`,
        remedy: 'give one of them another name: name=path',
      })
    }
    found[known] = path
  }
  return found
}

/** Its folder's, or its file's without the ending. */
function nameOf(path: string): string {
  const name = basename(resolve(path))
  return extname(name).toLowerCase() === '.gguf' ? name.slice(0, -'.gguf'.length) : name
}

/** Throws INVALID_ARGUMENT. */
export async function readConfig(path: string): Promise<Partial<ServeOptions>> {
  try {
    const config: unknown = JSON.parse(await readFile(path, 'utf8'))
    if (typeof config !== 'object' || config === null || Array.isArray(config)) throw new Error('it holds no object')
    return config as Partial<ServeOptions>
  } catch (cause) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `--config: ${path}: ${(cause as Error).message}`,
      remedy: 'pass the path of a JSON file with options of serve()',
      cause,
    })
  }
}

/** Which files of a repository a model needs: first those that say what it is, then its weights. */
import { basename, join, relative } from 'node:path'
import { ggufModels } from '../checkpoint/gguf/files.ts'
import { POOLING_FILE } from '../checkpoint/pooling.ts'
import { findWeights } from '../checkpoint/weight_files.ts'
import { MillraceError } from '../errors.ts'
import type { HubFile, HubRepository } from './repository.ts'

/** What loads read beside weights. */
const SETTINGS = [
  'config.json',
  'generation_config.json',
  'quantize_config.json',
  'quant_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'added_tokens.json',
  'special_tokens_map.json',
  'chat_template.jinja',
]
const INDEX = /\.safetensors\.index(\.[\w-]+)?\.json$/

const isTop = ({ path }: HubFile) => !path.includes('/')

/** Settings, tokenizer, template and indexes of shards. */
export function settingsOf({ files }: HubRepository): HubFile[] {
  return files.filter(
    (file) => file.path === POOLING_FILE || (isTop(file) && (SETTINGS.includes(file.path) || INDEX.test(file.path))),
  )
}

/** Whether its weights are GGUF alone: of others those are read. */
export function isGgufOnly({ files }: HubRepository): boolean {
  return (
    files.some(({ path }) => /\.gguf$/i.test(path)) &&
    !files.some((file) => isTop(file) && file.path.endsWith('.safetensors'))
  )
}

/**
 * The files with weights, as load() chooses them of a folder. `folder` has the settings. Throws the CHECKPOINT_ errors
 * where there are none that can be read.
 */
export async function weightsOf(
  { repo, files }: HubRepository,
  folder: string,
  config: Record<string, unknown>,
): Promise<HubFile[]> {
  const byPath = new Map(files.map((file) => [file.path, file]))
  const isThere = async (file: string) => byPath.has(relative(folder, file))
  const top = files.filter(isTop).map(({ path }) => path)
  try {
    const { weightFiles } = await findWeights(folder, top.sort(), config, isThere)
    return weightFiles.map((file) => byPath.get(relative(folder, file))!)
  } catch (error) {
    if (!MillraceError.isInstance(error)) throw error
    const { code, message, remedy } = error
    throw new MillraceError(code, { message: message.replaceAll(folder, repo), remedy, cause: error })
  }
}

/** A model of a GGUF repository: the paths of its parts, the first one first. */
export interface GgufChoice {
  /** What follows the repository's name and a colon. */
  name: string
  files: HubFile[]
  bytes: number
}

/** All of them, the smallest first. */
export function ggufChoices({ files }: HubRepository): GgufChoice[] {
  const byPath = new Map(files.map((file) => [file.path, file]))
  const models = ggufModels(files.map(({ path }) => path))
  const choices = models.flatMap((parts) => {
    const found = parts.map((part) => byPath.get(part))
    if (found.some((file) => file === undefined)) return []
    const all = found as HubFile[]
    return [{ name: parts[0]!, files: all, bytes: all.reduce((sum, { size }) => sum + size, 0) }]
  })
  return choices.sort((a, b) => a.bytes - b.bytes || (a.name < b.name ? -1 : 1))
}

/** Those that a word means: a path, a file's name, any of its parts, or its type of quantisation such as Q4_K_M. */
export function matching(choices: readonly GgufChoice[], word: string): GgufChoice[] {
  const exact = choices.filter(({ files }) => files.some(({ path }) => path === word || basename(path) === word))
  if (exact.length > 0) return exact
  const plain = word.toLowerCase().replace(/\.gguf$/, '')
  const escaped = plain.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const token = new RegExp(`(^|[-_.])${escaped}(\\.gguf$|-\\d{5}-of-)`)
  return choices.filter(({ name }) => token.test(basename(name).toLowerCase()))
}

/** The path of a choice's first file within a snapshot. */
export const pathIn = (snapshot: string, { name }: GgufChoice) => join(snapshot, name)

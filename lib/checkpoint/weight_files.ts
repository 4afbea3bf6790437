/** Which files of a folder hold the weights, under the names that the tools of the field give them. */
import { readlink, stat } from 'node:fs/promises'
import { dirname, isAbsolute, join, relative, resolve } from 'node:path'
import { z } from 'zod'
import { MillraceError } from '../errors.ts'
import { checkFields, fieldText, readJson, show } from './json.ts'
import { list } from './keys.ts'

export interface WeightFiles {
  weightFiles: string[]
  shardOf: ReadonlyMap<string, number> | undefined
  index: string | undefined
  warnings: string[]
}

const SINGLE = 'model.safetensors'
const INDEX = `${SINGLE}.index.json`

/** `model.safetensors.index.json`, and with a variant in it `model.safetensors.index.fp16.json`. */
const INDEX_NAME = /\.safetensors\.index(\.[\w-]+)?\.json$/
/** `model-00001-of-00003.safetensors`, and with a variant `model.fp16-00001-of-00003` or `model-00001-of-00003.fp16`. */
const SHARD_NAME = /^(.*?)[-_.]?(\d+)-of-(\d+)(.*)\.safetensors$/
/** The same weights once more, under the names of Mistral's and Meta's own code. */
const ORIGINAL = /^(consolidated|original)\b/
/** Weights that are added to others. */
const ADAPTER = /(^|[-_.])(adapter|lora)/i

const indexSchema = z.looseObject({
  weight_map: z.record(z.string(), fieldText(), { error: 'an object of tensor names and file names' }),
})

/** Whether a file of the folder, by its absolute path, is there. */
export type IsThere = (file: string) => Promise<boolean>

/** Files that belong together, all of the model's weights if any. */
interface Candidate {
  /** The name without numbers, ending and variant: 'model' of the usual ones. */
  stem: string
  files: string[]
  /** Names of shards that are not there. */
  missing: string[]
}

/**
 * What config.json's `transformers_weights` names; else, as transformers does, model.safetensors and then its index; else
 * the one index, full set of shards or single file that there is. Of files, only indexes are read; `isThere` may know of
 * others that are still to be fetched.
 */
export async function findWeights(
  path: string,
  files: readonly string[],
  config: Record<string, unknown> = {},
  isThere: IsThere = isFile,
): Promise<WeightFiles> {
  const named = config.transformers_weights
  if (typeof named === 'string' && named !== '') {
    if (INDEX_NAME.test(named)) return { ...(await readShards(path, named, isThere)), warnings: adapters(files, []) }
    const file = inside(path, named, 'config.json')
    if (!named.endsWith('.safetensors')) {
      throw new MillraceError('CHECKPOINT_UNSUPPORTED', {
        message: `config.json: field 'transformers_weights': ${show(named)} is not supported, expected a safetensors file or its index`,
      })
    }
    if (!(await isThere(file))) throw missingFile('config.json', named, path)
    return single(path, named, adapters(files, [named]))
  }
  if (files.includes(SINGLE))
    return single(path, SINGLE, [...(await besideIndex(path, files)), ...beside(files, [SINGLE])])

  const indexes = files.filter((name) => INDEX_NAME.test(name) && !ORIGINAL.test(name) && !ADAPTER.test(name))
  const index = indexes.includes(INDEX) ? INDEX : indexes.length === 1 ? indexes[0] : undefined
  if (indexes.length > 1 && index === undefined) {
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${path}: expected one index of shards, found ${list(indexes)}`,
      remedy: `remove all but one, or name it in config.json: "transformers_weights": ${show(indexes[0])}`,
    })
  }
  const candidates = findCandidates(files)
  if (index !== undefined) {
    const names = shardNames(await readMap(path, index))
    // An index that came with the files of another model, of which no shard did.
    const strange = !names.some((name) => files.includes(name)) && !(await anyIsThere(path, names, isThere))
    const only = candidates.filter(({ missing }) => missing.length === 0)
    if (!strange || only.length !== 1) {
      const found = await readShards(path, index, isThere)
      return { ...found, warnings: beside(files, names) }
    }
    const { files: own } = only[0]!
    const warning = `${index}: names shards that are not there; read instead: ${list(own)}`
    return { ...together(path, own), warnings: [warning, ...beside(files, own)] }
  }
  const chosen = choose(path, files, candidates)
  return { ...together(path, chosen), warnings: beside(files, chosen) }
}

const single = (path: string, name: string, warnings: string[]): WeightFiles => ({
  ...together(path, [name]),
  warnings,
})

function together(path: string, names: readonly string[]) {
  return { weightFiles: names.map((name) => join(path, name)), shardOf: undefined, index: undefined }
}

/** Sets of numbered shards and single files that may be a model. */
function findCandidates(files: readonly string[]): Candidate[] {
  const sets = new Map<string, { stem: string; total: number; numbers: Map<number, string> }>()
  const candidates: Candidate[] = []
  for (const name of files) {
    if (!name.endsWith('.safetensors') || ORIGINAL.test(name) || ADAPTER.test(name)) continue
    const shard = SHARD_NAME.exec(name)
    if (!shard) {
      candidates.push({ stem: name.split('.')[0]!, files: [name], missing: [] })
      continue
    }
    const [, stem, number, total, variant] = shard
    const key = JSON.stringify([stem, total, variant])
    const set = sets.get(key) ?? { stem: stem!.split('.')[0]!, total: Number(total), numbers: new Map() }
    set.numbers.set(Number(number), name)
    sets.set(key, set)
  }
  for (const { stem, total, numbers } of sets.values()) {
    const first = numbers.has(0) ? 0 : 1
    const example = [...numbers.entries()][0]!
    const missing: string[] = []
    for (let number = first; number < first + total && missing.length < 100; number++) {
      if (!numbers.has(number))
        missing.push(example[1].replace(/\d+(?=-of-)/, (text) => String(number).padStart(text.length, '0')))
    }
    candidates.push({ stem, files: [...numbers.values()].sort(), missing })
  }
  return candidates
}

function choose(path: string, files: readonly string[], candidates: readonly Candidate[]): string[] {
  const weights = files.filter((name) => name.endsWith('.safetensors'))
  const usual = candidates.filter(({ stem }) => stem === 'model')
  const found = candidates.length === 1 ? candidates[0] : usual.length === 1 ? usual[0] : undefined
  if (found) {
    if (found.missing.length === 0) return found.files
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${path}: expected all shards beside ${found.files[0]}, found no ${list(found.missing)}`,
      remedy: 'fetch the missing shards',
    })
  }
  if (candidates.length > 1) {
    const names = candidates.flatMap((candidate) => candidate.files)
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${path}: expected ${INDEX} beside ${names.length} safetensors files, found none`,
      remedy: `fetch the index, or name the one file in config.json: "transformers_weights": ${show(names[0])}`,
    })
  }
  const original = weights.filter((name) => ORIGINAL.test(name) && !ADAPTER.test(name))
  if (original.length > 0) return original
  if (weights.length > 0) {
    throw new MillraceError('CHECKPOINT_UNSUPPORTED', {
      message: `${path}: expected the weights of a model, found only an adapter (${weights[0]})`,
      remedy: 'merge the adapter into its base model, and load that',
    })
  }
  const foreign = files.find((name) => /\.(bin|pt|pth|msgpack|h5|onnx)$/.test(name))
  if (foreign !== undefined) {
    throw new MillraceError('CHECKPOINT_UNSUPPORTED', {
      message: `${path}: expected *.safetensors, found only weights in another format (${foreign})`,
    })
  }
  throw new MillraceError('CHECKPOINT_NOT_FOUND', {
    message: `${path}: expected ${SINGLE} or ${INDEX}, found neither`,
  })
}

/** Of a folder with model.safetensors and an index: that other shards are there as well. */
async function besideIndex(path: string, files: readonly string[]): Promise<string[]> {
  if (!files.includes(INDEX)) return []
  const map = await readMap(path, INDEX).catch(() => ({}))
  const others = shardNames(map).filter((name) => name !== SINGLE && files.includes(name))
  return others.length === 0
    ? []
    : [`${SINGLE} is read, as in transformers, and not what ${INDEX} names: ${list(others)}`]
}

/** Other weights of the folder: single files that are no variant of the same, and adapters. */
function beside(files: readonly string[], read: readonly string[]): string[] {
  const rest = findCandidates(files).filter(
    ({ stem, files: names }) => stem !== 'model' && !names.some((name) => read.includes(name)),
  )
  const names = rest.flatMap((candidate) => candidate.files)
  const warnings = names.length === 0 ? [] : [`not read, beside the model's weights: ${list(names)}`]
  return [...warnings, ...adapters(files, read)]
}

function adapters(files: readonly string[], read: readonly string[]): string[] {
  const names = files.filter((name) => name.endsWith('.safetensors') && ADAPTER.test(name) && !read.includes(name))
  return names.length === 0 ? [] : [`an adapter is not applied to the model: ${list(names)}`]
}

async function readMap(path: string, index: string): Promise<Record<string, string>> {
  const found = await readJson(join(path, index))
  if (!found) throw missingFile('config.json', index, path)
  return checkFields(indexSchema, found, index).weight_map
}

const shardNames = (map: Record<string, string>): string[] => [...new Set(Object.values(map))].sort()

async function readShards(path: string, index: string, isThere: IsThere) {
  inside(path, index, 'config.json')
  const map = await readMap(path, index)
  const names = shardNames(map)
  if (names.length === 0) {
    throw new MillraceError('CHECKPOINT_INVALID', { message: `${index}: expected tensors in weight_map, found none` })
  }
  const weightFiles: string[] = []
  for (const name of names) {
    const file = inside(path, name, index)
    if (!(await isThere(file))) {
      const target = await linkTarget(file)
      if (target !== undefined) throw danglingLink(file, target)
      throw missingFile(index, name, path)
    }
    weightFiles.push(file)
  }
  const shardOf = new Map(Object.entries(map).map(([tensor, name]) => [tensor, names.indexOf(name)]))
  return { weightFiles, shardOf, index }
}

/** The path of a file that another names. Lexically: the Hugging Face cache links files of a snapshot to a folder beside it. */
function inside(path: string, name: string, namedBy: string): string {
  const file = resolve(path, name)
  const within = relative(path, file)
  if (isAbsolute(name) || within === '' || within.split(/[\\/]/)[0] === '..' || name.includes('\0')) {
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${namedBy}: expected shards inside the folder, found the path ${show(name)}`,
      remedy: 'do not load this checkpoint unless you trust whoever published it; correct the index if you do',
    })
  }
  return file
}

const isFile: IsThere = async (file) => {
  return (await stat(file).catch(() => undefined))?.isFile() ?? false
}

async function anyIsThere(path: string, names: readonly string[], isThere: IsThere): Promise<boolean> {
  for (const name of names) {
    const file = inside(path, name, INDEX)
    if ((await isThere(file)) || (await linkTarget(file)) !== undefined) return true
  }
  return false
}

function missingFile(namedBy: string, name: string, path: string): MillraceError {
  return new MillraceError('CHECKPOINT_INVALID', {
    message: `${namedBy}: expected the shard ${name} in ${path}, found nothing`,
    remedy: 'fetch the missing shard',
  })
}

/** What a link points to; undefined of anything else. */
export async function linkTarget(file: string): Promise<string | undefined> {
  const target = await readlink(file).catch(() => undefined)
  return target === undefined ? undefined : resolve(dirname(file), target)
}

/** As the Hugging Face cache has them after a download that was cut off. */
export function danglingLink(file: string, target: string): MillraceError {
  return new MillraceError('CHECKPOINT_NOT_FOUND', {
    message: `${file}: expected a file, found a link to ${target}, where there is none`,
    remedy: 'fetch the model again: its download has not ended, or the file was removed from the cache',
  })
}

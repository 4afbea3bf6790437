/** Which files make up a checkpoint: a folder as Hugging Face lays it out. Reads no weights. */
import { createHash } from 'node:crypto'
import { readdir, readlink, realpath, stat } from 'node:fs/promises'
import { dirname, isAbsolute, join, relative, resolve } from 'node:path'
import { z } from 'zod'
import type { NativeTensor } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument } from '../options/validate.ts'
import { checkFields, fieldText, readJson, show } from './json.ts'

export interface CheckpointFolder {
  /** Absolute. */
  path: string
  /** Absolute paths of the safetensors files. */
  weightFiles: string[]
  /** Of a sharded checkpoint: tensor name -> index into weightFiles. */
  shardOf: ReadonlyMap<string, number> | undefined
  config: Record<string, unknown>
  generationConfig: Record<string, unknown>
  /** Names of all files of the folder. */
  files: readonly string[]
  /** Changes when a weight file's path, size or modification time does. */
  identity: string
}

const INDEX = 'model.safetensors.index.json'
const SINGLE = 'model.safetensors'

const indexSchema = z.looseObject({
  weight_map: z.record(z.string(), fieldText(), { error: 'an object of tensor names and file names' }),
})

/** Opens a checkpoint folder. Throws CHECKPOINT_NOT_FOUND, CHECKPOINT_INVALID or CHECKPOINT_UNSUPPORTED. */
export async function openFolder(directory: string): Promise<CheckpointFolder> {
  if (typeof directory !== 'string' || directory === '') {
    throw invalidArgument('the path of a model folder', 'the checkpoint', directory)
  }
  const path = resolve(directory)
  const entry = await stat(path).catch(() => undefined)
  if (!entry) throw new MillraceError('CHECKPOINT_NOT_FOUND', { message: `${path}: expected a folder, found nothing` })
  if (!entry.isDirectory()) {
    if (path.endsWith('.gguf')) {
      throw new MillraceError('CHECKPOINT_UNSUPPORTED', {
        message: `${path}: expected a folder with safetensors, found a GGUF file, which is not supported`,
      })
    }
    throw new MillraceError('CHECKPOINT_NOT_FOUND', { message: `${path}: expected a folder, found a file` })
  }
  const files = (await readdir(path)).sort()
  const config = await readJson(join(path, 'config.json'))
  if (!config) {
    throw new MillraceError('CHECKPOINT_NOT_FOUND', {
      message: `${path}: expected config.json, found ${files.length === 0 ? 'an empty folder' : 'none'}`,
    })
  }
  const { weightFiles, shardOf } = await findWeights(path, files)
  return {
    path,
    weightFiles,
    shardOf,
    config,
    generationConfig: (await readJson(join(path, 'generation_config.json'))) ?? {},
    files,
    identity: await identify(weightFiles),
  }
}

async function findWeights(path: string, files: readonly string[]) {
  if (files.includes(SINGLE)) return { weightFiles: [join(path, SINGLE)], shardOf: undefined }
  if (files.includes(INDEX)) return findShards(path)
  const others = files.filter((name) => name.endsWith('.safetensors'))
  if (others.length === 1) return { weightFiles: [join(path, others[0]!)], shardOf: undefined }
  if (others.length > 1) {
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${path}: expected ${INDEX} beside ${others.length} safetensors files, found none`,
    })
  }
  const foreign = files.find((name) => /\.(bin|pt|pth|gguf|msgpack|h5|onnx)$/.test(name))
  if (foreign !== undefined) {
    throw new MillraceError('CHECKPOINT_UNSUPPORTED', {
      message: `${path}: expected *.safetensors, found only weights in another format (${foreign})`,
    })
  }
  throw new MillraceError('CHECKPOINT_NOT_FOUND', {
    message: `${path}: expected ${SINGLE} or ${INDEX}, found neither`,
  })
}

async function findShards(path: string) {
  const { weight_map: map } = checkFields(indexSchema, await readJson(join(path, INDEX)), INDEX)
  const names = [...new Set(Object.values(map))].sort()
  if (names.length === 0) {
    throw new MillraceError('CHECKPOINT_INVALID', { message: `${INDEX}: expected tensors in weight_map, found none` })
  }
  const weightFiles: string[] = []
  for (const name of names) {
    const file = resolve(path, name)
    const inside = relative(path, file)
    // Lexically only: the Hugging Face cache links files of a snapshot to a folder beside it.
    if (isAbsolute(name) || inside === '' || inside.split(/[\\/]/)[0] === '..' || name.includes('\0')) {
      throw new MillraceError('CHECKPOINT_INVALID', {
        message: `${INDEX}: expected shards inside the folder, found the path ${show(name)}`,
        remedy: 'do not load this checkpoint unless you trust whoever published it; correct the index if you do',
      })
    }
    if (!(await stat(file).catch(() => undefined))?.isFile()) {
      const target = await linkTarget(file)
      if (target !== undefined) throw danglingLink(file, target)
      throw new MillraceError('CHECKPOINT_INVALID', {
        message: `${INDEX}: expected the shard ${name} in ${path}, found nothing`,
        remedy: 'fetch the missing shard',
      })
    }
    weightFiles.push(file)
  }
  const shardOf = new Map(Object.entries(map).map(([tensor, name]) => [tensor, names.indexOf(name)]))
  return { weightFiles, shardOf }
}

/** Checks that every tensor is where the index says. */
export function checkIndex(folder: CheckpointFolder, tensors: readonly NativeTensor[]): void {
  if (!folder.shardOf) return
  const found = new Map(tensors.map((tensor) => [tensor.name, tensor.file]))
  for (const [name, file] of folder.shardOf) {
    const at = found.get(name)
    if (at === file) continue
    const shard = (index: number) => relative(folder.path, folder.weightFiles[index]!)
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${INDEX}: expected tensor '${name}' in ${shard(file)}, found ${at === undefined ? 'none' : `it in ${shard(at)}`}`,
    })
  }
}

async function identify(files: readonly string[]): Promise<string> {
  const parts = []
  for (const file of files) {
    const [path, { size, mtimeNs }] = await locate(file)
    parts.push([path, `${size}`, `${mtimeNs}`])
  }
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex')
}

/** Where a weight file really is, and what the system says of it. */
async function locate(file: string) {
  try {
    const info = await stat(file, { bigint: true })
    if (info.isFile()) return [await realpath(file), info] as const
  } catch (cause) {
    const target = await linkTarget(file)
    throw target === undefined
      ? new MillraceError('CHECKPOINT_NOT_FOUND', {
          message: `${file}: expected a file that can be read: ${(cause as Error).message}`,
          remedy: 'check the file and its permissions',
          cause,
        })
      : danglingLink(file, target)
  }
  throw new MillraceError('CHECKPOINT_NOT_FOUND', { message: `${file}: expected a file, found something else` })
}

/** What a link points to; undefined of anything else. */
async function linkTarget(file: string): Promise<string | undefined> {
  const target = await readlink(file).catch(() => undefined)
  return target === undefined ? undefined : resolve(dirname(file), target)
}

/** As the Hugging Face cache has them after a download that was cut off. */
function danglingLink(file: string, target: string): MillraceError {
  return new MillraceError('CHECKPOINT_NOT_FOUND', {
    message: `${file}: expected a file, found a link to ${target}, where there is none`,
    remedy: 'fetch the model again: its download has not ended, or the file was removed from the cache',
  })
}

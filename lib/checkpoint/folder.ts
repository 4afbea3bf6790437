/** Which files make up a checkpoint: a folder as Hugging Face lays it out. Reads no weights. */
import { createHash } from 'node:crypto'
import { readdir, realpath, stat } from 'node:fs/promises'
import { join, relative, resolve } from 'node:path'
import type { NativeTensor } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument } from '../options/validate.ts'
import { readJson } from './json.ts'
import { isLeftover } from './unread.ts'
import { danglingLink, findWeights, linkTarget } from './weight_files.ts'

export interface CheckpointFolder {
  /** Absolute; of a GGUF model its file, or the first part. */
  path: string
  /** Absolute paths of the files with tensors. */
  weightFiles: string[]
  /** Of a sharded checkpoint: tensor name -> index into weightFiles. */
  shardOf: ReadonlyMap<string, number> | undefined
  /** The name of the index. */
  index: string | undefined
  /** Sentences about files that could be meant and are not read. */
  warnings: readonly string[]
  config: Record<string, unknown>
  generationConfig: Record<string, unknown>
  /** Names of all files of the folder. */
  files: readonly string[]
  /** Changes when a weight file's path, size or modification time does. */
  identity: string
}

/** Opens a checkpoint folder. Throws CHECKPOINT_NOT_FOUND, CHECKPOINT_INVALID or CHECKPOINT_UNSUPPORTED. */
export async function openFolder(directory: string): Promise<CheckpointFolder> {
  if (typeof directory !== 'string' || directory === '') {
    throw invalidArgument('the path of a model folder', 'the checkpoint', directory)
  }
  const path = resolve(directory)
  const entry = await stat(path).catch(() => undefined)
  if (!entry) throw new MillraceError('CHECKPOINT_NOT_FOUND', { message: `${path}: expected a folder, found nothing` })
  if (!entry.isDirectory()) {
    throw new MillraceError('CHECKPOINT_NOT_FOUND', {
      message: `${path}: expected a folder or a GGUF file, found another file`,
    })
  }
  const files = (await readdir(path)).sort()
  const config = await readJson(join(path, 'config.json'))
  if (!config) {
    throw new MillraceError('CHECKPOINT_NOT_FOUND', {
      message: `${path}: expected config.json, found ${files.length === 0 ? 'an empty folder' : 'none'}`,
    })
  }
  const { weightFiles, shardOf, index, warnings } = await findWeights(path, files, config)
  return {
    path,
    weightFiles,
    shardOf,
    index,
    warnings,
    config,
    generationConfig: (await readJson(join(path, 'generation_config.json'))) ?? {},
    files,
    identity: await identify(weightFiles),
  }
}

/** Checks that every tensor is where the index says; leftovers that nobody reads may be nowhere. */
export function checkIndex(
  folder: Pick<CheckpointFolder, 'path' | 'weightFiles' | 'shardOf' | 'index'>,
  tensors: readonly NativeTensor[],
): void {
  if (!folder.shardOf) return
  const found = new Map(tensors.map((tensor) => [tensor.name, tensor.file]))
  for (const [name, file] of folder.shardOf) {
    const at = found.get(name)
    if (at === file || isLeftover(name)) continue
    const shard = (index: number) => relative(folder.path, folder.weightFiles[index]!)
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${folder.index}: expected tensor '${name}' in ${shard(file)}, found ${at === undefined ? 'none' : `it in ${shard(at)}`}`,
    })
  }
}

/** Changes when one of the files' path, size or modification time does. */
export async function identify(files: readonly string[]): Promise<string> {
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

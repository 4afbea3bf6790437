/** Which files make up a GGUF model: one, or the numbered parts that gguf-split writes. Reads no headers. */
import { open, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { MillraceError } from '../../errors.ts'
import { list } from '../keys.ts'
import { danglingLink, linkTarget } from '../weight_files.ts'

const ENDING = /\.gguf$/i
/** `model-Q4_K_M-00001-of-00003.gguf`. */
const PART_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i
/** What is no language model by itself: projectors of images, importance matrices, adapters. */
const BESIDE = /(^|[-_.])(mmproj|imatrix|lora|adapter)/i

export interface GgufFiles {
  /** The file that was named, or the first part. */
  path: string
  /** Absolute, in their order. */
  parts: string[]
  /** Sentences about other files. */
  warnings: string[]
}

/**
 * The GGUF model that a path means: a file, any of its parts, or a folder that holds one and no safetensors; undefined of
 * anything else.
 */
export async function findGguf(path: string): Promise<GgufFiles | undefined> {
  if (typeof path !== 'string' || path === '') return undefined
  const absolute = resolve(path)
  const info = await stat(absolute).catch(() => undefined)
  if (!info && ENDING.test(absolute) && (await linkTarget(absolute)) !== undefined) return ofFile(absolute)
  if (info?.isFile()) return (await isGguf(absolute)) ? ofFile(absolute) : undefined
  return info?.isDirectory() ? ofFolder(absolute) : undefined
}

/** By its name; files of no ending (as Ollama keeps them) by how they begin. */
async function isGguf(path: string): Promise<boolean> {
  if (ENDING.test(path)) return true
  const file = await open(path).catch(() => undefined)
  try {
    const { bytesRead, buffer } = (await file?.read(Buffer.alloc(4), 0, 4, 0)) ?? { bytesRead: 0 }
    return bytesRead === 4 && buffer!.toString('latin1') === 'GGUF'
  } catch {
    return false
  } finally {
    await file?.close()
  }
}

async function ofFile(path: string): Promise<GgufFiles> {
  const folder = dirname(path)
  const name = basename(path)
  const names = partsOf(name)
  const there = await Promise.all(names.map((part) => stat(join(folder, part)).catch(() => undefined)))
  const missing = names.filter((_, index) => !there[index])
  for (const part of missing) {
    const target = await linkTarget(join(folder, part))
    if (target !== undefined) throw danglingLink(join(folder, part), target)
  }
  if (missing.length > 0) {
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${path}: expected all parts beside ${name}, found no ${list(missing)}`,
      remedy: 'fetch the missing parts into the same folder',
    })
  }
  const parts = names.map((part) => join(folder, part))
  return { path: parts[0]!, parts, warnings: [] }
}

function partsOf(name: string): string[] {
  const part = PART_NAME.exec(name)
  if (!part) return [name]
  const [, stem, , total] = part
  // Tens of thousands of parts are a name that only looks like one.
  if (Number(total) < 1 || Number(total) > 1000) return [name]
  const ending = name.slice(-5)
  return Array.from(
    { length: Number(total) },
    (_, index) => `${stem}-${String(index + 1).padStart(5, '0')}-of-${total}${ending}`,
  )
}

/** The models among files by their paths: the parts of each, in their order. */
export function ggufModels(paths: readonly string[]): string[][] {
  const models = new Map<string, string[]>()
  for (const path of paths) {
    if (!ENDING.test(path) || BESIDE.test(basename(path))) continue
    const parts = partsOf(basename(path)).map((part) => join(dirname(path), part))
    models.set(parts[0]!, parts)
  }
  return [...models.values()]
}

async function ofFolder(folder: string): Promise<GgufFiles | undefined> {
  const files = (await readdir(folder).catch(() => [])).sort()
  const all = files.filter((name) => ENDING.test(name))
  if (all.length === 0 || files.some((name) => name.endsWith('.safetensors'))) return undefined
  const models = ggufModels(all).map(([first]) => first!)
  if (models.length > 1) {
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${folder}: expected one GGUF model, found ${list(models)}`,
      remedy: `pass the path of the file that is meant: ${join(folder, models[0]!)}`,
    })
  }
  if (models.length === 0) {
    throw new MillraceError('CHECKPOINT_UNSUPPORTED', {
      message: `${folder}: expected the GGUF file of a model, found only ${list(all)}`,
    })
  }
  const found = await ofFile(join(folder, models[0]!))
  const others = all.filter((name) => BESIDE.test(name))
  const warnings = others.length === 0 ? [] : [`not read, beside the model's weights: ${list(others)}`]
  return { ...found, warnings }
}

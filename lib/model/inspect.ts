/** inspect(): what a checkpoint is and takes, without loading its weights. */
import { stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { addon, type ModelSpec, type NativeUnit } from '../binding.ts'
import { openCheckpoint } from '../checkpoint/checkpoint.ts'
import type { GgufQuantisation } from '../checkpoint/gguf/types.ts'
import type { Quantisation } from '../checkpoint/quantisation.ts'
import { inspectOptions, type MadeWeights } from '../options/model.ts'
import { validate } from '../options/validate.ts'
import { cacheFolder, packedFile } from './cache.ts'

export interface Inspection {
  path: string
  architecture: string
  spec: ModelSpec
  quantisation: Quantisation | GgufQuantisation
  tiedEmbeddings: boolean
  /** What is placed and moved: two units a layer, and the head. */
  units: NativeUnit[]
  /** Bytes of all units. */
  slabBytes: number
  embeddingBytes: number
  embeddingType: string
  kvBytesPerToken: number
  /** Weights of the model, whatever their bits; a tied head counts once. */
  parameters: number
  files: { name: string; bytes: number }[]
  /** Where loads keep the repacked weights by default, and whether they are there; undefined where none are kept. */
  cache: { path: string; bytes: number; present: boolean } | undefined
  /** What the files hold and is not read, in sentences: load() gives them to its logger. */
  warnings: readonly string[]
}

/** As load() would have them. */
export interface InspectOptions extends MadeWeights {}

/** Reads headers only. Rejects with the CHECKPOINT_ errors. */
export async function inspect(path: string, options: InspectOptions = {}): Promise<Inspection> {
  const checkpoint = await openCheckpoint(path, addon(), validate(inspectOptions, options, 'options'))
  const { folder, config, quantisation, slabs } = checkpoint
  const files = []
  for (const file of folder.weightFiles) files.push({ name: basename(file), bytes: (await stat(file)).size })
  const packed = packedFile(cacheFolder(undefined), folder, slabs)
  return {
    path: folder.path,
    architecture: config.architecture,
    spec: config.spec,
    quantisation,
    tiedEmbeddings: config.tiedEmbeddings,
    units: slabs.units,
    slabBytes: slabs.units.reduce((sum, unit) => sum + unit.bytes, 0),
    embeddingBytes: slabs.embeddingBytes,
    embeddingType: slabs.embeddingType,
    kvBytesPerToken: slabs.kvBytesPerToken,
    parameters: countParameters(config.spec, config.tiedEmbeddings),
    files,
    cache: packed && {
      ...packed,
      present: await stat(packed.path).then(
        () => true,
        () => false,
      ),
    },
    warnings: checkpoint.warnings,
  }
}

function countParameters(spec: ModelSpec, tied: boolean): number {
  const { vocab, hidden, layers, heads, kvHeads, headDim, intermediate, qkNorm } = spec
  const attention = hidden * headDim * (heads + 2 * kvHeads) + heads * headDim * hidden
  const layer = attention + 3 * hidden * intermediate + 2 * hidden + (qkNorm ? 2 * headDim : 0)
  return layers * layer + hidden + vocab * hidden * (tied ? 1 : 2)
}

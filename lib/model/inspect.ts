/** inspect(): what a checkpoint is and takes, without loading its weights. */
import { stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { addon, type KvType, type NativeUnit } from '../binding.ts'
import { openCheckpoint } from '../checkpoint/checkpoint.ts'
import { countParameters } from '../checkpoint/count.ts'
import type { GgufQuantisation } from '../checkpoint/gguf/types.ts'
import type { Quantisation } from '../checkpoint/quantisation/index.ts'
import type { ModelSpec } from '../checkpoint/spec.ts'
import { locate } from '../hub/locate.ts'
import { inspectOptions, type MadeWeights } from '../options/model.ts'
import { validate } from '../options/validate.ts'
import { keptAs } from '../plan/kv.ts'
import { cacheFolder, packedFile } from './cache.ts'

export interface Inspection {
  /** Of a model by name that is not in the cache: its name. */
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
  /** Of them, those that a token is computed with: of a mixture without the experts that do not answer it. */
  activeParameters: number
  files: { name: string; bytes: number }[]
  /** Where loads keep the repacked weights by default, and whether they are there; undefined where none are kept. */
  cache: { path: string; bytes: number; present: boolean } | undefined
  /** What the files hold and is not read, in sentences: load() gives them to its logger. */
  warnings: readonly string[]
}

/** What is made of floats, as load() would have it. */
export interface InspectOptions extends MadeWeights {
  /** As load() takes it: `kvBytesPerToken` is of keys and values kept so. Default 'f16'. */
  kv?: KvType | undefined
  /** Of a model by name, as load() takes them. */
  revision?: string | undefined
  offline?: boolean | undefined
  /** Ends the reading of headers: of the hub they may be long in coming. */
  signal?: AbortSignal | undefined
}

/** Reads headers only: of a model by name, too. Rejects with the CHECKPOINT_ and HUB_ errors, and ABORTED. */
export async function inspect(path: string, options: InspectOptions = {}): Promise<Inspection> {
  const { head, weights, kv, ...hub } = validate(inspectOptions, options, 'options')
  await using place = await locate(path, hub, 'headers')
  const checkpoint = await openCheckpoint(place.path, addon(), { head, weights })
  const { folder, config, quantisation, slabs } = checkpoint
  const files = []
  for (const file of folder.weightFiles) files.push({ name: basename(file), bytes: (await stat(file)).size })
  const packed = place.headersOnly ? undefined : packedFile(cacheFolder(undefined), folder, slabs)
  const parameters = countParameters(config.named, config.tiedEmbeddings)
  return {
    path: place.headersOnly ? path : folder.path,
    architecture: config.architecture,
    spec: config.spec,
    quantisation,
    tiedEmbeddings: config.tiedEmbeddings,
    units: slabs.units,
    slabBytes: slabs.units.reduce((sum, unit) => sum + unit.bytes, 0),
    embeddingBytes: slabs.embeddingBytes,
    embeddingType: slabs.embeddingType,
    kvBytesPerToken: keptAs(slabs, kv).kvBytesPerToken,
    parameters: parameters.all,
    activeParameters: parameters.active,
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

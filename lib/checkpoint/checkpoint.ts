/** A checkpoint's metadata: all that is known about it before a weight is read. */
import { createHash } from 'node:crypto'
import type { ModelSource, NativeAddon, NativeSlabPlan, NativeTensor } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { HeadType } from '../options/model.ts'
import { type ModelConfig, readConfig, readEndTokens } from './config.ts'
import { type CheckpointFolder, checkIndex, openFolder } from './folder.ts'
import { type Quantisation, readQuantisation } from './quantisation.ts'
import { makeSource } from './source.ts'

export interface Checkpoint {
  folder: CheckpointFolder
  config: ModelConfig
  quantisation: Quantisation
  tensors: NativeTensor[]
  source: ModelSource
  slabs: NativeSlabPlan
  /** Tokens that end an answer, by generation_config.json and config.json. */
  endTokens: number[]
  /** Equal for loads that can share their slabs. */
  identity: string
}

/** Reads headers only. Throws the CHECKPOINT_ errors. */
export async function openCheckpoint(
  directory: string,
  native: NativeAddon,
  head: HeadType = 'stored',
): Promise<Checkpoint> {
  const folder = await openFolder(directory)
  const config = readConfig(folder.config)
  const quantisation = await readQuantisation(folder)
  try {
    const tensors = native.readTensors(folder.weightFiles)
    checkIndex(folder, tensors)
    const source = makeSource(config, quantisation, tensors, head)
    const slabs = await native.planSlabs(folder.weightFiles, source)
    const generation = readEndTokens(folder.generationConfig, 'generation_config.json')
    return {
      folder,
      config,
      quantisation,
      tensors,
      source,
      slabs,
      endTokens: [...new Set([...generation, ...config.endTokens])],
      // The same files under another config.json make other slabs.
      identity: createHash('sha256').update(folder.identity).update(JSON.stringify(source)).digest('hex'),
    }
  } catch (error) {
    throw MillraceError.fromNative(error)
  }
}

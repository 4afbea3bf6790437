/** A checkpoint's metadata: all that is known about it before a weight is read. */
import { createHash } from 'node:crypto'
import type { ModelSource, NativeAddon, NativeSlabPlan, NativeTensor } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { MadeWeights } from '../options/model.ts'
import { type ModelConfig, readConfig, readEndTokens } from './config.ts'
import { type CheckpointFolder, checkIndex, openFolder } from './folder.ts'
import { findGguf } from './gguf/files.ts'
import { openGguf } from './gguf/open.ts'
import type { GgufQuantisation } from './gguf/types.ts'
import { type Quantisation, readQuantisation } from './quantisation/index.ts'
import { makeSource } from './source.ts'
import { textPart } from './text_part.ts'
import { checkTies, checkUnread } from './unread.ts'

/** What a format's own files say. */
export interface CheckpointParts {
  folder: CheckpointFolder
  config: ModelConfig
  quantisation: Quantisation | GgufQuantisation
  tensors: NativeTensor[]
  source: ModelSource
  slabs: NativeSlabPlan
  /** Sentences about what the files hold and is not read. */
  warnings: readonly string[]
}

export interface Checkpoint extends CheckpointParts {
  /** Tokens that end an answer, by generation_config.json and config.json. */
  endTokens: number[]
  /** Equal for loads that can share their slabs. */
  identity: string
}

/** Reads headers, and of what could be left out its bytes. Throws the CHECKPOINT_ errors. */
export async function openCheckpoint(path: string, native: NativeAddon, made: MadeWeights = {}): Promise<Checkpoint> {
  try {
    const gguf = await findGguf(path)
    const parts = gguf ? await openGguf(gguf, native, made) : await openHubFolder(path, native, made)
    const { folder, config, source } = parts
    const generation = readEndTokens(folder.generationConfig, 'generation_config.json')
    const { vocab } = config.spec
    const ends = [...new Set([...generation, ...config.endTokens])]
    const strange = ends.filter((token) => token < 0 || token >= vocab)
    const warnings = [...parts.warnings]
    if (strange.length > 0)
      warnings.push(`eos_token_id: no tokens of the vocabulary of ${vocab}: ${strange.join(', ')}`)
    return {
      ...parts,
      endTokens: ends.filter((token) => !strange.includes(token)),
      warnings,
      // The same files under another config.json make other slabs.
      identity: createHash('sha256').update(folder.identity).update(JSON.stringify(source)).digest('hex'),
    }
  } catch (error) {
    throw MillraceError.fromNative(error)
  }
}

/** A folder as Hugging Face lays it out. */
async function openHubFolder(path: string, native: NativeAddon, made: MadeWeights): Promise<CheckpointParts> {
  const folder = await openFolder(path)
  const warnings = [...folder.warnings]
  const warn = (message: string) => void warnings.push(message)
  const said = readConfig(folder.config, warn)
  const quantisation = await readQuantisation(folder)
  const tensors = native.readTensors(folder.weightFiles)
  checkIndex(folder, tensors)
  const text = textPart(said.architecture, tensors, warn)
  const plain = makeSource(said, quantisation, text.tensors, made, text.aliases)
  await checkUnread(folder.weightFiles, said, plain, text.tensors, warn)
  const config = { ...said, tiedEmbeddings: await checkTies(folder.weightFiles, said, plain, text.tensors, warn) }
  const source = text.asStored(plain)
  const slabs = await native.planSlabs(folder.weightFiles, source)
  return { folder, config, quantisation, tensors, source, slabs, warnings }
}

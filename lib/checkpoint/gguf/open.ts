/** A GGUF model's metadata and tensors, as the rest of the library knows checkpoints. */
import { basename } from 'node:path'
import type { LinearSource, ModelSource, NativeAddon, NativeTensor } from '../../binding.ts'
import type { MadeWeights } from '../../options/model.ts'
import type { CheckpointParts } from '../checkpoint.ts'
import { type ModelConfig, readConfig } from '../config.ts'
import { identify } from '../folder.ts'
import { makeSource } from '../source.ts'
import { checkUnread, readBytes } from '../unread.ts'
import { architectureOf } from './architectures.ts'
import { asGguf, checkGgufKeys, makeConfig } from './config.ts'
import type { GgufFiles } from './files.ts'
import { type GgufHeader, type GgufMetadata, readGgufHeader } from './metadata.ts'
import { TensorNames } from './names.ts'
import { readTypes } from './types.ts'

/** Llama 3.1's rescaling, as divisors of frequencies. */
const ROPE_FACTORS = 'rope_freqs.weight'

/** Reads headers, and of what could be left out its bytes. Throws the CHECKPOINT_ errors. */
export async function openGguf(files: GgufFiles, native: NativeAddon, made: MadeWeights): Promise<CheckpointParts> {
  const warnings = [...files.warnings]
  const warn = (message: string) => void warnings.push(message)
  const headers = files.parts.map((path) => readGgufHeader(native, path, basename(path)))
  checkParts(headers)
  const { metadata } = headers[0]!
  const kind = architectureOf(metadata)
  const [name, architecture] = kind
  const stored = native.readTensors(files.parts)
  if (stored.length === 0) throw metadata.invalid('expected tensors, found a vocabulary alone')
  const names = new TensorNames(architecture, stored)
  try {
    const { record, headDim } = makeConfig(metadata, kind, stored)
    const said = await withRopeFactors(readConfig(record, warn), files.parts, stored, metadata)
    checkGgufKeys(metadata, kind, warn)
    const tensors = stored
      .filter((tensor) => tensor.name !== ROPE_FACTORS)
      .map((tensor) => ({ ...tensor, name: names.toHub(tensor.name) }))
    const plain = makeSource(said, { method: 'none' }, tensors, made)
    await checkUnread(files.parts, said, plain, tensors, (message) => warn(inFileNames(message, names)))
    const ofFile = names.ofSource(plain)
    const source = architecture.interleaved ? interleaved(ofFile, headDim) : ofFile
    return {
      folder: {
        path: files.path,
        weightFiles: files.parts,
        shardOf: undefined,
        index: undefined,
        warnings: [],
        config: record,
        generationConfig: {},
        files: files.parts.map((path) => basename(path)),
        identity: await identify(files.parts),
      },
      config: said,
      quantisation: readTypes(metadata, stored),
      tensors: stored,
      source,
      slabs: await native.planSlabs(files.parts, source),
      warnings,
    }
  } catch (error) {
    throw asGguf(error, metadata, name, names)
  }
}

/** Each part says which it is; without a number of parts there is one. */
function checkParts(headers: readonly GgufHeader[]): void {
  const count = headers.length
  headers.forEach(({ metadata }, index) => {
    const said = metadata.integer('split.count') ?? 0
    if (said !== count && (said > 1 || count > 1)) {
      throw metadata.invalid(`metadata key 'split.count': expected ${count}, as the name says, found ${said}`)
    }
    const number = metadata.integer('split.no') ?? 0
    if (number !== index) {
      throw metadata.invalid(`metadata key 'split.no': expected ${index}, as the name says, found ${number}`)
    }
  })
  const { metadata } = headers[0]!
  const expected = metadata.integer('split.tensors.count')
  const found = headers.reduce((sum, { tensorCount }) => sum + tensorCount, 0)
  if (expected !== undefined && expected !== found) {
    throw metadata.invalid(
      `metadata key 'split.tensors.count': expected the ${found} that are there, found ${expected}`,
    )
  }
}

async function withRopeFactors(
  config: ModelConfig,
  files: readonly string[],
  tensors: readonly NativeTensor[],
  metadata: GgufMetadata,
): Promise<ModelConfig> {
  const tensor = tensors.find(({ name }) => name === ROPE_FACTORS)
  if (!tensor) return config
  const pairs = config.spec.headDim / 2
  if (tensor.dtype !== 'F32' || tensor.shape.length !== 1 || tensor.shape[0] !== pairs) {
    throw metadata.invalid(
      `tensor '${ROPE_FACTORS}': expected F32 [${pairs}], found ${tensor.dtype} [${tensor.shape.join(', ')}]`,
    )
  }
  const bytes = await readBytes(files, tensor, 0, tensor.bytes)
  const factors = Array.from({ length: pairs }, (_, pair) => bytes.readFloatLE(4 * pair))
  const wrong = factors.find((factor) => !(factor > 0 && Number.isFinite(factor)))
  if (wrong !== undefined) {
    throw metadata.invalid(`tensor '${ROPE_FACTORS}': expected positive numbers, found ${wrong}`)
  }
  if (factors.every((factor) => factor === 1)) return config
  return { ...config, spec: { ...config.spec, rope: { ...config.spec.rope, factors } } }
}

/** Of query and key. */
function interleaved(source: ModelSource, headDim: number): ModelSource {
  const turned = (linear: LinearSource) => ({ ...linear, interleavedHeads: { headDim, rotary: headDim } })
  return {
    ...source,
    layers: source.layers.map((layer) => ({ ...layer, query: turned(layer.query), key: turned(layer.key) })),
  }
}

const inFileNames = (message: string, names: TensorNames): string =>
  message.replace(/"([^"]+)"/g, (_, hub: string) => JSON.stringify(names.toStored(hub)))

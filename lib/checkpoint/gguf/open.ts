/** A GGUF model's metadata and tensors, as the rest of the library knows checkpoints. */
import { basename } from 'node:path'
import type { NativeAddon, NativeTensor, Program, VectorSource } from '../../binding.ts'
import type { MadeWeights } from '../../options/model.ts'
import type { CheckpointParts } from '../checkpoint.ts'
import { type ModelConfig, readConfig } from '../config.ts'
import { MODULES } from '../decoder.ts'
import { identify } from '../folder.ts'
import type { NamedProgram } from '../program.ts'
import { makeSource } from '../source.ts'
import { checkUnread, readBytes } from '../unread.ts'
import { architectureOf, type GgufArchitecture } from './architectures.ts'
import { asGguf, checkGgufKeys, makeConfig, type RopeFactors } from './config.ts'
import type { GgufFiles } from './files.ts'
import { type GgufHeader, type GgufMetadata, readGgufHeader } from './metadata.ts'
import { TensorNames } from './names.ts'
import { readTypes } from './types.ts'

/** Llama 3.1's rescaling, as divisors of frequencies. */
const ROPE_FACTORS = 'rope_freqs.weight'
/** Phi-3's, of short contexts and of long ones. */
const LONG_ROPE = { short: 'rope_factors_short.weight', long: 'rope_factors_long.weight' }

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
    const factors = await readRopeFactors(files.parts, stored, metadata)
    const { record, headDim } = makeConfig(metadata, kind, stored, factors)
    const read = await withRopeFactors(readConfig(record, warn), files.parts, stored, metadata)
    const said = { ...read, named: asStored(read.named, architecture, headDim) }
    checkGgufKeys(metadata, kind, warn)
    const tensors = stored
      .filter((tensor) => tensor.name !== ROPE_FACTORS && !Object.values(LONG_ROPE).includes(tensor.name))
      .map((tensor) => ({ ...tensor, name: names.toHub(tensor.name) }))
    const plain = makeSource(said, { method: 'none' }, tensors, made)
    await checkUnread(files.parts, said, plain, tensors, (message) => warn(inFileNames(message, names)))
    const source = { ...plain, units: names.ofSource(plain.units), tables: names.ofSource(plain.tables) }
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

/** Of a tensor of positive numbers, `count` of them where that is known; undefined where there is none. */
async function readFactors(
  files: readonly string[],
  tensors: readonly NativeTensor[],
  metadata: GgufMetadata,
  name: string,
  count?: number,
): Promise<number[] | undefined> {
  const tensor = tensors.find((one) => one.name === name)
  if (!tensor) return undefined
  const [length = 0] = tensor.shape
  if (tensor.dtype !== 'F32' || tensor.shape.length !== 1 || length !== (count ?? length) || length > 2 ** 10) {
    throw metadata.invalid(
      `tensor '${name}': expected F32 [${count ?? 'pairs'}], found ${tensor.dtype} [${tensor.shape.join(', ')}]`,
    )
  }
  const bytes = await readBytes(files, tensor, 0, tensor.bytes)
  const factors = Array.from({ length }, (_, pair) => bytes.readFloatLE(4 * pair))
  const wrong = factors.find((factor) => !(factor > 0 && Number.isFinite(factor)))
  if (wrong !== undefined) throw metadata.invalid(`tensor '${name}': expected positive numbers, found ${wrong}`)
  return factors
}

async function readRopeFactors(
  files: readonly string[],
  tensors: readonly NativeTensor[],
  metadata: GgufMetadata,
): Promise<RopeFactors | undefined> {
  const [short, long] = await Promise.all(
    [LONG_ROPE.short, LONG_ROPE.long].map((name) => readFactors(files, tensors, metadata, name)),
  )
  return short && long && { short, long }
}

async function withRopeFactors(
  config: ModelConfig,
  files: readonly string[],
  tensors: readonly NativeTensor[],
  metadata: GgufMetadata,
): Promise<ModelConfig> {
  const pairs = config.spec.rope.rotary / 2
  const factors = await readFactors(files, tensors, metadata, ROPE_FACTORS, pairs)
  if (!factors) return config
  if (factors.every((factor) => factor === 1)) return config
  const { spec, named } = config
  const ropes = named.program.ropes.map((rope) => ({ ...rope, factors }))
  return {
    ...config,
    spec: { ...spec, rope: { ...spec.rope, factors } },
    named: { ...named, program: { ...named.program, ropes } },
  }
}

/** The same program, of weights as converters write them. */
function asStored(named: NamedProgram, architecture: GgufArchitecture, headDim: number): NamedProgram {
  const { interleaved = false, wholeNorms = false, headsInTurn = false } = architecture
  if (!interleaved && !wholeNorms) return named
  // Rows of query and key come in the order of a rotation of neighbours.
  const turns = (module: string) => interleaved && (module.endsWith(MODULES.query) || module.endsWith(MODULES.key))
  const heads = { headDim, rotary: headDim, interleaved: true }
  const units = named.units.map(({ vectors, linears }) => ({
    vectors: wholeNorms ? vectors.map(asWhole) : vectors,
    linears: linears.map((parts) => parts.map((part) => (turns(part.module) ? { ...part, heads } : part))),
  }))
  return { ...named, units, program: headsInTurn ? withHeadsInTurn(named.program) : named.program }
}

/** Norms as what they multiply by, rates of decay as what a state's logarithm grows by. */
const asWhole = ({ plusOne: _, exponential, ...vector }: VectorSource): VectorSource => ({
  ...vector,
  ...(exponential ? { negated: true } : {}),
})

const withHeadsInTurn = (program: Program): Program => ({
  ...program,
  units: program.units.map((unit) => ({
    ...unit,
    ops: unit.ops.map((op) => (op.op === 'delta' ? { ...op, inTurn: true } : op)),
  })),
})

const inFileNames = (message: string, names: TensorNames): string =>
  message.replace(/"([^"]+)"/g, (_, hub: string) => JSON.stringify(names.toStored(hub)))

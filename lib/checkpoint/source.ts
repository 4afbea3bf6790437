/** Tensor names -> which tensors make up which linear. Shapes and types are the native side's to check. */
import type { LinearSource, ModelSource, NativeTensor } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { HeadType } from '../options/model.ts'
import type { ModelConfig } from './config.ts'
import { EMBEDDING, HEAD } from './decoder.ts'
import type { LinearPart } from './program.ts'
import { moduleSettings, type Quantisation } from './quantisation.ts'

/** What a linear is stored as, by the format's name of the packed weights. */
const PACKED = { gptq: 'qweight', awq: 'qweight', 'compressed-tensors': 'weight_packed' } as const

/** Throws CHECKPOINT_INVALID naming the first tensor that is missing, CHECKPOINT_UNSUPPORTED a linear of other bits. */
export function makeSource(
  config: ModelConfig,
  quantisation: Quantisation,
  tensors: readonly Pick<NativeTensor, 'name'>[],
  head: HeadType = 'stored',
): ModelSource {
  const names = new Set(tensors.map((tensor) => tensor.name))
  const present = (name: string) => (names.has(name) ? name : '')
  const require = (name: string) => {
    if (!names.has(name)) throw missing(name)
    return name
  }
  const settingsOf = moduleSettings(quantisation, moduleNames(config))

  // The settings say how a linear is packed and which ones never are; which of the others are, the file shows.
  const linear = (name: string, bias: boolean): LinearSource => {
    const biasName = bias ? require(`${name}.bias`) : ''
    const settings = settingsOf(name)
    if (settings.quantised && quantisation.method !== 'none') {
      const packed = `${name}.${PACKED[quantisation.method]}`
      if (names.has(packed)) {
        if (settings.bits !== 4) throw otherBits(name, settings.bits, settings.reason)
        return { ...quantised(name, packed, settings.symmetric), ...settingsFields(settings), bias: biasName }
      }
    }
    if (names.has(`${name}.weight`)) return plain(`${name}.weight`, biasName)
    if (name === HEAD && headName === undefined) throw noHead()
    throw noWeight(name, settings.quantised ? undefined : settings.reason)
  }

  const quantised = (name: string, weight: string, symmetric: boolean): LinearSource => {
    const source = { ...plain(weight, ''), format: quantisation.method as LinearSource['format'] }
    if (quantisation.method === 'compressed-tensors') {
      return {
        ...source,
        // Where it is symmetric there is none, whatever a tensor of the name holds.
        zeros: symmetric ? '' : require(`${name}.weight_zero_point`),
        scales: require(`${name}.weight_scale`),
        gIdx: present(`${name}.weight_g_idx`),
        shape: present(`${name}.weight_shape`),
      }
    }
    const awqWithoutZeros = quantisation.method === 'awq' && symmetric
    return {
      ...source,
      zeros: awqWithoutZeros ? present(`${name}.qzeros`) : require(`${name}.qzeros`),
      scales: require(`${name}.scales`),
      gIdx: quantisation.method === 'gptq' ? present(`${name}.g_idx`) : '',
      zerosMinusOne: quantisation.method === 'gptq' && quantisation.format === 'gptq',
    }
  }

  const noWeight = (name: string, excludedBy: string | undefined): MillraceError => {
    const packed = [`${name}.qweight`, `${name}.weight_packed`].find((tensor) => names.has(tensor))
    if (packed !== undefined && quantisation.method === 'none') {
      return new MillraceError('CHECKPOINT_INVALID', {
        message: `tensor '${packed}': expected settings of the quantisation in config.json or quantize_config.json, found none`,
        remedy: 'fetch the file with the settings from where the checkpoint came from',
      })
    }
    if (packed !== undefined) {
      const why = excludedBy ? `by ${excludedBy}` : `by quant_method '${quantisation.method}'`
      return new MillraceError('CHECKPOINT_INVALID', {
        message: `tensor '${packed}': ${why} expected '${name}.${excludedBy || quantisation.method === 'none' ? 'weight' : PACKED[quantisation.method]}' instead of it, found none`,
        remedy: 'check that the settings of the quantisation belong to this checkpoint',
      })
    }
    return missing(
      quantisation.method === 'none' || excludedBy
        ? `${name}.weight`
        : `${name}.${PACKED[quantisation.method]}' or '${name}.weight`,
    )
  }

  const requireEmbedding = (name: string) => {
    if (!names.has(name) && names.has('tok_embeddings.weight')) throw foreignNames()
    return require(name)
  }

  // Tied, either name will do; a head that is there as well is the head, whatever config.json says.
  const headName = [`${HEAD}.weight`, ...Object.values(PACKED).map((part) => `${HEAD}.${part}`)].find((name) =>
    names.has(name),
  )
  const tied = config.tiedEmbeddings && headName === undefined
  const { program, units, tables } = config.named
  const headAlone = (module: string) =>
    module.endsWith(`.${EMBEDDING}`) &&
    config.tiedEmbeddings &&
    !names.has(`${module}.weight`) &&
    names.has(`${HEAD}.weight`)
  const tableNames = tables.map((module) =>
    headAlone(module) ? `${HEAD}.weight` : requireEmbedding(`${module}.weight`),
  )
  const part = ({ module, bias = false, heads, rows }: LinearPart): LinearSource => {
    const source = module === HEAD && tied ? plain(tableNames[0]!, '') : linear(module, bias)
    return { ...source, ...(heads ? { heads } : {}), ...(rows ? { rows } : {}) }
  }
  const sources = units.map(({ vectors, linears }) => ({
    vectors: vectors.map((vector) => ({ ...vector, tensor: require(vector.tensor) })),
    linears: linears.map((parts) => parts.map(part)),
  }))
  const headSource = sources.at(-1)!.linears[0]![0]!
  return {
    program,
    units: sources,
    tables: tableNames,
    headBits: headSource.format !== 'plain' || head === 'stored' ? 0 : head === 'q8' ? 8 : 4,
  }
}

function moduleNames({ named }: ModelConfig): string[] {
  return [...new Set(named.units.flatMap(({ linears }) => linears.flat().map(({ module }) => module)))]
}

const settingsFields = ({ bits, groupSize, symmetric }: { bits: number; groupSize: number; symmetric: boolean }) => ({
  bits,
  groupSize,
  symmetric,
})

function plain(weight: string, bias: string): LinearSource {
  return {
    format: 'plain',
    weight,
    zeros: '',
    scales: '',
    gIdx: '',
    shape: '',
    bias,
    bits: 0,
    groupSize: 0,
    symmetric: false,
    zerosMinusOne: false,
  }
}

function missing(name: string): MillraceError {
  return new MillraceError('CHECKPOINT_INVALID', {
    message: `expected tensor '${name}' in the safetensors files, found none`,
  })
}

function noHead(): MillraceError {
  return new MillraceError('CHECKPOINT_INVALID', {
    message: `expected tensor '${HEAD}.weight' in the safetensors files, since config.json does not say tie_word_embeddings, found none`,
    remedy:
      'fetch the missing shard; if the embedding table is the head, set "tie_word_embeddings": true in config.json',
  })
}

function foreignNames(): MillraceError {
  return new MillraceError('CHECKPOINT_UNSUPPORTED', {
    message:
      "tensor 'tok_embeddings.weight': expected the names of Hugging Face ('model.embed_tokens.weight'), found those of the authors' own code",
    remedy: 'fetch the files for transformers (model*.safetensors), or convert these',
  })
}

function otherBits(name: string, bits: number, reason: string | undefined): MillraceError {
  return new MillraceError('CHECKPOINT_UNSUPPORTED', {
    message: `${reason ?? 'settings'}: '${name}' of ${bits} bits is not supported, expected 4`,
    remedy: 'use a checkpoint whose quantised linears all have 4 bits',
  })
}

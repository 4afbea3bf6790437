/** Tensor names -> which tensors make up which linear. Shapes and types are the native side's to check. */
import type { LinearSource, ModelSource, NativeTensor } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { MadeWeights } from '../options/model.ts'
import type { ModelConfig } from './config.ts'
import { EMBEDDING, HEAD } from './decoder.ts'
import type { LinearPart } from './program.ts'
import {
  type ModuleSettings,
  moduleSettings,
  type Quantisation,
  type UniformQuantisation,
} from './quantisation/index.ts'
import type { Aliases } from './quantisation/modules.ts'

/** What a linear is stored as, by the format's name of the packed weights. */
const PACKED = {
  gptq: 'qweight',
  awq: 'qweight',
  'compressed-tensors': 'weight_packed',
  fp8: 'weight',
  nvfp4: 'weight',
  mxfp4: 'weight_packed',
}

/** What some files have in the place of kv_b_proj. */
const LATENT_PARTS = ['k_b_proj', 'v_b_proj']

const BITS = { stored: 0, q4: 4, q8: 8 } as const

/** Throws CHECKPOINT_INVALID naming the first tensor that is missing, CHECKPOINT_UNSUPPORTED a linear of other bits. */
export function makeSource(
  config: ModelConfig,
  quantisation: Quantisation,
  tensors: readonly Pick<NativeTensor, 'name'>[],
  { head = 'stored', weights = 'stored' }: MadeWeights = {},
  aliases: Aliases = () => [],
): ModelSource {
  const names = new Set(tensors.map((tensor) => tensor.name))
  const present = (name: string) => (names.has(name) ? name : '')
  const require = (name: string) => {
    if (!names.has(name)) throw missing(name)
    return name
  }
  const settingsOf = moduleSettings(quantisation, moduleNames(config), aliases)

  // The settings say how a linear is packed and which ones never are; which of the others are, the file shows.
  const linear = (name: string, bias: boolean): LinearSource => {
    const biasName = bias ? require(`${name}.bias`) : ''
    const settings = ofFile(name, settingsOf(name))
    if (settings.quantised) {
      const packed = packedName(name, settings.of)
      if (packed !== undefined) {
        if (settings.bits !== 4 && settings.bits !== 8) throw otherBits(name, settings.bits, settings.reason)
        return {
          ...quantised(name, packed, settings.of, settings.symmetric),
          ...settingsFields(settings),
          bias: biasName,
        }
      }
    }
    if (names.has(`${name}.weight`)) return plain(`${name}.weight`, biasName)
    const [keys, values] = LATENT_PARTS.map((part) => name.replace(/\.kv_b_proj$/, `.${part}.weight`))
    if (keys !== values && names.has(keys!)) return { ...plain(require(values!), biasName), keys: keys! }
    if (name === HEAD && headName === undefined) throw noHead()
    throw noWeight(name, settings.quantised ? settings.of : undefined, settings.reason)
  }

  /** AWQ leaves modules out by parts of names, of which 'gate' (a router) is one of gate_proj's too: the file decides. */
  const ofFile = (name: string, settings: ModuleSettings): ModuleSettings => {
    if (settings.quantised || quantisation.method !== 'awq') return settings
    if (names.has(`${name}.weight`) || !names.has(`${name}.qweight`)) return settings
    const { bits, groupSize, symmetric } = quantisation
    return { quantised: true, of: quantisation, bits, groupSize, symmetric }
  }

  /** Of an expert whose weights are in a tensor of all experts. */
  const ofStack = ({ stacks = [], bias = false }: LinearPart): LinearSource | undefined => {
    for (const { module, index, rows, transposed } of stacks) {
      const at = (name: string) => `${require(name)}[${index}]`
      const [weight] = [`${module}.weight`, module, `${module}_blocks`].filter((name) => names.has(name))
      if (weight === undefined) continue
      const biasName = bias ? at(weight === `${module}.weight` ? `${module}.bias` : `${module}_bias`) : ''
      const source = { ...plain(at(weight), biasName), ...(rows ? { rows } : {}) }
      if (weight === module) return { ...source, ...(transposed ? { transposed } : {}) }
      if (weight === `${module}.weight`) return source
      const scales = at(`${module}_scales`)
      return { ...source, format: 'mxfp4', scales, bits: 4, groupSize: 32, symmetric: true }
    }
    return undefined
  }

  /** Of a linear that the file has quantised; one of the same name without scales is of floats. */
  const packedName = (name: string, of: UniformQuantisation): string | undefined => {
    const candidates = [`${name}.${PACKED[of.method]}`]
    if (of.method === 'nvfp4') candidates.unshift(`${name}.weight_packed`)
    if (of.method === 'compressed-tensors' && of.format === 'int-quantized') {
      candidates.push(`${name}.weight`)
    }
    const packed = candidates.find((candidate) => names.has(candidate))
    return packed?.endsWith('.weight') && scaleOf(name) === undefined ? undefined : packed
  }
  const scaleOf = (name: string) =>
    ['weight_scale_inv', 'weight_scale'].map((part) => `${name}.${part}`).find((scale) => names.has(scale))

  const quantised = (name: string, weight: string, of: UniformQuantisation, symmetric: boolean): LinearSource => {
    const source = { ...plain(weight, ''), format: of.method }
    if (of.method === 'fp8') {
      return { ...source, scales: scaleOf(name) ?? require(`${name}.weight_scale`), blockRows: of.blockRows }
    }
    if (of.method === 'mxfp4') return { ...source, scales: require(`${name}.weight_scale`) }
    if (of.method === 'nvfp4') {
      const divides = names.has(`${name}.weight_global_scale`)
      return {
        ...source,
        scales: require(`${name}.weight_scale`),
        globalScale: divides ? `${name}.weight_global_scale` : require(`${name}.weight_scale_2`),
        globalDivides: divides,
      }
    }
    if (of.method === 'compressed-tensors') {
      return {
        ...source,
        // Where it is symmetric there is none, whatever a tensor of the name holds.
        zeros: symmetric ? '' : require(`${name}.weight_zero_point`),
        scales: require(`${name}.weight_scale`),
        gIdx: present(`${name}.weight_g_idx`),
        shape: present(`${name}.weight_shape`),
      }
    }
    const awqWithoutZeros = of.method === 'awq' && symmetric
    return {
      ...source,
      zeros: awqWithoutZeros ? present(`${name}.qzeros`) : require(`${name}.qzeros`),
      scales: require(`${name}.scales`),
      gIdx: of.method === 'gptq' ? present(`${name}.g_idx`) : '',
      zerosMinusOne: of.method === 'gptq' && of.format === 'gptq',
    }
  }

  /** `of`: what it should be stored as; undefined: as floats, for a reason or without any settings. */
  const noWeight = (name: string, of: UniformQuantisation | undefined, reason: string | undefined): MillraceError => {
    const packed = [`${name}.qweight`, `${name}.weight_packed`].find((tensor) => names.has(tensor))
    if (packed !== undefined && quantisation.method === 'none') {
      return new MillraceError('CHECKPOINT_INVALID', {
        message: `tensor '${packed}': expected settings of the quantisation in config.json or quantize_config.json, found none`,
        remedy: 'fetch the file with the settings from where the checkpoint came from',
      })
    }
    if (packed !== undefined) {
      const why = of ? `by quant_method '${of.method}'` : `by ${reason}`
      return new MillraceError('CHECKPOINT_INVALID', {
        message: `tensor '${packed}': ${why} expected '${name}.${of ? PACKED[of.method] : 'weight'}' instead of it, found none`,
        remedy: 'check that the settings of the quantisation belong to this checkpoint',
      })
    }
    return missing(
      of && PACKED[of.method] !== 'weight' ? `${name}.${PACKED[of.method]}' or '${name}.weight` : `${name}.weight`,
    )
  }

  const requireEmbedding = (name: string) => {
    if (!names.has(name) && names.has('tok_embeddings.weight')) throw foreignNames()
    return require(name)
  }

  // Tied, either name will do; a head that is there as well is the head, whatever config.json says.
  const headName = [...new Set(['weight', ...Object.values(PACKED), 'weight_packed'])]
    .map((part) => `${HEAD}.${part}`)
    .find((name) => names.has(name))
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
  const part = (of: LinearPart): LinearSource => {
    const { module, bias = false, heads, rows, stays } = of
    const stored = module === HEAD && tied ? plain(tableNames[0]!, '') : (ofStack(of) ?? linear(module, bias))
    const bits = module === HEAD ? BITS[head] : stays ? 0 : BITS[weights]
    const source = makeBits(stored, bits, module === HEAD ? 0 : groupOf(config.spec.hidden))
    return { ...source, ...(heads ? { heads } : {}), ...(rows ? { rows } : {}) }
  }
  const sources = units.map(({ vectors, linears }) => ({
    vectors: vectors.map((vector) => ({ ...vector, tensor: require(vector.tensor) })),
    linears: linears.map((parts) => parts.map(part)),
  }))
  return { program, units: sources, tables: tableNames }
}

/** Of a linear of floats; others stay as they are. */
function makeBits(source: LinearSource, bits: 0 | 4 | 8, group: LinearSource['makeGroup']): LinearSource {
  if (source.format !== 'plain') return source
  return { ...source, makeBits: bits, makeGroup: bits === 4 ? group : 0 }
}

/** Narrow models have less to spare: of 135M weights groups of 128 cost half the perplexity again. */
const groupOf = (hidden: number) => (hidden < 2048 ? 32 : hidden < 4096 ? 64 : 128)

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
    blockRows: 0,
    globalScale: '',
    globalDivides: false,
    makeBits: 0,
    makeGroup: 0,
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
    message: `${reason ?? 'settings'}: '${name}' of ${bits} bits is not supported, expected 4 or 8`,
    remedy: 'use a checkpoint whose quantised linears all have 4 or 8 bits',
  })
}

/** compressed-tensors: groups of modules, each with a format. */
import { z } from 'zod'
import { MillraceError } from '../../errors.ts'
import { checkFields, fieldBoolean, fieldInteger, fieldText, show } from '../json.ts'
import { fp8, mxfp4, nvfp4 } from './floats.ts'
import { groupSize, textList, unsupported } from './settings.ts'
import type { CompressedTensorsQuantisation, MixedQuantisation, UniformQuantisation } from './types.ts'

const argumentsSchema = z.looseObject(
  {
    num_bits: fieldInteger(1, 64),
    type: fieldText().nullish(),
    symmetric: fieldBoolean().nullish(),
    group_size: groupSize.nullish(),
    strategy: fieldText().nullish(),
    dynamic: z.union([z.boolean(), z.string()], { error: 'true or false' }).nullish(),
    actorder: z.union([z.string(), z.boolean()], { error: 'a text' }).nullish(),
    block_structure: z.array(fieldInteger(1, 65536), { error: 'an array of two integers' }).nullish(),
  },
  { error: 'an object' },
)

const groupSchema = z.looseObject(
  { targets: textList, weights: argumentsSchema.nullish(), format: fieldText().nullish() },
  { error: 'an object' },
)

const schema = z.looseObject({
  format: fieldText().nullish(),
  config_groups: z.record(z.string(), groupSchema, { error: 'an object of groups' }),
  ignore: textList.nullish(),
  sparsity_config: z.looseObject({ format: fieldText().nullish() }, { error: 'an object' }).nullish(),
  transform_config: z.looseObject({}, { error: 'an object' }).nullish(),
})

type Group = z.infer<typeof groupSchema>
type Weights = z.infer<typeof argumentsSchema>

const FORMATS = [
  'pack-quantized',
  'int-quantized',
  'float-quantized',
  'naive-quantized',
  'nvfp4-pack-quantized',
  'mxfp4-pack-quantized',
] as const
type Format = (typeof FORMATS)[number]

/** What activations and the KV cache would be rounded to is not looked at: here they keep 16 bits. */
export function parseCompressedTensors(
  raw: Record<string, unknown>,
  where: string,
): UniformQuantisation | MixedQuantisation {
  const config = checkFields(schema, raw, where)
  const sparsity = config.sparsity_config?.format ?? 'dense'
  if (sparsity !== 'dense') throw unsupported(where, 'sparsity_config.format', sparsity, 'dense')
  const transforms = config.transform_config?.config_groups
  if (transforms != null && Object.keys(transforms).length > 0) {
    throw unsupported(where, 'transform_config', Object.keys(transforms), 'none')
  }
  const excluded = config.ignore ?? []
  const named = Object.entries(config.config_groups)
  // Groups without weights are of activations or of the KV cache.
  const withWeights = named.filter(([, { weights }]) => weights != null)
  if (withWeights.length === 0) {
    throw unsupported(where, 'config_groups', Object.fromEntries(named), 'groups with weights')
  }
  const groups = withWeights.map(([name, group]) => {
    const at = `config_groups.${name}`
    for (const target of group.targets) {
      if (target !== 'Linear' && !target.includes('.') && !target.startsWith('re:') && target !== 'lm_head') {
        throw unsupported(where, `${at}.targets`, group.targets, 'Linear, names of modules, or re: and a pattern')
      }
    }
    const format = formatOf(group, config.format, where)
    return { targets: group.targets, quantisation: parseGroup(group.weights!, format, where, at, excluded) }
  })
  const [first] = groups
  if (groups.length === 1 && first!.targets.includes('Linear')) return first!.quantisation
  return { method: 'mixed', format: 'compressed-tensors', groups, excluded }
}

function formatOf(group: Group, overall: string | null | undefined, where: string): Format {
  const found = group.format ?? overall
  const format = FORMATS.find((known) => known === found)
  if (format === undefined) throw unsupported(where, 'format', found, list(FORMATS))
  if (overall != null && overall !== found && overall !== 'mixed-precision') {
    throw unsupported(where, 'format', overall, `${found} or mixed-precision`)
  }
  return format
}

function parseGroup(
  weights: Weights,
  format: Format,
  where: string,
  at: string,
  excluded: string[],
): UniformQuantisation {
  const field = (part: string) => `${at}.weights.${part}`
  switch (format) {
    case 'nvfp4-pack-quantized':
      requireFloats(weights, 4, 16, where, field)
      return nvfp4(format, excluded)
    case 'mxfp4-pack-quantized':
      requireFloats(weights, 4, 32, where, field)
      return mxfp4(excluded)
    case 'float-quantized':
      return parseFp8Weights(weights, where, field, excluded)
    case 'naive-quantized':
      if (weights.type === 'float') return parseFp8Weights(weights, where, field, excluded)
      return parseIntegers(weights, 'int-quantized', where, field, excluded)
    default:
      return parseIntegers(weights, format, where, field, excluded)
  }
}

function parseIntegers(
  weights: Weights,
  format: CompressedTensorsQuantisation['format'],
  where: string,
  field: (part: string) => string,
  excluded: string[],
): CompressedTensorsQuantisation {
  if (weights.num_bits !== 4 && weights.num_bits !== 8) {
    throw unsupported(where, field('num_bits'), weights.num_bits, '4 or 8')
  }
  if ((weights.type ?? 'int') !== 'int') throw unsupported(where, field('type'), weights.type, 'int')
  if (weights.dynamic) throw unsupported(where, field('dynamic'), weights.dynamic, 'false')
  // transformers' own default where the strategy is not said.
  const strategy = weights.strategy ?? (weights.group_size != null && weights.group_size > 0 ? 'group' : 'tensor')
  if (strategy !== 'group' && strategy !== 'channel' && strategy !== 'tensor') {
    throw unsupported(where, field('strategy'), strategy, 'group, channel or tensor')
  }
  if (strategy === 'group' && weights.group_size == null) {
    throw new MillraceError('CHECKPOINT_INVALID', {
      message: `${where}: field '${field('group_size')}': expected a positive integer for strategy 'group', found ${show(weights.group_size)}`,
    })
  }
  // true and false were there before the names; dynamic and static are older names of group and weight.
  const order = typeof weights.actorder === 'string' ? weights.actorder.toLowerCase() : weights.actorder
  if (order != null && typeof order === 'string' && !['group', 'weight', 'dynamic', 'static'].includes(order)) {
    throw unsupported(where, field('actorder'), weights.actorder, 'group or weight')
  }
  return {
    method: 'compressed-tensors',
    bits: weights.num_bits,
    groupSize: strategy === 'group' ? weights.group_size! : -1,
    symmetric: weights.symmetric ?? true,
    actOrder: order === true || order === 'group' || order === 'dynamic',
    format,
    excluded,
  }
}

function requireFloats(
  weights: Weights,
  bits: number,
  size: number,
  where: string,
  field: (part: string) => string,
): void {
  if (weights.type !== 'float') throw unsupported(where, field('type'), weights.type, 'float')
  if (weights.num_bits !== bits) throw unsupported(where, field('num_bits'), weights.num_bits, `${bits}`)
  if (weights.group_size !== size) throw unsupported(where, field('group_size'), weights.group_size, `${size}`)
}

function parseFp8Weights(weights: Weights, where: string, field: (part: string) => string, excluded: string[]) {
  if (weights.type !== 'float') throw unsupported(where, field('type'), weights.type, 'float')
  if (weights.num_bits !== 8) throw unsupported(where, field('num_bits'), weights.num_bits, '8')
  switch (weights.strategy) {
    case 'block': {
      const [rows, features] = weights.block_structure ?? []
      if (rows === undefined || features === undefined) {
        throw unsupported(where, field('block_structure'), weights.block_structure, 'two integers')
      }
      return fp8(rows, features, excluded)
    }
    case 'channel':
      return fp8(1, -1, excluded)
    case 'tensor':
      return fp8(-1, -1, excluded)
    default:
      throw unsupported(where, field('strategy'), weights.strategy, 'block, channel or tensor')
  }
}

const list = (items: readonly string[]) => `${items.slice(0, -1).join(', ')} or ${items.at(-1)}`

/** How a checkpoint's linears are quantised, and where that is said. See FORMATS.md in docs/. */
import { join } from 'node:path'
import { z } from 'zod'
import { MillraceError } from '../errors.ts'
import type { CheckpointFolder } from './folder.ts'
import { checkFields, fieldBoolean, fieldInteger, fieldText, readJson, show } from './json.ts'
import { matchNames } from './patterns.ts'

/** One entry of GPTQModel's `dynamic`: what its pattern matches from the beginning of a module's name. */
export interface GptqRule {
  /** A regular expression, without its sign. */
  pattern: string
  /** `-:`: modules of this name are not quantised. */
  excluded: boolean
  /** What is said otherwise than for all. */
  bits?: number
  groupSize?: number
  symmetric?: boolean
}

export interface GptqQuantisation {
  method: 'gptq'
  bits: 4
  /** Rows that share a scale; -1: all of a column. */
  groupSize: number
  symmetric: boolean
  /** What the settings say; the file's g_idx decides. */
  actOrder: boolean
  /** Version 1 stores zero - 1, version 2 the zero itself. */
  format: 'gptq' | 'gptq_v2'
  /** The first that matches holds. */
  rules: GptqRule[]
}

export interface AwqQuantisation {
  method: 'awq'
  bits: 4
  groupSize: number
  symmetric: boolean
  format: 'gemm'
  /** Modules whose names contain one of these are not quantised. */
  excluded: string[]
}

export interface CompressedTensorsQuantisation {
  method: 'compressed-tensors'
  bits: 4
  /** -1: strategy `channel`. */
  groupSize: number
  symmetric: boolean
  /** `group`: the file's weight_g_idx decides. */
  actOrder: boolean
  format: 'pack-quantized'
  /** Names, or `re:` and a regular expression, of modules that are not quantised. */
  excluded: string[]
}

export type Quantisation = { method: 'none' } | GptqQuantisation | AwqQuantisation | CompressedTensorsQuantisation

/** The settings of one module. */
export type ModuleSettings =
  | { quantised: false; reason?: string }
  | { quantised: true; bits: number; groupSize: number; symmetric: boolean; reason?: string }

const METHODS = 'gptq, awq, compressed-tensors or none'

const groupSize = z
  .int({ error: 'a positive integer, or -1' })
  .refine((value) => value === -1 || (value > 0 && value < 2 ** 31), { error: 'a positive integer, or -1' })

const textList = z.array(fieldText(), { error: 'an array of names' })

const ruleSchema = z.looseObject(
  {
    bits: fieldInteger(1, 32).nullish(),
    group_size: groupSize.nullish(),
    sym: fieldBoolean().nullish(),
    pack_dtype: fieldText().nullish(),
  },
  { error: 'an object' },
)

const gptqSchema = z.looseObject({
  bits: fieldInteger(1, 32),
  group_size: groupSize,
  sym: fieldBoolean().nullish(),
  desc_act: fieldBoolean().nullish(),
  checkpoint_format: fieldText().nullish(),
  format: fieldText().nullish(),
  is_marlin_format: fieldBoolean().nullish(),
  pack_dtype: fieldText().nullish(),
  // false is GPTQModel's own for "none".
  dynamic: z.union([z.record(z.string(), z.unknown()), z.literal(false)], { error: 'an object' }).nullish(),
})

const awqSchema = z.looseObject({
  bits: fieldInteger(1, 32).nullish(),
  w_bit: fieldInteger(1, 32).nullish(),
  group_size: groupSize.nullish(),
  q_group_size: groupSize.nullish(),
  zero_point: fieldBoolean().nullish(),
  sym: fieldBoolean().nullish(),
  version: fieldText().nullish(),
  checkpoint_format: fieldText().nullish(),
  format: fieldText().nullish(),
  backend: fieldText().nullish(),
  pack_dtype: fieldText().nullish(),
  modules_to_not_convert: textList.nullish(),
})

const argumentsSchema = z.looseObject(
  {
    num_bits: fieldInteger(1, 64),
    type: fieldText().nullish(),
    symmetric: fieldBoolean().nullish(),
    group_size: groupSize.nullish(),
    strategy: fieldText().nullish(),
    dynamic: z.union([z.boolean(), z.string()], { error: 'true or false' }).nullish(),
    actorder: z.union([z.string(), z.boolean()], { error: 'a text' }).nullish(),
  },
  { error: 'an object' },
)

const compressedSchema = z.looseObject({
  format: fieldText().nullish(),
  config_groups: z.record(
    z.string(),
    z.looseObject(
      {
        targets: textList,
        weights: argumentsSchema.nullish(),
        input_activations: z.unknown().optional(),
        output_activations: z.unknown().optional(),
        format: fieldText().nullish(),
      },
      { error: 'an object' },
    ),
    { error: 'an object of groups' },
  ),
  ignore: textList.nullish(),
  kv_cache_scheme: z.unknown().optional(),
  sparsity_config: z.looseObject({ format: fieldText().nullish() }, { error: 'an object' }).nullish(),
  transform_config: z.looseObject({}, { error: 'an object' }).nullish(),
})

/** Reads the settings of the folder, wherever they are. */
export async function readQuantisation(folder: Pick<CheckpointFolder, 'path' | 'config'>): Promise<Quantisation> {
  // compressed-tensors of early 2024 wrote compression_config.
  for (const field of ['quantization_config', 'compression_config']) {
    const inside = folder.config[field]
    if (inside == null) continue
    if (typeof inside !== 'object' || Array.isArray(inside)) {
      throw new MillraceError('CHECKPOINT_INVALID', {
        message: `config.json: field '${field}': expected an object, found ${show(inside)}`,
      })
    }
    return parseQuantisation(inside as Record<string, unknown>, `config.json: ${field}`)
  }
  // AutoGPTQ's and AutoAWQ's own files, from before config.json said it. Neither names its method.
  const gptq = await readJson(join(folder.path, 'quantize_config.json'))
  if (gptq) return parseQuantisation({ quant_method: 'gptq', ...gptq }, 'quantize_config.json')
  const awq = await readJson(join(folder.path, 'quant_config.json'))
  if (awq) return parseQuantisation({ quant_method: 'awq', ...awq }, 'quant_config.json')
  return { method: 'none' }
}

/** `where` names the file in messages. Throws CHECKPOINT_UNSUPPORTED or CHECKPOINT_INVALID. */
export function parseQuantisation(raw: Record<string, unknown>, where: string): Quantisation {
  switch (raw.quant_method) {
    case 'gptq':
      return parseGptq(raw, where)
    case 'awq':
      return parseAwq(raw, where)
    case 'compressed-tensors':
      return parseCompressedTensors(raw, where)
    default:
      throw unsupported(where, 'quant_method', raw.quant_method, METHODS)
  }
}

function parseGptq(raw: Record<string, unknown>, where: string): GptqQuantisation {
  const config = checkFields(gptqSchema, raw, where)
  if (config.bits !== 4) throw unsupported(where, 'bits', config.bits, '4')
  const format = config.is_marlin_format ? 'marlin' : (config.checkpoint_format ?? config.format ?? 'gptq')
  if (format !== 'gptq' && format !== 'gptq_v2') {
    throw unsupported(where, 'checkpoint_format', format, 'gptq or gptq_v2')
  }
  refusePacking(where, 'pack_dtype', config.pack_dtype)
  return {
    method: 'gptq',
    bits: 4,
    groupSize: config.group_size,
    // AutoGPTQ's default, for its files that do not say.
    symmetric: config.sym ?? true,
    actOrder: config.desc_act ?? false,
    format,
    rules: Object.entries(config.dynamic || {}).map(([key, value]) => parseRule(key, value, where)),
  }
}

function parseRule(key: string, value: unknown, where: string): GptqRule {
  const excluded = key.startsWith('-:')
  const pattern = excluded || key.startsWith('+:') ? key.slice(2) : key
  // What a rule that excludes says besides is not read by anyone.
  if (excluded) return { pattern, excluded }
  const rule = checkFields(ruleSchema, value, `${where}: dynamic[${show(key)}]`)
  refusePacking(`${where}: dynamic[${show(key)}]`, 'pack_dtype', rule.pack_dtype)
  return {
    pattern,
    excluded,
    ...(rule.bits == null ? {} : { bits: rule.bits }),
    ...(rule.group_size == null ? {} : { groupSize: rule.group_size }),
    ...(rule.sym == null ? {} : { symmetric: rule.sym }),
  }
}

function parseAwq(raw: Record<string, unknown>, where: string): AwqQuantisation {
  const config = checkFields(awqSchema, raw, where)
  // AutoAWQ's config.json has the first name, its quant_config.json the second.
  const either = (first: 'bits' | 'group_size', second: 'w_bit' | 'q_group_size'): number => {
    const value = config[first] ?? config[second]
    if (value == null) {
      throw new MillraceError('CHECKPOINT_INVALID', {
        message: `${where}: field '${first}': expected it or '${second}', found neither`,
      })
    }
    return value
  }
  const bits = either('bits', 'w_bit')
  if (bits !== 4) throw unsupported(where, config.bits == null ? 'w_bit' : 'bits', bits, '4')
  if (config.backend != null && config.backend !== 'autoawq') {
    throw unsupported(where, 'backend', config.backend, 'autoawq')
  }
  const field = config.version != null ? 'version' : config.checkpoint_format != null ? 'checkpoint_format' : 'format'
  const version = config[field] ?? 'gemm'
  if (version.toLowerCase() !== 'gemm') throw unsupported(where, field, version, 'gemm')
  refusePacking(where, 'pack_dtype', config.pack_dtype)
  return {
    method: 'awq',
    bits: 4,
    groupSize: either('group_size', 'q_group_size'),
    symmetric: config.zero_point != null ? !config.zero_point : (config.sym ?? false),
    format: 'gemm',
    excluded: config.modules_to_not_convert ?? [],
  }
}

function parseCompressedTensors(raw: Record<string, unknown>, where: string): CompressedTensorsQuantisation {
  const config = checkFields(compressedSchema, raw, where)
  const groups = Object.entries(config.config_groups)
  if (groups.length !== 1) {
    throw unsupported(
      where,
      'config_groups',
      groups.map(([name]) => name),
      'one group for all linears',
    )
  }
  const [name, group] = groups[0]!
  const at = `config_groups.${name}`
  const format = group.format ?? config.format
  if (format !== 'pack-quantized') throw unsupported(where, 'format', format, 'pack-quantized')
  if (config.format != null && config.format !== 'pack-quantized') {
    throw unsupported(where, 'format', config.format, 'pack-quantized')
  }
  if (group.targets.length !== 1 || group.targets[0] !== 'Linear') {
    throw unsupported(where, `${at}.targets`, group.targets, '["Linear"]')
  }
  for (const activations of ['input_activations', 'output_activations'] as const) {
    if (group[activations] != null) throw unsupported(where, `${at}.${activations}`, group[activations], 'none')
  }
  if (config.kv_cache_scheme != null) throw unsupported(where, 'kv_cache_scheme', config.kv_cache_scheme, 'none')
  const sparsity = config.sparsity_config?.format ?? 'dense'
  if (sparsity !== 'dense') throw unsupported(where, 'sparsity_config.format', sparsity, 'dense')
  const transforms = config.transform_config?.config_groups
  if (transforms != null && Object.keys(transforms).length > 0) {
    throw unsupported(where, 'transform_config', Object.keys(transforms), 'none')
  }

  const { weights } = group
  if (weights == null) throw unsupported(where, `${at}.weights`, weights, '4-bit integers')
  const field = (part: string) => `${at}.weights.${part}`
  if (weights.num_bits !== 4) throw unsupported(where, field('num_bits'), weights.num_bits, '4')
  if ((weights.type ?? 'int') !== 'int') throw unsupported(where, field('type'), weights.type, 'int')
  if (weights.dynamic) throw unsupported(where, field('dynamic'), weights.dynamic, 'false')
  // transformers' own default where the strategy is not said.
  const strategy = weights.strategy ?? (weights.group_size != null && weights.group_size > 0 ? 'group' : 'tensor')
  if (strategy !== 'group' && strategy !== 'channel') {
    throw unsupported(where, field('strategy'), strategy, 'group or channel')
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
    bits: 4,
    groupSize: strategy === 'channel' ? -1 : weights.group_size!,
    symmetric: weights.symmetric ?? true,
    actOrder: order === true || order === 'group' || order === 'dynamic',
    format: 'pack-quantized',
    excluded: config.ignore ?? [],
  }
}

/** The settings of each of the modules, by name. Throws where a pattern cannot be read. */
export function moduleSettings(
  quantisation: Quantisation,
  modules: readonly string[],
): (module: string) => ModuleSettings {
  switch (quantisation.method) {
    case 'none':
      return () => ({ quantised: false })
    case 'gptq': {
      const { rules, bits, groupSize, symmetric } = quantisation
      const where = "field 'dynamic'"
      const matched = matchNames(
        rules.map((rule) => rule.pattern),
        modules,
        where,
      )
      return (module) => {
        const rule = rules[matched.findIndex((names) => names.has(module))]
        const reason = rule && `${where}: pattern ${show(rule.pattern)}`
        if (rule?.excluded) return { quantised: false, reason: reason! }
        return {
          quantised: true,
          bits: rule?.bits ?? bits,
          groupSize: rule?.groupSize ?? groupSize,
          symmetric: rule?.symmetric ?? symmetric,
          ...(reason === undefined ? {} : { reason }),
        }
      }
    }
    case 'awq': {
      const { excluded, ...settings } = quantisation
      return (module) => {
        const part = excluded.find((name) => module.includes(name))
        if (part !== undefined) return { quantised: false, reason: `field 'modules_to_not_convert': ${show(part)}` }
        return { quantised: true, ...settings }
      }
    }
    case 'compressed-tensors': {
      const { excluded, ...settings } = quantisation
      const patterns = excluded.filter((name) => name.startsWith('re:'))
      const matched = matchNames(
        patterns.map((pattern) => pattern.slice('re:'.length)),
        modules,
        "field 'ignore'",
      )
      return (module) => {
        const entry = excluded.includes(module) ? module : patterns[matched.findIndex((names) => names.has(module))]
        if (entry !== undefined) return { quantised: false, reason: `field 'ignore': ${show(entry)}` }
        return { quantised: true, ...settings }
      }
    }
  }
}

function refusePacking(where: string, field: string, found: string | null | undefined): void {
  if (found != null && found !== 'int32') throw unsupported(where, field, found, 'int32')
}

function unsupported(where: string, field: string, found: unknown, supported: string): MillraceError {
  return new MillraceError('CHECKPOINT_UNSUPPORTED', {
    message: `${where}: field '${field}': ${show(found)} is not supported, expected ${supported}`,
    remedy: `supported here: ${supported}`,
  })
}

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
  bits: 4 | 8
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
  bits: 4 | 8
  /** -1: strategy `channel`. */
  groupSize: number
  symmetric: boolean
  /** `group`: the file's weight_g_idx decides. */
  actOrder: boolean
  format: 'pack-quantized' | 'int-quantized'
  /** Names, or `re:` and a regular expression, of modules that are not quantised. */
  excluded: string[]
}

/** e4m3 weights with float scales. What activations would be rounded to is not: they stay as they are. */
export interface Fp8Quantisation {
  method: 'fp8'
  bits: 8
  /** Of a block that has a scale, input features; -1: all of them. */
  groupSize: number
  /** Rows of a block; 1: each has its own, -1: one scale for the tensor. */
  blockRows: number
  symmetric: true
  excluded: string[]
}

/** E2M1 weights, e4m3 scales of 16, a float32 scale of the tensor. */
export interface Nvfp4Quantisation {
  method: 'nvfp4'
  bits: 4
  groupSize: 16
  symmetric: true
  /** Whose names of the tensors they are. */
  format: 'modelopt' | 'nvfp4-pack-quantized'
  excluded: string[]
}

export type Quantisation =
  | { method: 'none' }
  | GptqQuantisation
  | AwqQuantisation
  | CompressedTensorsQuantisation
  | Fp8Quantisation
  | Nvfp4Quantisation

/** The settings of one module. */
export type ModuleSettings =
  | { quantised: false; reason?: string }
  | { quantised: true; bits: number; groupSize: number; symmetric: boolean; reason?: string }

const METHODS = 'gptq, awq, compressed-tensors, fp8, modelopt, auto-round or none'

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
    block_structure: z.array(fieldInteger(1, 65536), { error: 'an array of two integers' }).nullish(),
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

const fp8Schema = z.looseObject({
  fmt: fieldText().nullish(),
  weight_block_size: z.array(fieldInteger(1, 65536), { error: 'an array of two integers' }).length(2).nullish(),
  modules_to_not_convert: textList.nullish(),
})

const modeloptSchema = z.looseObject({
  quant_algo: fieldText(),
  group_size: fieldInteger(1, 65536).nullish(),
  exclude_modules: textList.nullish(),
  ignore: textList.nullish(),
})

const autoRoundSchema = z.looseObject({
  bits: fieldInteger(1, 32),
  group_size: groupSize,
  sym: fieldBoolean().nullish(),
  packing_format: fieldText().nullish(),
  data_type: fieldText().nullish(),
  extra_config: z
    .record(
      z.string(),
      z.looseObject(
        { bits: fieldInteger(1, 32).nullish(), group_size: groupSize.nullish(), sym: fieldBoolean().nullish() },
        { error: 'an object' },
      ),
      {
        error: 'an object of modules',
      },
    )
    .nullish(),
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
  const modelopt = await readJson(join(folder.path, 'hf_quant_config.json'))
  const inner = modelopt?.quantization
  if (typeof inner === 'object' && inner !== null && (inner as Record<string, unknown>).quant_algo != null) {
    return parseQuantisation({ quant_method: 'modelopt', ...inner }, 'hf_quant_config.json: quantization')
  }
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
    case 'fp8':
      return parseFp8(raw, where)
    case 'modelopt':
    case 'modelopt_fp4':
      return parseModelopt(raw, where)
    case 'auto-round':
      return parseAutoRound(raw, where)
    default:
      throw unsupported(where, 'quant_method', raw.quant_method, METHODS)
  }
}

function parseGptq(raw: Record<string, unknown>, where: string): GptqQuantisation {
  const config = checkFields(gptqSchema, raw, where)
  if (config.bits !== 4 && config.bits !== 8) throw unsupported(where, 'bits', config.bits, '4 or 8')
  const format = config.is_marlin_format ? 'marlin' : (config.checkpoint_format ?? config.format ?? 'gptq')
  if (format !== 'gptq' && format !== 'gptq_v2') {
    throw unsupported(where, 'checkpoint_format', format, 'gptq or gptq_v2')
  }
  refusePacking(where, 'pack_dtype', config.pack_dtype)
  return {
    method: 'gptq',
    bits: config.bits,
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

function parseFp8(raw: Record<string, unknown>, where: string): Fp8Quantisation {
  const config = checkFields(fp8Schema, raw, where)
  if (config.fmt != null && config.fmt !== 'e4m3') throw unsupported(where, 'fmt', config.fmt, 'e4m3')
  const [rows, features] = config.weight_block_size ?? [-1, -1]
  return fp8(rows!, features!, config.modules_to_not_convert ?? [])
}

function fp8(blockRows: number, groupSize: number, excluded: string[]): Fp8Quantisation {
  return { method: 'fp8', bits: 8, groupSize, blockRows, symmetric: true, excluded }
}

function nvfp4(format: Nvfp4Quantisation['format'], excluded: string[]): Nvfp4Quantisation {
  return { method: 'nvfp4', bits: 4, groupSize: 16, symmetric: true, format, excluded }
}

function parseModelopt(raw: Record<string, unknown>, where: string): Fp8Quantisation | Nvfp4Quantisation {
  const config = checkFields(modeloptSchema, raw, where)
  // Its patterns have * for anything.
  const excluded = [...(config.exclude_modules ?? []), ...(config.ignore ?? [])].map((name) =>
    name.includes('*') ? `re:^${name.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*')}$` : name,
  )
  switch (config.quant_algo) {
    case 'NVFP4':
      if ((config.group_size ?? 16) !== 16) throw unsupported(where, 'group_size', config.group_size, '16')
      return nvfp4('modelopt', excluded)
    case 'FP8':
      return fp8(-1, -1, excluded)
    default:
      throw unsupported(where, 'quant_algo', config.quant_algo, 'NVFP4 or FP8')
  }
}

/** AutoRound writes GPTQ's layout, or AWQ's, and says of single modules what is otherwise. */
function parseAutoRound(raw: Record<string, unknown>, where: string): GptqQuantisation | AwqQuantisation {
  const config = checkFields(autoRoundSchema, raw, where)
  const { bits } = config
  if (bits !== 4 && bits !== 8) throw unsupported(where, 'bits', bits, '4 or 8')
  if ((config.data_type ?? 'int') !== 'int') throw unsupported(where, 'data_type', config.data_type, 'int')
  const packing = (config.packing_format ?? 'auto_round:auto_gptq').replace(/^auto_round:/, '')
  const symmetric = config.sym ?? true
  const others = Object.entries(config.extra_config ?? {})
  const excludedBits = (value: number | null | undefined) => value != null && value >= 16
  if (packing === 'auto_awq') {
    if (bits !== 4) throw unsupported(where, 'bits', bits, '4')
    const excluded = others.filter(([, rule]) => excludedBits(rule.bits)).map(([name]) => name)
    return { method: 'awq', bits: 4, groupSize: config.group_size, symmetric, format: 'gemm', excluded }
  }
  if (packing !== 'auto_gptq' && packing !== 'auto_gptq:v1' && packing !== 'auto_gptq:v2') {
    throw unsupported(where, 'packing_format', config.packing_format, 'auto_round:auto_gptq or auto_round:auto_awq')
  }
  const rules = others.map(([name, rule]): GptqRule => {
    // A plain name means that module; with anything of a pattern in it, it is one.
    const pattern = /[*+?^$|()[\]\\]/.test(name) ? name : `^${name.replaceAll('.', '\\.')}$`
    if (excludedBits(rule.bits)) return { pattern, excluded: true }
    return {
      pattern,
      excluded: false,
      ...(rule.bits == null ? {} : { bits: rule.bits }),
      ...(rule.group_size == null ? {} : { groupSize: rule.group_size }),
      ...(rule.sym == null ? {} : { symmetric: rule.sym }),
    }
  })
  const format = packing === 'auto_gptq:v2' ? 'gptq_v2' : 'gptq'
  return { method: 'gptq', bits, groupSize: config.group_size, symmetric, actOrder: false, format, rules }
}

function parseCompressedTensors(
  raw: Record<string, unknown>,
  where: string,
): CompressedTensorsQuantisation | Fp8Quantisation | Nvfp4Quantisation {
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
  if (!COMPRESSED_FORMATS.includes(format ?? '')) throw unsupported(where, 'format', format, list(COMPRESSED_FORMATS))
  if (config.format != null && config.format !== format) throw unsupported(where, 'format', config.format, format!)
  if (group.targets.length !== 1 || group.targets[0] !== 'Linear') {
    throw unsupported(where, `${at}.targets`, group.targets, '["Linear"]')
  }
  // Weights of 8 bits are made for activations of 8; here activations keep 16, whatever is said.
  for (const activations of ['input_activations', 'output_activations'] as const) {
    if (group[activations] != null && format === 'pack-quantized') {
      throw unsupported(where, `${at}.${activations}`, group[activations], 'none')
    }
  }
  if (config.kv_cache_scheme != null) throw unsupported(where, 'kv_cache_scheme', config.kv_cache_scheme, 'none')
  const sparsity = config.sparsity_config?.format ?? 'dense'
  if (sparsity !== 'dense') throw unsupported(where, 'sparsity_config.format', sparsity, 'dense')
  const transforms = config.transform_config?.config_groups
  if (transforms != null && Object.keys(transforms).length > 0) {
    throw unsupported(where, 'transform_config', Object.keys(transforms), 'none')
  }

  const { weights } = group
  if (weights == null) throw unsupported(where, `${at}.weights`, weights, 'integers of 4 or 8 bits')
  const field = (part: string) => `${at}.weights.${part}`
  const excluded = config.ignore ?? []
  if (format === 'float-quantized' || format === 'nvfp4-pack-quantized') {
    return parseCompressedFloats(weights, format, where, field, excluded)
  }
  if (weights.num_bits !== 4 && weights.num_bits !== 8) {
    throw unsupported(where, field('num_bits'), weights.num_bits, '4 or 8')
  }
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
    bits: weights.num_bits,
    groupSize: strategy === 'channel' ? -1 : weights.group_size!,
    symmetric: weights.symmetric ?? true,
    actOrder: order === true || order === 'group' || order === 'dynamic',
    format: format as 'pack-quantized' | 'int-quantized',
    excluded,
  }
}

const COMPRESSED_FORMATS = ['pack-quantized', 'int-quantized', 'float-quantized', 'nvfp4-pack-quantized']

function parseCompressedFloats(
  weights: z.infer<typeof argumentsSchema>,
  format: 'float-quantized' | 'nvfp4-pack-quantized',
  where: string,
  field: (part: string) => string,
  excluded: string[],
): Fp8Quantisation | Nvfp4Quantisation {
  if (weights.type !== 'float') throw unsupported(where, field('type'), weights.type, 'float')
  const bits = format === 'float-quantized' ? 8 : 4
  if (weights.num_bits !== bits) throw unsupported(where, field('num_bits'), weights.num_bits, `${bits}`)
  if (format === 'nvfp4-pack-quantized') {
    if (weights.group_size !== 16) throw unsupported(where, field('group_size'), weights.group_size, '16')
    return nvfp4(format, excluded)
  }
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
    case 'fp8':
    case 'nvfp4':
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

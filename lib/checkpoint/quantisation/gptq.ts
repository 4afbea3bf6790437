/** GPTQ, and GPTQModel's rules of single modules. */
import { z } from 'zod'
import { checkFields, fieldBoolean, fieldInteger, fieldText, show } from '../json.ts'
import { groupSize, refusePacking, unsupported } from './settings.ts'
import type { GptqQuantisation, GptqRule } from './types.ts'

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

export function parseGptq(raw: Record<string, unknown>, where: string): GptqQuantisation {
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

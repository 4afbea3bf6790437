/** AutoAWQ's gemm layout. */
import { z } from 'zod'
import { MillraceError } from '../../errors.ts'
import { checkFields, fieldBoolean, fieldInteger, fieldText } from '../json.ts'
import { groupSize, refusePacking, textList, unsupported } from './settings.ts'
import type { AwqQuantisation } from './types.ts'

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

export function parseAwq(raw: Record<string, unknown>, where: string): AwqQuantisation {
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

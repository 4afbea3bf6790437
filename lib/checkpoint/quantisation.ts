/** How a checkpoint's linears are quantised, and where that is said. */
import { join } from 'node:path'
import { z } from 'zod'
import { MillraceError } from '../errors.ts'
import type { CheckpointFolder } from './folder.ts'
import { checkFields, fieldBoolean, fieldInteger, fieldText, readJson, show } from './json.ts'

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
}

export type Quantisation = { method: 'none' } | GptqQuantisation

const SUPPORTED = 'gptq with 4 bits, or none'

const gptqSchema = z.looseObject({
  bits: fieldInteger(1, 32),
  group_size: z
    .int({ error: 'a positive integer, or -1' })
    .refine((value) => value === -1 || value > 0, { error: 'a positive integer, or -1' }),
  sym: fieldBoolean().nullish(),
  desc_act: fieldBoolean().nullish(),
  checkpoint_format: fieldText().nullish(),
  format: fieldText().nullish(),
  is_marlin_format: fieldBoolean().nullish(),
  pack_dtype: fieldText().nullish(),
  dynamic: z.looseObject({}, { error: 'an object' }).nullish(),
})

/** Reads the settings of the folder, wherever they are. */
export async function readQuantisation(folder: CheckpointFolder): Promise<Quantisation> {
  const inside = folder.config.quantization_config
  if (inside != null) {
    if (typeof inside !== 'object' || Array.isArray(inside)) {
      throw new MillraceError('CHECKPOINT_INVALID', {
        message: `config.json: field 'quantization_config': expected an object, found ${show(inside)}`,
      })
    }
    return parseQuantisation(inside as Record<string, unknown>, 'config.json: quantization_config')
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
  const method = raw.quant_method
  if (method !== 'gptq') throw unsupported(where, 'quant_method', method, SUPPORTED)
  const config = checkFields(gptqSchema, raw, where)
  if (config.bits !== 4) throw unsupported(where, 'bits', config.bits, '4')
  if (config.dynamic && Object.keys(config.dynamic).length > 0) {
    throw unsupported(where, 'dynamic', config.dynamic, 'one setting for all linears')
  }
  const format = config.is_marlin_format ? 'marlin' : (config.checkpoint_format ?? config.format ?? 'gptq')
  if (format !== 'gptq' && format !== 'gptq_v2') {
    throw unsupported(where, 'checkpoint_format', format, 'gptq or gptq_v2')
  }
  if (config.pack_dtype != null && config.pack_dtype !== 'int32') {
    throw unsupported(where, 'pack_dtype', config.pack_dtype, 'int32')
  }
  return {
    method: 'gptq',
    bits: 4,
    groupSize: config.group_size,
    // AutoGPTQ's default, for its files that do not say.
    symmetric: config.sym ?? true,
    actOrder: config.desc_act ?? false,
    format,
  }
}

function unsupported(where: string, field: string, found: unknown, supported: string): MillraceError {
  return new MillraceError('CHECKPOINT_UNSUPPORTED', {
    message: `${where}: field '${field}': ${show(found)} is not supported, expected ${supported}`,
    remedy: `supported here: ${supported}`,
  })
}

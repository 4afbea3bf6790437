/** e4m3 and E2M1 weights, whoever writes them; `fp8` and `fbgemm_fp8` of transformers. */
import { z } from 'zod'
import { checkFields, fieldInteger, fieldText } from '../json.ts'
import { textList, unsupported } from './settings.ts'
import type { Fp8Quantisation, Mxfp4Quantisation, Nvfp4Quantisation } from './types.ts'

const schema = z.looseObject({
  fmt: fieldText().nullish(),
  weight_block_size: z.array(fieldInteger(1, 65536), { error: 'an array of two integers' }).length(2).nullish(),
  modules_to_not_convert: textList.nullish(),
  ignored_layers: textList.nullish(),
})

export function parseFp8(raw: Record<string, unknown>, where: string): Fp8Quantisation {
  const config = checkFields(schema, raw, where)
  if (config.fmt != null && config.fmt !== 'e4m3') throw unsupported(where, 'fmt', config.fmt, 'e4m3')
  const [rows, features] = config.weight_block_size ?? [-1, -1]
  return fp8(rows!, features!, [...(config.modules_to_not_convert ?? []), ...(config.ignored_layers ?? [])])
}

/** A scale a row. */
export function parseFbgemm(raw: Record<string, unknown>, where: string): Fp8Quantisation {
  const { modules_to_not_convert: excluded } = checkFields(schema, raw, where)
  return fp8(1, -1, excluded ?? [])
}

export function fp8(blockRows: number, groupSize: number, excluded: string[]): Fp8Quantisation {
  return { method: 'fp8', bits: 8, groupSize, blockRows, symmetric: true, excluded }
}

export function nvfp4(format: Nvfp4Quantisation['format'], excluded: string[]): Nvfp4Quantisation {
  return { method: 'nvfp4', bits: 4, groupSize: 16, symmetric: true, format, excluded }
}

export function mxfp4(
  excluded: string[],
  format: Mxfp4Quantisation['format'] = 'mxfp4-pack-quantized',
): Mxfp4Quantisation {
  return { method: 'mxfp4', bits: 4, groupSize: 32, symmetric: true, format, excluded }
}

/** How a checkpoint's linears are quantised, and where that is said. See FORMATS.md in docs/. */
import { join } from 'node:path'
import { MillraceError } from '../../errors.ts'
import type { CheckpointFolder } from '../folder.ts'
import { readJson, show } from '../json.ts'
import { parseAutoRound } from './auto_round.ts'
import { parseAwq } from './awq.ts'
import { parseCompressedTensors } from './compressed_tensors.ts'
import { mxfp4, parseFbgemm, parseFp8 } from './floats.ts'
import { parseGptq } from './gptq.ts'
import { parseModelopt } from './modelopt.ts'
import { unsupported } from './settings.ts'
import type { Quantisation } from './types.ts'

export { moduleSettings } from './modules.ts'
export type * from './types.ts'

const METHODS = 'gptq, awq, compressed-tensors, fp8, fbgemm_fp8, mxfp4, modelopt, auto-round or none'

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
    case 'fbgemm_fp8':
      return parseFbgemm(raw, where)
    case 'mxfp4':
      // Of experts alone, whose names say it; what else there is, the file has as floats.
      return mxfp4([], 'gpt-oss')
    case 'modelopt':
    case 'modelopt_fp4':
      return parseModelopt(raw, where)
    case 'auto-round':
    case 'intel/auto-round':
      return parseAutoRound(raw, where)
    default:
      throw unsupported(where, 'quant_method', raw.quant_method, METHODS)
  }
}

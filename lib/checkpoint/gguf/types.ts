/** In which types a GGUF file holds its weights: they mix within a model. */
import type { NativeTensor } from '../../binding.ts'
import type { GgufMetadata } from './metadata.ts'

export interface GgufQuantisation {
  method: 'gguf'
  /** What the file calls itself, by llama.cpp's names: 'Q4_K_M'; undefined where it does not say. */
  format: string | undefined
  /** Weights of each type. */
  types: Record<string, number>
  /** Of each matrix by the file's name for it ('attn_q', 'token_embd'): how many of each type there are. */
  linears: Record<string, Record<string, number>>
  /** Of all matrices, scales counted. */
  bitsPerWeight: number
}

/** general.file_type, llama.cpp's llama_ftype. */
const FORMATS: Readonly<Record<number, string>> = {
  0: 'F32',
  1: 'F16',
  2: 'Q4_0',
  3: 'Q4_1',
  7: 'Q8_0',
  8: 'Q5_0',
  9: 'Q5_1',
  10: 'Q2_K',
  11: 'Q3_K_S',
  12: 'Q3_K_M',
  13: 'Q3_K_L',
  14: 'Q4_K_S',
  15: 'Q4_K_M',
  16: 'Q5_K_S',
  17: 'Q5_K_M',
  18: 'Q6_K',
  19: 'IQ2_XXS',
  20: 'IQ2_XS',
  21: 'Q2_K_S',
  22: 'IQ3_XS',
  23: 'IQ3_XXS',
  24: 'IQ1_S',
  25: 'IQ4_NL',
  26: 'IQ3_S',
  27: 'IQ3_M',
  28: 'IQ2_S',
  29: 'IQ2_M',
  30: 'IQ4_XS',
  31: 'IQ1_M',
  32: 'BF16',
  36: 'TQ1_0',
  37: 'TQ2_0',
  38: 'MXFP4_MOE',
}

export function readTypes(metadata: GgufMetadata, tensors: readonly NativeTensor[]): GgufQuantisation {
  const types: Record<string, number> = {}
  const linears: Record<string, Record<string, number>> = {}
  let weights = 0
  let bytes = 0
  for (const tensor of tensors) {
    if (tensor.shape.length < 2) continue
    const count = tensor.shape.reduce((product, size) => product * size, 1)
    const name = tensor.name.replace(/^blk\.\d+\./, '').replace(/\.weight$/, '')
    types[tensor.dtype] = (types[tensor.dtype] ?? 0) + count
    linears[name] ??= {}
    linears[name][tensor.dtype] = (linears[name][tensor.dtype] ?? 0) + 1
    weights += count
    bytes += tensor.bytes
  }
  const said = metadata.integer('general.file_type', 0, 2 ** 32 - 1)
  return {
    method: 'gguf',
    format: said === undefined ? undefined : FORMATS[said % 1024],
    types,
    linears,
    bitsPerWeight: weights === 0 ? 0 : (8 * bytes) / weights,
  }
}

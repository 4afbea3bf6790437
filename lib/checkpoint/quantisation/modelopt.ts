/** NVIDIA's Model Optimizer: one algorithm for all linears, or one for each by name. */
import { z } from 'zod'
import { checkFields, fieldInteger, fieldText } from '../json.ts'
import { fp8, nvfp4 } from './floats.ts'
import { textList, unsupported } from './settings.ts'
import type { Fp8Quantisation, MixedQuantisation, Nvfp4Quantisation } from './types.ts'

const algorithm = z.looseObject(
  { quant_algo: fieldText(), group_size: fieldInteger(1, 65536).nullish() },
  { error: 'an object' },
)

const schema = algorithm.extend({
  exclude_modules: textList.nullish(),
  ignore: textList.nullish(),
  quantized_layers: z.record(z.string(), algorithm, { error: 'an object of modules' }).nullish(),
})

type Uniform = Fp8Quantisation | Nvfp4Quantisation

export function parseModelopt(raw: Record<string, unknown>, where: string): Uniform | MixedQuantisation {
  const config = checkFields(schema, raw, where)
  // Its patterns have * for anything.
  const excluded = [...(config.exclude_modules ?? []), ...(config.ignore ?? [])].map((name) =>
    name.includes('*') ? `re:^${name.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*')}$` : name,
  )
  if (config.quant_algo !== 'MIXED_PRECISION') return uniform(config, where, excluded)
  const layers = Object.entries(config.quantized_layers ?? {})
  const groups = layers.map(([name, settings]) => ({
    targets: [name],
    quantisation: uniform(settings, `${where}: quantized_layers.${name}`, []),
  }))
  return { method: 'mixed', format: 'modelopt', groups, excluded }
}

function uniform(config: z.infer<typeof algorithm>, where: string, excluded: string[]): Uniform {
  switch (config.quant_algo) {
    case 'NVFP4':
      if ((config.group_size ?? 16) !== 16) throw unsupported(where, 'group_size', config.group_size, '16')
      return nvfp4('modelopt', excluded)
    case 'FP8':
      return fp8(-1, -1, excluded)
    case 'FP8_PER_CHANNEL_PER_TOKEN':
      return fp8(1, -1, excluded)
    default:
      throw unsupported(where, 'quant_algo', config.quant_algo, 'NVFP4, FP8 or MIXED_PRECISION of these')
  }
}

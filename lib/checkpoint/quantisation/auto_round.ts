/** AutoRound: others' layouts with settings of its own. */
import { z } from 'zod'
import { checkFields, fieldBoolean, fieldInteger, fieldText } from '../json.ts'
import { groupSize, unsupported } from './settings.ts'
import type { AwqQuantisation, GptqQuantisation, GptqRule } from './types.ts'

const schema = z.looseObject({
  bits: fieldInteger(1, 32),
  group_size: groupSize,
  sym: fieldBoolean().nullish(),
  packing_format: fieldText().nullish(),
  backend: fieldText().nullish(),
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

/** AutoRound writes GPTQ's layout, or AWQ's, and says of single modules what is otherwise. */
export function parseAutoRound(raw: Record<string, unknown>, where: string): GptqQuantisation | AwqQuantisation {
  const config = checkFields(schema, raw, where)
  const { bits } = config
  if (bits !== 4 && bits !== 8) throw unsupported(where, 'bits', bits, '4 or 8')
  if ((config.data_type ?? 'int') !== 'int') throw unsupported(where, 'data_type', config.data_type, 'int')
  const packing = packingOf(config)
  const symmetric = config.sym ?? true
  const others = Object.entries(config.extra_config ?? {})
  const excludedBits = (value: number | null | undefined) => value != null && value >= 16
  if (packing === 'auto_awq') {
    if (bits !== 4) throw unsupported(where, 'bits', bits, '4')
    const excluded = others.filter(([, rule]) => excludedBits(rule.bits)).map(([name]) => name)
    return { method: 'awq', bits: 4, groupSize: config.group_size, symmetric, format: 'gemm', excluded }
  }
  if (packing !== 'auto_gptq' && packing !== 'auto_gptq:v1' && packing !== 'auto_gptq:v2') {
    const field = config.packing_format == null ? 'backend' : 'packing_format'
    throw unsupported(where, field, config[field], 'auto_round:auto_gptq or auto_round:auto_awq')
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

/** Of its first versions `backend` says it, and which kernels were to run. */
function packingOf({ packing_format: format, backend }: z.infer<typeof schema>): string {
  if (format == null && backend != null) {
    const [layout] = backend.replace(/^auto_round:/, '').split(':')
    return layout === 'gptq' || layout === 'awq' ? `auto_${layout}` : backend
  }
  return (format ?? 'auto_gptq').replace(/^auto_round:/, '')
}

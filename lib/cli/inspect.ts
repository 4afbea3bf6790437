import { Command, Option } from 'commander'
import type { KvType } from '../binding.ts'
import { type Inspection, inspect } from '../model/inspect.ts'
import { formatBytes, formatCount, formatTable } from './format.ts'
import { addHeadFlag, addHubFlags, addKvChoices, type HeadFlag, type HubFlags, MODEL } from './options.ts'
import type { Terminal } from './terminal.ts'

export function inspectCommand(terminal: Terminal): Command {
  const command = new Command('inspect')
    .description('show what a checkpoint is and takes, without loading its weights')
    .argument('<model>', MODEL)
    .addOption(addKvChoices(new Option('--kv <type>', 'keys and values of the cache')))
    .option('--json', 'print as JSON')
  return addHubFlags(addHeadFlag(command)).action(
    async (path: string, flags: HeadFlag & HubFlags & { kv?: KvType; json?: boolean }) => {
      const { json, ...options } = flags
      const inspection = await inspect(path, { ...options, signal: terminal.signal })
      await terminal.write(json ? `${JSON.stringify(inspection, null, 2)}\n` : describe(inspection))
    },
  )
}

function describe(inspection: Inspection): string {
  const { spec, units, quantisation } = inspection
  const of = (kind: string) => units.filter((unit) => unit.kind === kind)
  const unitLine = (kind: string): string => {
    const sizes = [...new Set(of(kind).map((unit) => unit.bytes))]
    const size =
      sizes.length === 1
        ? formatBytes(sizes[0]!)
        : `${formatBytes(Math.min(...sizes))} to ${formatBytes(Math.max(...sizes))}`
    const types = [...new Set(of(kind).flatMap((unit) => unit.types))].join(', ')
    return `${of(kind).length} of ${size} (${types})`
  }
  const rope =
    spec.rope.scaling === 'none'
      ? `theta ${spec.rope.theta}${spec.rope.factors ? ', a factor a pair' : ''}`
      : `theta ${spec.rope.theta}, ${spec.rope.scaling} x ${spec.rope.factor}`
  const window = spec.slidingWindow > 0 ? `window ${formatCount(spec.slidingWindow)}, ` : ''
  const extras = `${window}${spec.qkNorm ? 'normed heads, ' : ''}`
  return formatTable([
    ['architecture', inspection.architecture],
    ['parameters', formatCount(inspection.parameters)],
    ...(spec.experts ? [['experts', describeExperts(inspection, spec.experts)] as [string, string]] : []),
    ['layers', `${spec.layers}, hidden ${spec.hidden}, feed-forward ${spec.intermediate}`],
    ['attention', `${spec.heads} heads, ${spec.kvHeads} KV heads, head size ${spec.headDim}, ${extras}rope ${rope}`],
    ...(spec.stateLayers
      ? [['states', `${spec.stateLayers} layers keep one in the place of keys and values`] as [string, string]]
      : []),
    ['vocabulary', `${formatCount(spec.vocab)}${inspection.tiedEmbeddings ? ', head tied to the embedding' : ''}`],
    ['context', `${formatCount(spec.maxPosition)} tokens`],
    ['quantisation', describeQuantisation(quantisation)],
    ['attention units', unitLine('attention')],
    ['feed-forward units', unitLine('feedForward')],
    ['head unit', unitLine('head')],
    ['all units', formatBytes(inspection.slabBytes)],
    ['embedding', `${formatBytes(inspection.embeddingBytes)} (${inspection.embeddingType}), stays in system RAM`],
    ['KV cache', `${formatCount(inspection.kvBytesPerToken)} bytes a token`],
    ['files', inspection.files.map((file) => `${file.name} (${formatBytes(file.bytes)})`).join(', ')],
    ['cache', describeCache(inspection.cache)],
    ...inspection.warnings.map((warning): [string, string] => ['warning', warning]),
  ])
}

function describeExperts(
  { units, activeParameters }: Inspection,
  { count, chosen, width, layers }: NonNullable<Inspection['spec']['experts']>,
): string {
  const bytes = units.reduce((sum, { experts }) => sum + (experts?.bytes ?? 0), 0)
  const read = formatBytes((bytes * chosen) / count)
  return `${chosen} of ${count} in ${layers} layers, ${width} features each: ${read} of ${formatBytes(bytes)} and ${formatCount(Math.round(activeParameters))} parameters a token`
}

function describeCache(cache: Inspection['cache']): string {
  if (!cache) return 'not kept'
  return `${cache.path} (${formatBytes(cache.bytes)}${cache.present ? '' : ', not there yet'})`
}

function describeQuantisation(quantisation: Inspection['quantisation']): string {
  if (quantisation.method === 'none') return 'none'
  if (quantisation.method === 'gguf') {
    const { format, linears, bitsPerWeight } = quantisation
    const mixed = Object.entries(linears).map(([name, types]) => {
      const counts = Object.entries(types)
      const [[only] = ['']] = counts
      return `${name} ${counts.length === 1 ? only : counts.map(([type, count]) => `${type} x ${count}`).join(' + ')}`
    })
    return `gguf ${format ?? 'of mixed types'}, ${bitsPerWeight.toFixed(2)} bits a weight: ${mixed.join(', ')}`
  }
  if (quantisation.method === 'fp8') {
    const { blockRows, groupSize } = quantisation
    return `fp8, a scale a ${blockRows === 1 ? 'row' : blockRows === -1 ? 'tensor' : `block of ${blockRows} x ${groupSize}`}`
  }
  if (quantisation.method === 'nvfp4' || quantisation.method === 'mxfp4') {
    const { method, format, groupSize } = quantisation
    return `${method} of ${format}, 4 bits, group ${groupSize}`
  }
  if (quantisation.method === 'mixed') {
    const kinds = [...new Set(quantisation.groups.map((group) => describeQuantisation(group.quantisation)))]
    return `${quantisation.format} of ${kinds.length} kinds: ${kinds.join('; ')}`
  }
  const { method, format, bits, groupSize, symmetric } = quantisation
  const rules = method === 'gptq' ? quantisation.rules.length : 0
  return [
    method === 'gptq' ? format : `${method} ${format}`,
    `${bits} bits`,
    `group ${groupSize === -1 ? 'none' : groupSize}`,
    symmetric ? 'symmetric' : 'asymmetric',
    ...(method !== 'awq' && quantisation.actOrder ? ['act-order'] : []),
    ...(rules > 0 ? [`${rules} rules for single linears`] : []),
  ].join(', ')
}

import { Command, Option } from 'commander'
import { plan } from '../model/plan.ts'
import { SHAPES } from '../model/shapes.ts'
import type { HeadType, WeightsType } from '../options/model.ts'
import type { DescribedGpu } from '../plan/described.ts'
import type { DraftPrediction } from '../plan/drafts.ts'
import type { ModelPlan, PlannedDevice } from '../plan/plan.ts'
import type { DecodePrediction } from '../plan/predict.ts'
import { formatBytes, formatCount, formatTable } from './format.ts'
import {
  addGpuFlag,
  addHubFlags,
  addPlanFlags,
  addServeFlags,
  type HubFlags,
  type LoadFlags,
  MODEL,
  noteWithoutGpu,
  parseNumber,
  planOptions,
} from './options.ts'
import type { Terminal } from './terminal.ts'

interface Flags extends LoadFlags, HubFlags {
  /** What --max-sequences was called before. */
  sequences?: number
  head?: HeadType
  weights?: WeightsType
  json?: boolean
  gpu?: DescribedGpu
  acceptance?: number
}

export function planCommand(terminal: Terminal): Command {
  const command = new Command('plan')
    .description('what a model would take and how fast it would be, without loading it')
    .argument('<model>', `${MODEL}, of which headers are read; or a published shape: ${Object.keys(SHAPES).join(', ')}`)
    .addOption(new Option('--sequences <count>').argParser(parseNumber).hideHelp())
    .addOption(new Option('--head <type>', 'weights of the head').choices(['stored', 'q4', 'q8']))
    .addOption(new Option('--weights <type>', "made of the layers' floats").choices(['stored', 'q4', 'q8']))
    .addOption(
      new Option('--acceptance <share>', 'how often drafts would be right, 0 to 1: what they would bring').argParser(
        parseNumber,
      ),
    )
    .option('--json', 'print as JSON')
  addGpuFlag(addHubFlags(addServeFlags(addPlanFlags(command))))
  return command.action(async (name: string, flags: Flags) => {
    const { sequences, head, weights, revision, offline, gpu, acceptance } = flags
    const options = planOptions(flags)
    const made = await plan(name, {
      ...options,
      maxSequences: options.maxSequences ?? sequences,
      head,
      weights,
      revision,
      offline,
      gpu,
      acceptance,
    })
    noteWithoutGpu(made.device, flags, terminal)
    await terminal.write(flags.json ? `${JSON.stringify(made, null, 2)}\n` : describe(made, gpu))
  })
}

/** '32 streamed, 0 ...' of one kind, in the order of homes. */
export function describeHomes(plan: Pick<ModelPlan, 'units'>): string {
  const parts = (['attention', 'feedForward', 'head'] as const).map((kind) => {
    const counts = new Map<string, number>()
    for (const unit of plan.units) if (unit.kind === kind) counts.set(unit.home, (counts.get(unit.home) ?? 0) + 1)
    const homes = [...counts].map(([home, count]) => (kind === 'head' ? home : `${count} ${home}`))
    return `${kind === 'feedForward' ? 'feed-forward' : kind} ${homes.join(', ')}`
  })
  return parts.join('; ')
}

function describe(made: ModelPlan, described: DescribedGpu | undefined): string {
  const { prediction, device, devices } = made
  const gpu = device !== 'cpu'
  const rows: [string, string][] = [
    ['device', devices.map((one) => one.device).join(', ')],
    ['homes', describeHomes(made)],
    [
      'KV cache',
      `${formatBytes(made.kvBytes)}: ${formatCount(made.kvTokens)} tokens, contexts of ${made.contextLength}`,
    ],
    [
      'RAM',
      `${formatBytes(made.hostBytes)} of weights${gpu ? `, ${formatBytes(made.pinnedBytes)} pinned` : ''}; ${formatBytes(made.kvSwapBytes)} for KV of preempted requests`,
    ],
  ]
  if (gpu) {
    const { residentBytes, ringBytes, kvBytes, workspaceBytes } = made
    const parts = Object.entries({ resident: residentBytes, ring: ringBytes, KV: kvBytes, workspace: workspaceBytes })
    const list = parts.map(([name, bytes]) => `${name} ${formatBytes(bytes)}`).join(', ')
    rows.push(
      ['VRAM', `${formatBytes(made.vramBytes)} of ${formatBytes(made.vramBudgetBytes)}: ${list}`],
      ['over the link', `${formatBytes(made.streamedBytesPerPass)} a pass`],
      ...(devices.length === 1 ? [] : devices.map((one): [string, string] => [one.device, describeDevice(one)])),
    )
  }
  rows.push(['batch 1', describeDecode(prediction.single)])
  if (made.batch > 1) rows.push([`batch ${made.batch}`, describeDecode(prediction.batch)])
  if (prediction.drafted) rows.push(['with drafts', describeDrafts(prediction.drafted, made.batch)])
  const { tokens, tokensPerSecond, boundBy } = prediction.prefill
  const better = described
    ? withoutBandwidth(described)
    : gpu
      ? '; millrace probe --calibrate measures this machine'
      : ''
  rows.push(
    ['prefill', `${significant(tokensPerSecond)} tok/s for a prompt of ${tokens}, bound by the ${boundName(boundBy)}`],
    ['calibrated', prediction.calibrated ? 'yes' : `no: these are guesses${better}`],
  )
  return formatTable(rows)
}

function withoutBandwidth({ memory, link = 'PCIe 4.0 x16', bandwidth }: DescribedGpu): string {
  if (bandwidth !== undefined) return ''
  return `, with the memory of an H100: name the GPU's own bandwidth, as in --gpu "${memory}, ${link}, 448GB/s"`
}

function describeDevice({ vramBytes, vramBudgetBytes, streamedBytesPerPass }: PlannedDevice): string {
  return `VRAM ${formatBytes(vramBytes)} of ${formatBytes(vramBudgetBytes)}, ${formatBytes(streamedBytesPerPass)} a pass`
}

function describeDecode({
  tokensPerSecond,
  passSeconds,
  linkSeconds,
  gpuSeconds,
  cpuSeconds,
  ...rest
}: DecodePrediction) {
  const ms = (seconds: number) => (seconds * 1000).toFixed(2)
  const parts = { link: linkSeconds, GPU: gpuSeconds, CPU: cpuSeconds, hops: rest.hopSeconds }
  const list = Object.entries(parts).flatMap(([name, seconds]) => (seconds > 0 ? [`${name} ${ms(seconds)}`] : []))
  return `${significant(tokensPerSecond)} tok/s; a pass ${ms(passSeconds)} ms (${list.join(', ')}), bound by the ${boundName(rest.boundBy)}`
}

function describeDrafts(
  { acceptance, drafts, tokensPerPass, passSeconds, tokensPerSecond }: DraftPrediction,
  of: number,
) {
  const ms = (passSeconds * 1000).toFixed(2)
  return `${significant(tokensPerSecond)} tok/s at batch ${of}; ${drafts} a pass, right ${acceptance} of the time: ${tokensPerPass.toFixed(2)} tokens in ${ms} ms`
}

const boundName = (name: 'link' | 'gpu' | 'cpu') => (name === 'link' ? 'link' : name.toUpperCase())

/** Three digits. */
export function significant(value: number): string {
  return value >= 100 ? formatCount(Math.round(value)) : value.toPrecision(3)
}

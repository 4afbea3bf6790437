import { Command, Option } from 'commander'
import { MillraceError } from '../errors.ts'
import { plan } from '../model/plan.ts'
import { type ModelsPlan, planModels } from '../model/plan_models.ts'
import { SHAPES } from '../model/shapes.ts'
import type { HeadType, WeightsType } from '../options/model.ts'
import { invalidArgument } from '../options/validate.ts'
import { type DescribedGpu, type DescribedMachine, gpuOf } from '../plan/described.ts'
import type { DraftPrediction } from '../plan/drafts.ts'
import type { ModelPlan, PlannedDevice } from '../plan/plan.ts'
import type { Bound, DecodePrediction } from '../plan/predict.ts'
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
  vram?: string
  bandwidth?: string
  link?: string
  cores?: number
  ram?: string
  dram?: string
  disk?: string
  acceptance?: number
  draft?: string
}

export function planCommand(terminal: Terminal): Command {
  const command = new Command('plan')
    .description('what models would take and how fast they would be, without loading them')
    .argument(
      '<models...>',
      `${MODEL}, of which headers are read; or a published shape: ${Object.keys(SHAPES).join(', ')}`,
    )
    .addOption(new Option('--sequences <count>').argParser(parseNumber).hideHelp())
    .addOption(new Option('--head <type>', 'weights of the head').choices(['stored', 'q4', 'q8']))
    .addOption(new Option('--weights <type>', "made of the layers' floats").choices(['stored', 'q4', 'q8']))
    .addOption(
      new Option('--acceptance <share>', 'how often drafts would be right, 0 to 1: what they would bring').argParser(
        parseNumber,
      ),
    )
    .option('--draft <model>', 'a smaller model of the same vocabulary that guesses tokens; of a shape another shape')
    .option('--json', 'print as JSON')
  addHubFlags(addServeFlags(addPlanFlags(command)))
  addGpuFlag(command.optionsGroup('A machine that is not here:'))
    .option('--vram <size>', "its GPU's memory, such as 24GiB")
    .option('--bandwidth <rate>', "of the GPU's memory, such as 1008GB/s; an H100's if not given", withoutSecond)
    .option('--link <link>', "to the GPU: 'PCIe 4.0 x16', or what copies reach, such as 25GB/s", withoutSecond)
    .option('--cores <count>', 'of its CPU', parseNumber)
    .option('--ram <size>', 'that a process may use')
    .option('--dram <rate>', 'at which its cores read RAM, such as 60GB/s', withoutSecond)
    .option('--disk <rate>', 'at which models are read, such as 5GB/s', withoutSecond)
  return command.action(async (names: string[], flags: Flags) => {
    const { sequences, head, weights, revision, offline, gpu, acceptance, draft } = flags
    const options = planOptions(flags)
    const of = { ...options, maxSequences: options.maxSequences ?? sequences, head, weights, revision, offline }
    const machine = machineOf(flags)
    // A GPU alone needs no other machine.
    const described = Object.keys(machine ?? {}).filter(
      (part) => machine![part as keyof DescribedMachine] !== undefined,
    )
    if (names.length === 1 && described.every((part) => part === 'gpu') && flags.vram === undefined) {
      const made = await plan(names[0]!, { ...of, gpu, acceptance, draft, signal: terminal.signal }).catch((error) => {
        throw withRam(error)
      })
      noteWithoutGpu(made.device, flags, terminal)
      await terminal.write(flags.json ? `${JSON.stringify(made, null, 2)}\n` : describe(made, gpu))
      return
    }
    for (const [name, value] of Object.entries({ acceptance, draft })) {
      if (value !== undefined) throw invalidArgument('none with several models or a described machine', name, value)
    }
    const { arena: _, ...each } = of
    const made = await planModels(names, { ...each, machine })
    await terminal.write(flags.json ? `${JSON.stringify(made, null, 2)}\n` : describeModels(made, machine, terminal))
    if (made.problems.length > 0) process.exitCode = 1
  })
}

/** Whoever plans for a machine that is not here may have more RAM there. */
function withRam(error: unknown): unknown {
  if (!MillraceError.isInstance(error) || error.code !== 'OUT_OF_MEMORY') return error
  const advice = ramAdvice(error.message)
  if (advice === undefined) return error
  const { code, message, remedy, cause } = error
  return new MillraceError(code, { message, remedy: `${advice}; here: ${remedy}`, cause })
}

/** By a message that says how much RAM is needed: a size of machines that has it. */
function ramAdvice(message: string): string | undefined {
  const [, amount, unit] = /(?:needs|take) ([\d.]+) (MB|GB) of RAM/.exec(message) ?? []
  if (amount === undefined) return undefined
  const needed = Number(amount) * (unit === 'GB' ? 1e9 : 1e6)
  let gibibytes = 8
  while (gibibytes * 2 ** 30 < needed * 1.1) gibibytes *= 2
  return `for a machine with more RAM than this one name it: --ram ${gibibytes}GiB`
}

const withoutSecond = (text: string) => text.replace(/\/s$/, '')

const wrong = (message: string, remedy: string) => new MillraceError('INVALID_ARGUMENT', { message, remedy })

/** The machine that flags describe, if they do. */
function machineOf({ gpu, vram, bandwidth, link, cores, ram, dram, disk }: Flags): DescribedMachine | undefined {
  const described = gpu ?? (vram === undefined ? undefined : { memory: vram })
  if (gpu !== undefined && vram !== undefined) throw wrong('--gpu and --vram describe the same GPU', 'give one of them')
  if (described === undefined && (link !== undefined || bandwidth !== undefined)) {
    throw wrong('--link and --bandwidth are of a GPU that is not described', 'give --vram too')
  }
  const parts = { cores, ram, dram, disk }
  if (described === undefined && Object.values(parts).every((part) => part === undefined)) return undefined
  return described === undefined
    ? parts
    : { ...parts, gpu: { ...described, ...(link && { link }), ...(bandwidth && { bandwidth }) } }
}

function describeModels(made: ModelsPlan, machine: DescribedMachine | undefined, terminal: Terminal): string {
  const rows: [string, string][] = []
  for (const { model, plan: one, problem, switchSeconds, loadSeconds, tokensPerSecond } of made.models) {
    if (one === undefined) {
      rows.push([
        model,
        terminal.words(`does not fit: ${problem!.message}${problem!.remedy ? `; ${problem!.remedy}` : ''}`),
      ])
      continue
    }
    const { single, batch, prefill } = one.prediction
    const many = one.batch > 1 ? `, ${significant(batch.tokensPerSecond)} at batch ${one.batch}` : ''
    const link = tokensPerSecond < single.tokensPerSecond
    rows.push(
      [model, ''],
      ['homes', describeHomes(one)],
      [
        'speed',
        `${significant(tokensPerSecond)} tok/s${many}, bound by the ${link ? 'link' : boundName(single.boundBy)}; prompts ${significant(prefill.tokensPerSecond)}`,
      ],
      [
        'memory',
        `RAM ${formatBytes(one.hostBytes)}${describeFile(one)}${one.device === 'cpu' ? '' : `, VRAM ${formatBytes(one.vramBytes)}`}`,
      ],
    )
    const times = [
      ...(switchSeconds > 0 ? [`a switch to it takes ${milliseconds(switchSeconds)}`] : []),
      ...(loadSeconds === undefined ? [] : [`read from the disk in ${loadSeconds.toFixed(1)} s`]),
    ]
    if (times.length > 0) rows.push(['times', times.join('; ')])
  }
  if (made.models.length > 1) {
    rows.push(['together', TOGETHER[made.together](formatBytes(made.arenaBytes))])
    rows.push(['RAM', `${formatBytes(made.hostBytes)} of ${formatBytes(made.hostLimitBytes)}`])
    if (made.vramLimitBytes > 0)
      rows.push(['VRAM', `${formatBytes(made.vramBytes)} of ${formatBytes(made.vramLimitBytes)}`])
  }
  for (const problem of made.problems) rows.push(['does not fit', terminal.words(problem)])
  const advice = machine?.ram === undefined && made.problems.map(ramAdvice).find((one) => one !== undefined)
  if (advice) rows.push(['remedy', advice])
  for (const warning of made.warnings) rows.push(['slow', terminal.words(warning)])
  const guessed =
    machine?.gpu && machine.gpu.bandwidth === undefined ? ', with the memory of an H100: name --bandwidth' : ''
  if (machine?.gpu) rows.push(['link', describeLink(machine.gpu)])
  if (machine !== undefined) rows.push(['calibrated', `no: these are guesses${guessed}`])
  return formatTable(rows)
}

const milliseconds = (seconds: number) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`)
const TOGETHER = {
  alone: () => 'each by itself',
  resident: () => 'all resident, side by side: no switches',
  shared: (arena: string) => `one after the other in an arena of ${arena} (placement 'shared')`,
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

/** What plans take copies to reach. */
function describeLink(gpu: DescribedGpu): string {
  const { bytesPerSecond } = gpuOf(gpu, 1).calibration.link
  const { link } = gpu
  const name =
    link === undefined ? 'PCIe 4.0 x16 as none is named, ' : String(link).startsWith('PCIe') ? `${link}, ` : ''
  return `${name}${formatBytes(bytesPerSecond)}/s assumed`
}

function describe(made: ModelPlan, described: DescribedGpu | undefined): string {
  const { prediction, device, devices } = made
  const gpu = device !== 'cpu'
  const rows: [string, string][] = [
    ['device', devices.map((one) => one.device).join(', ')],
    ['homes', describeHomes(made)],
    [
      'KV cache',
      `${formatBytes(made.kvBytes)}: ${formatCount(made.kvTokens)} tokens${made.kvType === 'q8' ? ' of 8 bits' : ''}, contexts of ${made.contextLength}`,
    ],
    [
      'RAM',
      `${formatBytes(made.hostBytes)} of weights${describeFile(made)}${gpu ? `, ${formatBytes(made.pinnedBytes)} pinned` : ''}; ${formatBytes(made.kvSwapBytes)} for KV that leaves the cache`,
    ],
  ]
  if (gpu) {
    const { residentBytes, ringBytes, kvBytes, workspaceBytes } = made
    const parts = Object.entries({ resident: residentBytes, ring: ringBytes, KV: kvBytes, workspace: workspaceBytes })
    const list = parts.map(([name, bytes]) => `${name} ${formatBytes(bytes)}`).join(', ')
    rows.push(
      ['VRAM', `${formatBytes(made.vramBytes)} of ${formatBytes(made.vramBudgetBytes)}: ${list}`],
      ['over the link', `${formatBytes(made.streamedBytesPerPass)} a pass`],
      ...(described ? [['link', describeLink(described)] satisfies [string, string]] : []),
      ...(devices.length === 1 ? [] : devices.map((one): [string, string] => [one.device, describeDevice(one)])),
    )
  }
  if (made.draft) {
    const { device: place, vramBytes, hostBytes, prediction: own } = made.draft
    const bytes = place === 'cpu' ? `${formatBytes(hostBytes)} of RAM` : `${formatBytes(vramBytes)} of VRAM`
    rows.push(['draft model', `${place}: ${bytes}, ${significant(own.single.tokensPerSecond)} tok/s by itself`])
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
  const parts = { link: linkSeconds, GPU: gpuSeconds, CPU: cpuSeconds, hops: rest.hopSeconds, disk: rest.diskSeconds }
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

/** What stays on the disk. */
function describeFile({ fileBytes, fileBytesPerPass, windowBytes, units }: ModelPlan): string {
  if (fileBytes === 0) return ''
  const count = units.filter(({ inFile }) => inFile).length
  return ` (${count} of ${units.length} units, ${formatBytes(fileBytes)}, stay in the packed file: ${formatBytes(fileBytesPerPass)} are read a pass, through ${formatBytes(windowBytes)})`
}

const boundName = (name: Bound) => (name === 'link' || name === 'disk' ? name : name.toUpperCase())

/** Three digits. */
export function significant(value: number): string {
  return value >= 100 ? formatCount(Math.round(value)) : value.toPrecision(3)
}

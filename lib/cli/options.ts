/** Options that several commands share, and how their words become the library's values. */
import { basename } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { z } from 'zod'
import type { KvType } from '../binding.ts'
import { inspect } from '../model/inspect.ts'
import { load } from '../model/load.ts'
import type { Model } from '../model/model.ts'
import {
  type HeadType,
  type LoadOptions,
  type PlacementHome,
  type PlanOptions,
  planOptions as planSchema,
  type WeightsType,
} from '../options/model.ts'
import {
  type ChatOptions,
  checkLengths,
  type GenerateOptions,
  generateOptions as generateSchema,
} from '../options/request.ts'
import { answerRows, type OptionFlag, type OptionRow } from '../options/sampling.ts'
import { invalidArgument, parseBytes, validate } from '../options/validate.ts'
import type { DescribedGpu } from '../plan/described.ts'
import type { ReasoningFlag } from './answer.ts'
import { formatBytes } from './format.ts'
import { checkOutput } from './output.ts'
import type { Terminal } from './terminal.ts'

export interface LoadFlags {
  device?: string | string[]
  placement?: 'auto' | PlacementHome | PlacementHome[]
  ring?: number | string
  context?: number
  threads?: number
  vramBudget?: number | string
  coExecute?: boolean
  adaptive?: boolean
  ramBudget?: number | string
  arena?: number | string
  maxSequences?: number
  kvTokens?: number
  kv?: KvType
  kvSwap?: number | string
  stateCopies?: number
  stateDrafts?: number
  experts?: 'auto' | 'resident' | 'demand'
  expertCache?: number | string
  expertCpu?: boolean
  batch?: number
}

/** Of commands that take a model by name. */
export interface HubFlags {
  revision?: string
  offline?: boolean
}

/** Of commands that load the model. */
export interface RunFlags extends LoadFlags, HubFlags {
  trace?: string
  cache?: boolean | string
  quiet?: boolean
}

export interface HeadFlag {
  head?: HeadType
  weights?: WeightsType
}

/** Of commands whose models answer. */
export interface AnswerFlags {
  generationConfig?: 'model' | 'none'
  speculation?: 'auto' | 'ngram' | 'draft' | 'off'
  draft?: string
}

/** Of commands that show answers. */
export interface ChatFlags extends AnswerFlags {
  reasoning?: ReasoningFlag
  variable?: Record<string, unknown>
}

/** Ranges are the library's to check. */
export function parseNumber(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number.')
  return value
}

/** '1234=-5' and '1234=-Infinity', one token each time that the flag is given. */
function parseBias(text: string, biases: Map<number, number> = new Map()): Map<number, number> {
  const [, token, bias] = /^(\d+)=(.+)$/.exec(text) ?? []
  const value = bias === undefined || bias.trim() === '' ? Number.NaN : Number(bias)
  if (Number.isNaN(value)) throw new InvalidArgumentError('Expected <token id>=<number>, such as 1234=-5.')
  return biases.set(Number(token), value)
}

function parsePlacement(text: string): LoadFlags['placement'] {
  return text.includes(',') ? (text.split(',') as PlacementHome[]) : (text as PlacementHome)
}

/** Bytes where it is a number alone. */
const parseSize = (text: string) => (/^\d+$/.test(text) ? Number(text) : text)

/** Options that `--help` lists under a heading of their own. */
function inGroup(command: Command, heading: string, add: (command: Command) => Command): Command {
  const before = command.optionsGroup()
  return add(command.optionsGroup(heading)).optionsGroup(before)
}

/** What a plan depends on. */
export function addPlanFlags(command: Command, context = 'longest prompt and answer together'): Command {
  return inGroup(command, 'Placement and memory:', (one) => planFlags(one, context))
}

export const addKvChoices = (option: Option): Option => option.choices(['f16', 'q8'])

function planFlags(command: Command, context: string): Command {
  return command
    .addOption(
      new Option('--device <device>', 'auto, cpu, cuda, cuda:<index>, or several GPUs with commas').argParser((text) =>
        text.includes(',') ? text.split(',') : text,
      ),
    )
    .addOption(
      new Option(
        '--placement <homes>',
        'auto, resident, streamed, cpu, shared, demand, or one of the last five a layer or a unit, with commas',
      ).argParser(parsePlacement),
    )
    .addOption(
      new Option('--ring <size>', 'memory for streamed units: a number of units, or a size such as 256MiB').argParser(
        parseSize,
      ),
    )
    .addOption(new Option('--context <tokens>', context).argParser(parseNumber))
    .addOption(new Option('--threads <count>', 'threads that compute on the CPU').argParser(parseNumber))
    .addOption(
      new Option(
        '--vram-budget <size>',
        'GPU memory for the model: a size such as 6GiB, or 80% of what is free',
      ).argParser(parseSize),
    )
    .addOption(
      new Option('--adaptive', 'beside a GPU, what the CPU computes is streamed for crowds that it would hold up'),
    )
    .addOption(new Option('--no-co-execute', 'beside a GPU the CPU computes nothing unless --placement names it'))
    .addOption(new Option('--ram-budget <size>', 'system RAM for the model: a size, or a share').argParser(parseSize))
    .addOption(addKvChoices(new Option('--kv <type>', 'keys and values of 16 bits, or of 8 with a scale a head')))
    .addOption(
      new Option(
        '--kv-swap <size>',
        'of it, for keys and values that the KV cache has no room for: a size, or 0',
      ).argParser(parseSize),
    )
    .addOption(
      new Option('--state-copies <count>', 'of hybrids: states kept for prompts that begin alike, or 0').argParser(
        parseNumber,
      ),
    )
    .addOption(
      new Option('--state-drafts <count>', 'of hybrids: drafts of a pass at most, a state each, or 0').argParser(
        parseNumber,
      ),
    )
    .addOption(
      new Option('--experts <where>', 'of mixtures: in RAM on demand, or as all weights').choices([
        'auto',
        'resident',
        'demand',
      ]),
    )
    .addOption(
      new Option('--expert-cache <size>', 'GPU memory for experts on demand: a size such as 8GiB, or 0').argParser(
        parseSize,
      ),
    )
    .addOption(new Option('--expert-cpu', 'of experts on demand that are not in GPU memory the CPU answers some'))
    .addOption(
      new Option('--arena <size>', 'GPU memory for the shared units of all models: a size such as 4GiB').argParser(
        parseSize,
      ),
    )
}

/** Of commands that choose for themselves what the KV cache holds, these are no flags. */
export function addServeFlags(command: Command): Command {
  return inGroup(command, 'Placement and memory:', (one) =>
    one
      .addOption(new Option('--max-sequences <count>', 'full contexts that the KV cache holds').argParser(parseNumber))
      .addOption(
        new Option('--kv-tokens <count>', 'or its size in tokens, one context at least').argParser(parseNumber),
      )
      .addOption(
        new Option('--batch <count>', 'sequences expected at once, what --placement auto chooses for').argParser(
          parseNumber,
        ),
      ),
  )
}

export const MODEL = 'folder of the checkpoint, a GGUF file, or a name of the hub: owner/name, owner/name:file.gguf'

export function addHubFlags(command: Command): Command {
  return inGroup(command, 'Models by name:', (one) =>
    one
      .addOption(new Option('--revision <revision>', 'a branch, a tag or a commit'))
      .addOption(new Option('--offline', 'what the cache has, and no network')),
  )
}

/** Of commands that load. */
export function addLoadFlags(command: Command, context?: string): Command {
  return addHubFlags(addPlanFlags(command, context))
    .addOption(new Option('--trace <file>', 'write what copies, kernels and waits take, for ui.perfetto.dev'))
    .addOption(new Option('--cache <folder>', 'keep repacked weights for the next load there'))
    .addOption(new Option('--no-cache', 'keep and use no repacked weights'))
    .addOption(new Option('--quiet', 'no progress on stderr'))
}

/** Of commands that load checkpoints alone: bench's own --head is about shapes too. */
export function addHeadFlag(command: Command): Command {
  return command
    .addOption(
      new Option('--head <type>', 'stored, or made 4 or 8 bits as it is loaded').choices(['stored', 'q4', 'q8']),
    )
    .addOption(
      new Option('--weights <type>', "the layers' floats: stored, or made 4 or 8 bits").choices(['stored', 'q4', 'q8']),
    )
}

/** Of commands whose models answer: what load() takes for requests that do not say. */
export function addAnswerFlags(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--generation-config <whose>',
        "sampling that requests leave out: the checkpoint's, or none of it",
      ).choices(['model', 'none']),
    )
    .addOption(
      new Option('--speculation <method>', 'guess tokens ahead, and check several a pass').choices([
        'auto',
        'ngram',
        'draft',
        'off',
      ]),
    )
    .addOption(new Option('--draft <model>', 'a smaller model of the same vocabulary that guesses them'))
}

export function addChatFlags(command: Command): Command {
  return addAnswerFlags(command)
    .addOption(
      new Option(
        '--reasoning <where>',
        'what a model thinks before it answers, to stderr: auto is on a terminal',
      ).choices(['auto', 'show', 'hide']),
    )
    .addOption(
      new Option(
        '--variable <name=value>',
        'of a chat: what its template knows, such as enable_thinking=false; may be given again',
      ).argParser(parseVariable),
    )
}

/** 'enable_thinking=false': JSON where it is some, else a text. */
function parseVariable(text: string, variables: Record<string, unknown> = {}): Record<string, unknown> {
  const [, name, value] = /^([A-Za-z_]\w*)=(.*)$/s.exec(text) ?? []
  if (name === undefined || value === undefined) {
    throw new InvalidArgumentError('Expected <name>=<value>, such as enable_thinking=false.')
  }
  try {
    return { ...variables, [name]: JSON.parse(value) }
  } catch {
    return { ...variables, [name]: value }
  }
}

export function chatOptionsOf({ variable }: ChatFlags): Pick<ChatOptions, 'variables'> {
  return variable === undefined ? {} : { variables: variable }
}

/** What load() takes of the flags of commands that answer. */
export function loadFlagOptions(flags: HeadFlag & AnswerFlags): LoadOptions {
  const { head, weights, generationConfig, speculation, draft } = flags
  return {
    head,
    weights,
    ...(generationConfig === undefined ? {} : { generationConfig }),
    ...(speculation === undefined ? {} : { speculation: { method: speculation } }),
    ...(draft === undefined ? {} : { draft }),
  }
}

/** What the words of a row's flag become. */
const READERS: Record<OptionFlag['reads'], ((text: string, before: never) => unknown) | undefined> = {
  number: parseNumber,
  numbers: (text, before: number[] | undefined) => [...(before ?? []), parseNumber(text)],
  texts: (text, before: string[] | undefined) => [...(before ?? []), text],
  biases: parseBias,
  choice: undefined,
  switch: undefined,
}

function samplingFlags({ json }: { json: boolean }): { name: string; option: Option; reads: OptionFlag['reads'] }[] {
  return Object.entries<OptionRow>(answerRows).flatMap(([name, { flag, schema }]) => {
    if (!flag || (flag.json && !json)) return []
    const option = new Option(flag.form, flag.help)
    if (schema instanceof z.ZodEnum) option.choices(schema.options.map(String))
    return [{ name, option, reads: flag.reads }]
  })
}

/** `json`: those too that are of use to a command that prints JSON alone. */
export function addSamplingFlags(command: Command, { json = false } = {}): Command {
  return inGroup(command, 'Sampling and limits:', (one) => {
    for (const { option, reads } of samplingFlags({ json })) {
      const reader = READERS[reads]
      one.addOption(reader ? option.argParser(reader as (text: string, before: unknown) => unknown) : option)
    }
    return one
  })
}

/** Checked at once: before a model is loaded, and also where no request follows. */
export function samplingOptions(flags: object): GenerateOptions {
  const given = flags as Record<string, unknown>
  const entries = samplingFlags({ json: true }).map(({ name, option }) => [name, given[option.attributeName()]])
  const options: GenerateOptions = Object.fromEntries(entries)
  validate(generateSchema, options, 'options')
  checkLengths(options)
  return options
}

/** A plan as the flags have it. */
export function planOptions(flags: LoadFlags): PlanOptions {
  const { device, placement, ring, context, threads, vramBudget, ramBudget, arena, coExecute, adaptive } = flags
  const { maxSequences, kvTokens, kv, kvSwap, batch, experts, expertCache, expertCpu } = flags
  const states = { stateCopies: flags.stateCopies, stateDrafts: flags.stateDrafts }
  const sizes = {
    ring,
    contextLength: context,
    vramBudget,
    ramBudget,
    arena,
    maxSequences,
    kvTokens,
    kv,
    kvSwap,
    batch,
  }
  const homes = { experts, expertCache, expertCpu }
  const options = { device, placement, threads, coExecute, adaptive, ...states, ...homes, ...sizes }
  return validate(planSchema, options, 'options')
}

/** Told before weights are read: token ids that the model has not. */
export async function checkTokens(
  path: string,
  { stopTokens = [], logitBias }: GenerateOptions,
  { revision, offline }: HubFlags = {},
): Promise<void> {
  const biased = logitBias instanceof Map ? [...(logitBias as ReadonlyMap<number, number>).keys()] : []
  const ids = { '--stop-token': stopTokens, '--logit-bias': biased }
  if (Object.values(ids).every((list) => list.length === 0)) return
  const { vocab } = (await inspect(path, { revision, offline })).spec
  for (const [name, list] of Object.entries(ids)) {
    const wrong = list.find((id) => id >= vocab)
    if (wrong !== undefined) throw invalidArgument(`a token id from 0 to ${vocab - 1}`, name, wrong)
  }
}

/** Says that a budget of GPU memory changed nothing, where the plan is for the CPU. */
export function noteWithoutGpu(device: string, flags: Pick<RunFlags, 'vramBudget'>, terminal: Terminal): void {
  if (device === 'cpu' && flags.vramBudget !== undefined) {
    terminal.note('no GPU is used, so --vram-budget has no effect: millrace probe says what was found')
  }
}

/** '24GiB', '24GiB, PCIe 4.0 x16' or '24GiB, PCIe 4.0 x16, 1008GB/s', as plan() takes it. */
export function parseGpu(text: string): DescribedGpu {
  const [memory = '', ...others] = text.split(',').map((part) => part.trim())
  const link = others.find((part) => /^pcie/i.test(part))
  const bandwidth = others.find((part) => part.endsWith('/s'))
  const unknown = others.find((part) => part !== link && part !== bandwidth)
  if (unknown !== undefined)
    throw new InvalidArgumentError(`'${unknown}' is neither a link nor a bandwidth. ${GPU_FORM}`)
  if (parseBytes(memory) === undefined)
    throw new InvalidArgumentError(`'${memory}' is no size of memory; names of GPUs are not known. ${GPU_FORM}`)
  return {
    memory,
    ...(link === undefined ? {} : { link: link.replace(/^pcie\s*(\d)(\.0)?\s*x?\s*(\d+)$/i, 'PCIe $1.0 x$3') }),
    ...(bandwidth === undefined ? {} : { bandwidth: bandwidth.slice(0, -2) }),
  }
}

const GPU_FORM = "Expected for instance '24GiB, PCIe 4.0 x16, 1008GB/s'."

export function addGpuFlag(command: Command): Command {
  const what = "a GPU that is not here, such as '24GiB, PCIe 4.0 x16, 1008GB/s' (memory, link, bandwidth of its memory)"
  return command.addOption(new Option('--gpu <description>', what).argParser(parseGpu))
}

/** Loads with progress on stderr; Ctrl-C ends it. */
export async function loadModel(
  path: string,
  flags: RunFlags,
  terminal: Terminal,
  more: LoadOptions = {},
): Promise<Model> {
  terminal.quiet = flags.quiet ?? false
  const plan = planOptions(flags)
  await checkOutput('--trace', flags.trace)
  const progress = terminal.progress(basename(path))
  const model = await load(path, {
    ...plan,
    cache: flags.cache,
    revision: flags.revision,
    offline: flags.offline,
    signal: terminal.signal,
    onProgress: progress.report,
    logger: terminal.logger,
    ...more,
  })
  progress.done()
  noteWithoutGpu(model.plan.device, flags, terminal)
  if (flags.trace !== undefined) await model.trace(flags.trace)
  const { cache } = model
  if (cache?.state === 'writing')
    terminal.note(`writing ${formatBytes(cache.bytes)} to ${cache.path} for the next load`)
  return model
}

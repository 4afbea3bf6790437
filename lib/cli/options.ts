/** Options that several commands share, and how their words become the library's values. */
import { basename } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { inspect } from '../model/inspect.ts'
import { load } from '../model/load.ts'
import type { Model } from '../model/model.ts'
import {
  type GenerateOptions,
  generateOptions as generateSchema,
  type HeadType,
  invalidArgument,
  type LoadOptions,
  type PlacementHome,
  type PlanOptions,
  planOptions as planSchema,
  validate,
} from '../options.ts'
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
  batch?: number
}

/** Of commands that load the model. */
export interface RunFlags extends LoadFlags {
  trace?: string
  cache?: boolean | string
  quiet?: boolean
}

export interface HeadFlag {
  head?: HeadType
}

export interface SamplingFlags {
  maxTokens?: number
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  typicalP?: number
  repetitionPenalty?: number
  presencePenalty?: number
  frequencyPenalty?: number
  logitBias?: Map<number, number>
  seed?: number
  stop?: string[]
  stopToken?: number[]
  ignoreEos?: boolean
  truncate?: GenerateOptions['truncate']
  priority?: number
  queueTimeout?: number
  deadline?: number
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

/** What a plan depends on. */
export function addPlanFlags(command: Command, context = 'longest prompt and answer together'): Command {
  return command
    .addOption(
      new Option('--device <device>', 'auto, cpu, cuda, cuda:<index>, or several GPUs with commas').argParser((text) =>
        text.includes(',') ? text.split(',') : text,
      ),
    )
    .addOption(
      new Option(
        '--placement <homes>',
        'auto, resident, streamed, cpu, shared, or one of the last four a layer or a unit, with commas',
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
    .addOption(
      new Option('--arena <size>', 'GPU memory for the shared units of all models: a size such as 4GiB').argParser(
        parseSize,
      ),
    )
}

/** Of commands that choose for themselves what the KV cache holds, these are no flags. */
export function addServeFlags(command: Command): Command {
  return command
    .addOption(new Option('--max-sequences <count>', 'full contexts that the KV cache holds').argParser(parseNumber))
    .addOption(new Option('--kv-tokens <count>', 'or its size in tokens, one context at least').argParser(parseNumber))
    .addOption(
      new Option('--batch <count>', 'sequences expected at once, what --placement auto chooses for').argParser(
        parseNumber,
      ),
    )
}

/** Of commands that load. */
export function addLoadFlags(command: Command, context?: string): Command {
  return addPlanFlags(command, context)
    .addOption(new Option('--trace <file>', 'write what copies, kernels and waits take, for ui.perfetto.dev'))
    .addOption(new Option('--cache <folder>', 'keep repacked weights for the next load there'))
    .addOption(new Option('--no-cache', 'keep and use no repacked weights'))
    .addOption(new Option('--quiet', 'no progress on stderr'))
}

/** Of commands that load checkpoints alone: bench's own --head is about shapes too. */
export function addHeadFlag(command: Command): Command {
  return command.addOption(
    new Option('--head <type>', 'stored, or made 4 or 8 bits as it is loaded').choices(['stored', 'q4', 'q8']),
  )
}

export function addSamplingFlags(command: Command): Command {
  const collect = (text: string, texts: string[] | undefined) => [...(texts ?? []), text]
  return command
    .addOption(new Option('--max-tokens <count>', 'tokens of the answer at most').argParser(parseNumber))
    .addOption(new Option('--temperature <value>', '0 (the default) takes the likeliest token').argParser(parseNumber))
    .addOption(new Option('--top-k <count>', 'sample among the k likeliest tokens').argParser(parseNumber))
    .addOption(new Option('--top-p <share>', 'sample among the likeliest that reach this share').argParser(parseNumber))
    .addOption(new Option('--min-p <share>', 'sample among those this likely, of the likeliest').argParser(parseNumber))
    .addOption(
      new Option(
        '--typical-p <share>',
        'sample among those of the most expected surprise that reach this share',
      ).argParser(parseNumber),
    )
    .addOption(
      new Option('--repetition-penalty <factor>', 'above 1: tokens of prompt and answer come less').argParser(
        parseNumber,
      ),
    )
    .addOption(
      new Option('--presence-penalty <value>', 'off the logit of a token that the answer has').argParser(parseNumber),
    )
    .addOption(
      new Option('--frequency-penalty <value>', 'the same, once for each time that it has it').argParser(parseNumber),
    )
    .addOption(
      new Option(
        '--logit-bias <token=bias>',
        "added to a token id's logit, -Infinity forbids it; may be given again",
      ).argParser(parseBias),
    )
    .addOption(new Option('--seed <number>', 'the same seed gives the same text').argParser(parseNumber))
    .addOption(new Option('--stop <text>', 'end the answer before this text; may be given again').argParser(collect))
    .addOption(
      new Option('--stop-token <id>', 'end the answer at this token, too; may be given again').argParser(
        (text, ids: number[] | undefined) => [...(ids ?? []), parseNumber(text)],
      ),
    )
    .option('--ignore-eos', "go on past the model's own end tokens")
    .addOption(
      new Option('--truncate <where>', 'what goes of a prompt too long for the context').choices([
        'none',
        'start',
        'middle',
      ]),
    )
    .addOption(new Option('--priority <number>', 'higher goes before other requests').argParser(parseNumber))
    .addOption(new Option('--queue-timeout <ms>', 'fail if it has not started by then').argParser(parseNumber))
    .addOption(new Option('--deadline <ms>', 'fail if it has not ended by then').argParser(parseNumber))
}

/** Checked at once: before a model is loaded, and also where no request follows. */
export function samplingOptions(flags: SamplingFlags): GenerateOptions {
  const { maxTokens, temperature, topK, topP, minP, typicalP, seed, stop, truncate, priority } = flags
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias, queueTimeout, deadline } = flags
  const filters = { temperature, topK, topP, minP, typicalP, seed }
  const penalties = { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias }
  const ends = { maxTokens, stop, stopTokens: flags.stopToken, ignoreEos: flags.ignoreEos }
  const limits = { truncate, priority, queueTimeoutMs: queueTimeout, deadlineMs: deadline }
  const options = { ...filters, ...penalties, ...ends, ...limits }
  validate(generateSchema, options, 'options')
  return options
}

/** A plan as the flags have it. */
export function planOptions(flags: LoadFlags): PlanOptions {
  const { device, placement, ring, context, threads, vramBudget, ramBudget, arena, coExecute, adaptive } = flags
  const { maxSequences, kvTokens, batch } = flags
  const sizes = { ring, contextLength: context, vramBudget, ramBudget, arena, maxSequences, kvTokens, batch }
  const options = { device, placement, threads, coExecute, adaptive, ...sizes }
  return validate(planSchema, options, 'options')
}

/** Told before weights are read: token ids that the model has not. */
export async function checkTokens(path: string, flags: SamplingFlags): Promise<void> {
  const ids = { '--stop-token': flags.stopToken ?? [], '--logit-bias': [...(flags.logitBias?.keys() ?? [])] }
  if (Object.values(ids).every((list) => list.length === 0)) return
  const { vocab } = (await inspect(path)).spec
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

/** Options that several commands share, and how their words become the library's values. */
import { basename } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { load } from '../model/load.ts'
import type { Model } from '../model/model.ts'
import {
  type GenerateOptions,
  generateOptions as generateSchema,
  type HeadType,
  type LoadOptions,
  type PlacementHome,
  type PlanOptions,
  planOptions as planSchema,
  validate,
} from '../options.ts'
import { formatBytes } from './format.ts'
import type { Terminal } from './terminal.ts'

export interface LoadFlags {
  device?: string | string[]
  placement?: 'auto' | PlacementHome | PlacementHome[]
  ring?: number | string
  context?: number
  threads?: number
  vramBudget?: string
  coExecute?: boolean
  adaptive?: boolean
  ramBudget?: string
  arena?: string
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

export function addLoadFlags(command: Command, context = 'longest prompt and answer together'): Command {
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
        (text) => (/^\d+$/.test(text) ? Number(text) : text),
      ),
    )
    .addOption(new Option('--context <tokens>', context).argParser(parseNumber))
    .addOption(new Option('--threads <count>', 'threads that compute on the CPU').argParser(parseNumber))
    .addOption(
      new Option('--vram-budget <size>', 'GPU memory for the model: a size such as 6GiB, or 80% of what is free'),
    )
    .addOption(
      new Option('--adaptive', 'beside a GPU, what the CPU computes is streamed for crowds that it would hold up'),
    )
    .addOption(new Option('--no-co-execute', 'beside a GPU the CPU computes nothing unless --placement names it'))
    .addOption(new Option('--ram-budget <size>', 'system RAM for the model: a size, or a share'))
    .addOption(new Option('--arena <size>', 'GPU memory for the shared units of all models: a size such as 4GiB'))
    .addOption(new Option('--trace <file>', 'write what copies, kernels and waits take, for ui.perfetto.dev'))
    .addOption(new Option('--cache <folder>', 'keep repacked weights for the next load there'))
    .addOption(new Option('--no-cache', 'keep and use no repacked weights'))
    .addOption(new Option('--quiet', 'no progress on stderr'))
}

/** Of commands that load checkpoints alone: bench's own --head is about shapes too. */
export function addHeadFlag(command: Command): Command {
  return command.addOption(
    new Option('--head <type>', 'stored, or q4: made 4 bits as it is loaded').choices(['stored', 'q4']),
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
  const limits = { maxTokens, stop, truncate, priority, queueTimeoutMs: queueTimeout, deadlineMs: deadline }
  const options = { ...filters, ...penalties, ...limits }
  validate(generateSchema, options, 'options')
  return options
}

/** A plan as the flags have it. */
export function planOptions(flags: LoadFlags): PlanOptions {
  const { device, placement, ring, context, threads, vramBudget, ramBudget, arena, coExecute, adaptive } = flags
  const sizes = { ring, contextLength: context, vramBudget, ramBudget, arena }
  const options = { device, placement, threads, coExecute, adaptive, ...sizes }
  return validate(planSchema, options, 'options')
}

/** Loads with progress on stderr; Ctrl-C ends it. */
export async function loadModel(
  path: string,
  flags: LoadFlags,
  terminal: Terminal,
  more: LoadOptions = {},
): Promise<Model> {
  terminal.quiet = flags.quiet ?? false
  const progress = terminal.progress(basename(path))
  const model = await load(path, {
    ...planOptions(flags),
    cache: flags.cache,
    signal: terminal.signal,
    onProgress: progress.report,
    ...more,
  })
  progress.done()
  if (flags.trace !== undefined) await model.trace(flags.trace)
  const { cache } = model
  if (cache?.state === 'writing')
    terminal.note(`writing ${formatBytes(cache.bytes)} to ${cache.path} for the next load`)
  return model
}

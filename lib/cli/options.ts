/** Options that several commands share, and how their words become the library's values. */
import { basename } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { load } from '../model/load.ts'
import type { Model } from '../model/model.ts'
import {
  type GenerateOptions,
  type LoadOptions,
  type PlacementHome,
  type PlanOptions,
  planOptions as planSchema,
  validate,
} from '../options.ts'
import type { Terminal } from './terminal.ts'

export interface LoadFlags {
  device?: string
  placement?: 'auto' | PlacementHome | PlacementHome[]
  ring?: number | string
  context?: number
  threads?: number
  quiet?: boolean
}

export interface SamplingFlags {
  maxTokens?: number
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  seed?: number
  stop?: string[]
}

/** Ranges are the library's to check. */
export function parseNumber(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number.')
  return value
}

function parsePlacement(text: string): LoadFlags['placement'] {
  return text.includes(',') ? (text.split(',') as PlacementHome[]) : (text as PlacementHome)
}

export function addLoadFlags(command: Command): Command {
  return command
    .addOption(new Option('--device <device>', 'auto, cpu, cuda or cuda:<index>'))
    .addOption(
      new Option(
        '--placement <homes>',
        'auto, resident, streamed, cpu, or one of the last three a layer, with commas',
      ).argParser(parsePlacement),
    )
    .addOption(
      new Option('--ring <size>', 'memory for streamed units: a number of units, or a size such as 256MiB').argParser(
        (text) => (/^\d+$/.test(text) ? Number(text) : text),
      ),
    )
    .addOption(new Option('--context <tokens>', 'longest prompt and answer together').argParser(parseNumber))
    .addOption(new Option('--threads <count>', 'threads that compute on the CPU').argParser(parseNumber))
    .addOption(new Option('--quiet', 'no progress on stderr'))
}

export function addSamplingFlags(command: Command): Command {
  const collect = (text: string, texts: string[] | undefined) => [...(texts ?? []), text]
  return command
    .addOption(new Option('--max-tokens <count>', 'tokens of the answer at most').argParser(parseNumber))
    .addOption(new Option('--temperature <value>', '0 (the default) takes the likeliest token').argParser(parseNumber))
    .addOption(new Option('--top-k <count>', 'sample among the k likeliest tokens').argParser(parseNumber))
    .addOption(new Option('--top-p <share>', 'sample among the likeliest that reach this share').argParser(parseNumber))
    .addOption(new Option('--min-p <share>', 'sample among those this likely, of the likeliest').argParser(parseNumber))
    .addOption(new Option('--seed <number>', 'the same seed gives the same text').argParser(parseNumber))
    .addOption(new Option('--stop <text>', 'end the answer before this text; may be given again').argParser(collect))
}

export function samplingOptions(flags: SamplingFlags): GenerateOptions {
  const { maxTokens, temperature, topK, topP, minP, seed, stop } = flags
  return { maxTokens, temperature, topK, topP, minP, seed, stop }
}

/** A plan as the flags have it. */
export function planOptions(flags: LoadFlags): PlanOptions {
  const { device, placement, ring, context, threads } = flags
  return validate(planSchema, { device, placement, ring, contextLength: context, threads }, 'options')
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
    signal: terminal.signal,
    onProgress: progress.report,
    ...more,
  })
  progress.done()
  return model
}

import { readFile } from 'node:fs/promises'
import { Command, Option } from 'commander'
import { MillraceError } from '../errors.ts'
import { messageOf } from '../files.ts'
import type { GenerationResult } from '../model/generation.ts'
import type { Model } from '../model/model.ts'
import { type ChatTool, chatOptions } from '../options/request.ts'
import { validate } from '../options/validate.ts'
import { sinksOf, stream } from './answer.ts'
import { formatBytes } from './format.ts'
import {
  addChatFlags,
  addHeadFlag,
  addLoadFlags,
  addSamplingFlags,
  addServeFlags,
  type ChatFlags,
  chatOptionsOf,
  checkTokens,
  type HeadFlag,
  loadFlagOptions,
  loadModel,
  MODEL,
  type RunFlags,
  samplingOptions,
} from './options.ts'
import { endTrace } from './output.ts'
import type { Terminal } from './terminal.ts'

interface Flags extends RunFlags, HeadFlag, ChatFlags {
  prompt?: string
  chat?: string
  system?: string
  json?: boolean
  logprobs?: boolean
  topLogprobs?: number
  stats?: boolean
  tools?: string
}

export function generateCommand(terminal: Terminal): Command {
  const command = new Command('generate')
    .description('continue a prompt, or answer one request')
    .argument('<model>', MODEL)
    .argument('[prompt]', 'the text to continue; from standard input if it is given nowhere')
    .option('--prompt <text>', 'the text to continue')
    .option('--chat <request>', "answer this request, through the model's chat template")
    .addOption(new Option('--system <text>', 'with --chat: the system message'))
    .addOption(
      new Option('--tools <file>', 'with --chat: tools that the model may call, a JSON array as chat() has it'),
    )
    .option('--json', 'print the result as JSON')
    .option('--stats', 'print figures of the run to stderr, or into the JSON')
  addSamplingFlags(addChatFlags(addHeadFlag(addServeFlags(addLoadFlags(command)))), { json: true })
  return command.action(async (path: string, positional: string | undefined, flags: Flags) => {
    checkFlags(positional, flags)
    const options = samplingOptions(flags)
    const chat = {
      ...chatOptionsOf(flags),
      ...(flags.tools === undefined ? {} : { tools: await readTools(flags.tools) }),
    }
    const text = flags.chat ?? flags.prompt ?? positional ?? (await readPrompt(terminal))
    await checkTokens(path, options, flags)
    await using model = await loadModel(path, flags, terminal, loadFlagOptions(flags))
    const generation =
      flags.chat === undefined
        ? model.generate(text, options)
        : model.chat(
            [
              ...(flags.system === undefined ? [] : [{ role: 'system', content: flags.system }]),
              { role: 'user', content: text },
            ],
            { ...options, ...chat },
          )
    const result = await stream(generation, terminal, flags.json ? undefined : sinksOf(terminal, flags.reasoning))
    if (flags.json) {
      const figures = flags.stats ? describeModel(model) : {}
      await terminal.write(`${JSON.stringify({ ...result, ...figures })}\n`)
    } else if (flags.stats) {
      for (const line of describeRun(model, result)) terminal.complain(line)
    }
    await endTrace(model, flags)
  })
}

/** Throws INVALID_ARGUMENT: nothing at all was hardly meant, and an empty prompt can be said by --prompt "". */
async function readPrompt(terminal: Terminal): Promise<string> {
  const text = (await terminal.readStdin()).replace(/\r?\n$/, '')
  if (text !== '') return text
  throw new MillraceError('INVALID_ARGUMENT', {
    message: 'expected a prompt but received none: standard input is empty',
    remedy: 'give the prompt as an argument, by --prompt or --chat, or through a pipe',
  })
}

function checkFlags(positional: string | undefined, flags: Flags): void {
  const given = [positional, flags.prompt, flags.chat].filter((text) => text !== undefined).length
  const ofChats = { '--system': flags.system, '--tools': flags.tools, '--variable': flags.variable }
  const alone =
    flags.chat === undefined ? Object.entries(ofChats).find(([, value]) => value !== undefined)?.[0] : undefined
  const message =
    given > 1
      ? 'expected one of [prompt], --prompt and --chat but received several'
      : given === 0 && process.stdin.isTTY
        ? 'expected a prompt but received none'
        : alone !== undefined
          ? `expected --chat with ${alone} but received none`
          : (flags.logprobs !== undefined || flags.topLogprobs !== undefined) && !flags.json
            ? 'expected --json with --logprobs and --top-logprobs but received none'
            : undefined
  if (message !== undefined) {
    throw new MillraceError('INVALID_ARGUMENT', { message, remedy: 'see millrace generate --help' })
  }
}

/** Throws INVALID_ARGUMENT. */
async function readTools(path: string): Promise<ChatTool[]> {
  try {
    const tools = JSON.parse(await readFile(path, 'utf8'))
    validate(chatOptions, { tools }, 'options')
    return tools
  } catch (cause) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `--tools ${path}: ${messageOf(cause)}`,
      remedy: 'name a JSON file such as [{ "type": "function", "function": { "name": "search", "parameters": {} } }]',
      cause,
    })
  }
}

function describeModel(model: Model) {
  const { plan, stats, memory, headError, weightError } = model
  return { plan, stats, memory, ...(headError && { headError }), ...(weightError && { weightError }) }
}

/** Figures of one answer. */
export function describeRun(model: Model, result: GenerationResult): string[] {
  const { usage, timings } = result
  const { stats, memory } = model
  const decodeSeconds = (timings.totalMs - timings.firstTokenMs) / 1000
  const decoded = usage.completionTokens - 1
  return [
    `prompt ${usage.promptTokens} tokens, first token after ${timings.firstTokenMs.toFixed(0)} ms`,
    `answer ${usage.completionTokens} tokens${decoded > 0 && decodeSeconds > 0 ? `, ${(decoded / decodeSeconds).toFixed(1)} tok/s` : ''}, ended by ${result.finishReason}`,
    `passes ${stats.steps}, weights read ${formatBytes(stats.weightBytesRead)}, streamed ${formatBytes(stats.streaming.copiedBytes)} in ${stats.streaming.units} units`,
    `memory: weights ${formatBytes(memory.hostBytes)}, ring ${formatBytes(memory.ringBytes)}, KV ${formatBytes(memory.kvBytes)}, workspace ${formatBytes(memory.workspaceBytes)}`,
    ...(model.weightError
      ? [
          `layers quantised: results are off by ${percent(model.weightError.results)} (weights ${percent(model.weightError.weights)})`,
        ]
      : []),
    ...(model.headError
      ? [
          `head quantised: logits are off by ${percent(model.headError.logits)} (weights ${percent(model.headError.weights)})`,
        ]
      : []),
  ]
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`
}

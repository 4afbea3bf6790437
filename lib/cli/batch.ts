import { Command, Option } from 'commander'
import { MillraceError } from '../errors.ts'
import type { ServeOptions } from '../server/options.ts'
import { parseNumber } from './options.ts'
import { checkOutput } from './output.ts'
import { addServedFlags, modelsOf, readConfig, type ServedFlags, servedLoad } from './served.ts'
import type { Terminal } from './terminal.ts'

interface Flags extends ServedFlags {
  model?: string[]
  config?: string
  atOnce?: number
  quiet?: boolean
}

const LINE_INTERVAL_MS = 2000
/** What --placement auto chooses for, where nobody says: passes are shared by many. */
const DEFAULT_BATCH = 16

export function batchCommand(terminal: Terminal): Command {
  const command = new Command('batch')
    .description("answer a file of requests, as OpenAI's batches have it; run again, it goes on where it was ended")
    .argument('<input>', 'a request a line: {"custom_id", "method", "url", "body"}')
    .argument('<output>', 'an answer a line, in the order in which they end; what it has already is not asked again')
    .addOption(
      new Option('--model <path>', 'folder or GGUF file, or name=path; may be given again').argParser(
        (text: string, before: string[] | undefined) => [...(before ?? []), text],
      ),
    )
    .option('--config <file>', 'JSON with options of serve(): models and how they load')
    .addOption(new Option('--at-once <count>', "requests at once; default --batch's").argParser(parseNumber))
    .option('--quiet', 'no progress on stderr')
  addServedFlags(command)
  return command.action(async (input: string, output: string, flags: Flags) => {
    terminal.quiet = flags.quiet ?? false
    const models = await batchModels(flags)
    await checkOutput('<output>', output)
    const { runBatch } = await import('../server/batch.ts')
    const began = performance.now()
    let told = began
    const { done, total, failed } = await runBatch(models, {
      input,
      output,
      concurrency: flags.atOnce,
      signal: terminal.signal,
      onProgress: ({ done, total, failed, answered, completionTokens }) => {
        const now = performance.now()
        if (now - told < LINE_INTERVAL_MS && done < total) return
        told = now
        const seconds = (now - began) / 1000
        const left = ((total - done) * seconds) / answered
        const rates = `${(answered / seconds).toFixed(1)} lines/s, ${(completionTokens / seconds).toFixed(0)} tok/s`
        terminal.note(`${done} of ${total}, ${failed} failed, ${rates}, ${clock(left)} left`)
      },
    })
    terminal.note(`${done} of ${total} answered, ${failed} failed: ${output}`)
  })
}

const clock = (seconds: number) =>
  [seconds / 3600, (seconds / 60) % 60, seconds % 60].map((part) => String(Math.floor(part)).padStart(2, '0')).join(':')

async function batchModels(flags: Flags): Promise<Pick<ServeOptions, 'models' | 'load' | 'lazy' | 'ramBudget'>> {
  const config: Partial<ServeOptions> = flags.config === undefined ? {} : await readConfig(flags.config)
  const models = { ...config.models, ...modelsOf(flags.model ?? []) }
  if (Object.keys(models).length === 0) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: 'no model is named',
      remedy: 'pass --model <path>, or --config with models',
    })
  }
  if (flags.atOnce !== undefined && !(Number.isInteger(flags.atOnce) && flags.atOnce >= 1)) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `expected an integer of at least 1 for --at-once but received ${flags.atOnce}`,
    })
  }
  const { load, ramBudget } = servedLoad(flags)
  const batch = flags.atOnce ?? config.load?.batch ?? DEFAULT_BATCH
  const { lazy = Object.keys(models).length > 1 } = config
  return {
    models,
    lazy,
    ramBudget: ramBudget ?? config.ramBudget,
    load: { ...config.load, batch, ...load },
  }
}

import { Command, Option } from 'commander'
import { MillraceError } from '../errors.ts'
import { LOG_LEVELS, type LogLevel, type ServeOptions } from '../server/options.ts'
import { parseNumber } from './options.ts'
import { addServedFlags, modelsOf, readConfig, type ServedFlags, servedLoad } from './served.ts'
import type { Terminal } from './terminal.ts'

interface Flags extends ServedFlags {
  host?: string
  port?: number
  apiKey?: string[]
  config?: string
  maxWaitMs?: number
  lazy?: boolean
  cors?: string[]
  logPrompts?: boolean
  logLevel?: LogLevel
  drainMs?: number
  page?: boolean
}

export function serveCommand(terminal: Terminal): Command {
  const again = (text: string, before: string[] | undefined) => [...(before ?? []), text]
  const command = new Command('serve')
    .description('serve models over HTTP, as OpenAI, Anthropic and vLLM have it, with a page to try them at /')
    .argument(
      '[models...]',
      'folders of checkpoints, GGUF files or names of the hub (owner/name); name=path gives one another name than its own',
    )
    .option('--host <address>', 'to listen at; default 127.0.0.1')
    .addOption(new Option('--port <number>', '0 chooses a free one; default 8080').argParser(parseNumber))
    .addOption(new Option('--api-key <key>', 'that requests must bring; may be given again').argParser(again))
    .option('--config <file>', 'JSON with the options of serve(); flags rule over it')
    .option('--lazy', 'load a model when a request first names it')
    .addOption(
      new Option('--max-wait-ms <ms>', 'after so long a model that waits for room comes first').argParser(parseNumber),
    )
    .addOption(new Option('--cors <origin>', 'whose pages may use the API; may be given again').argParser(again))
    .addOption(new Option('--drain-ms <ms>', 'that requests have left at the end').argParser(parseNumber))
    .addOption(new Option('--log-level <level>', 'of the log on stderr; default info').choices([...LOG_LEVELS]))
    .option('--log-prompts', 'log bodies of requests, too')
    .option('--no-page', 'no page at /')
  addServedFlags(command)
  return command.action(async (models: string[], flags: Flags) => {
    const options = await serveOptions(models, flags)
    // Its parts are many: other commands do not wait for them.
    const { serve } = await import('../server/serve.ts')
    const server = await serve({ ...options, signal: terminal.signal })
    terminal.complain(`millrace: listening on ${server.url}`)
    if (options.page !== false)
      terminal.complain(`millrace: a page to try it at ${server.url}/, the API at ${server.url}/v1`)
    await new Promise<void>((done) => {
      if (terminal.signal.aborted) done()
      else terminal.signal.addEventListener('abort', () => done(), { once: true })
    })
    await server.close()
  })
}

/** The config file's, the flags ruling over it. */
async function serveOptions(models: readonly string[], flags: Flags): Promise<ServeOptions> {
  const config: Partial<ServeOptions> = flags.config === undefined ? {} : await readConfig(flags.config)
  const { host, port, apiKey, maxWaitMs, lazy, cors, logPrompts, logLevel, drainMs, page } = flags
  const { load, ramBudget } = servedLoad(flags)
  const given = { host, port, apiKey, maxWaitMs, lazy, cors, logPrompts, logLevel, drainMs, ramBudget }
  if (models.length === 0 && Object.keys(config.models ?? {}).length === 0) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: 'no model is named',
      remedy: 'name one: millrace serve <folder, GGUF file or owner/name>',
    })
  }
  const named = Object.entries(given).filter(([, value]) => value !== undefined)
  return {
    ...config,
    ...Object.fromEntries(named),
    ...(page === false ? { page } : {}),
    models: { ...config.models, ...modelsOf(models) },
    load: { ...config.load, ...load },
  }
}

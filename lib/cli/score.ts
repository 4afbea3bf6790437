import { readFile } from 'node:fs/promises'
import { Command, Option } from 'commander'
import { MillraceError } from '../errors.ts'
import type { Model } from '../model/model.ts'
import { formatCount } from './format.ts'
import { addHeadFlag, addLoadFlags, type HeadFlag, loadModel, MODEL, parseNumber, type RunFlags } from './options.ts'
import { endTrace } from './output.ts'
import type { Terminal } from './terminal.ts'

interface Flags extends RunFlags, HeadFlag {
  file?: string
  window?: number
  bos: boolean
  json?: boolean
}

export function scoreCommand(terminal: Terminal): Command {
  const command = new Command('score')
    .description('perplexity of a text under a model')
    .argument('<model>', MODEL)
    .argument('[text]', 'the text; from standard input if it is given nowhere')
    .option('--file <path>', 'a file with the text')
    .addOption(
      new Option(
        '--window <tokens>',
        'cut the text into windows that score this many tokens each and overlap by one; default: one window',
      ).argParser(parseNumber),
    )
    .option('--no-bos', "without the tokenizer's own first token")
    .option('--json', 'print as JSON')
  addHeadFlag(addLoadFlags(command))
  return command.action(async (path: string, positional: string | undefined, flags: Flags) => {
    const text = await readInput(positional, flags, terminal)
    if (flags.window !== undefined && !(Number.isInteger(flags.window) && flags.window >= 1)) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `expected an integer of at least 1 for --window but received ${flags.window}`,
        remedy: 'leave --window out to score all of the text in one',
      })
    }
    await using model = await loadModel(path, flags, terminal, {
      // One window is all that the KV cache must hold.
      ...(flags.window !== undefined && flags.context === undefined ? { contextLength: flags.window + 1 } : {}),
      maxSequences: 1,
      head: flags.head,
      weights: flags.weights,
    })
    const { tokens, sum } = await scoreWindows(model, text, flags, terminal)
    const perplexity = Math.exp(-sum / tokens)
    await terminal.write(
      flags.json
        ? `${JSON.stringify({ perplexity, tokens, meanLogprob: sum / tokens })}\n`
        : `perplexity ${perplexity.toFixed(4)} over ${formatCount(tokens)} tokens\n`,
    )
    await endTrace(model, flags)
  })
}

async function readInput(positional: string | undefined, flags: Flags, terminal: Terminal): Promise<string> {
  if (positional !== undefined && flags.file !== undefined) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: 'expected one of [text] and --file but received both',
      remedy: 'see millrace score --help',
    })
  }
  if (flags.file === undefined) return positional ?? (await terminal.readStdin())
  try {
    return await readFile(flags.file, 'utf8')
  } catch (cause) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `--file: ${(cause as Error).message}`,
      remedy: 'pass the path of a text file',
      cause,
    })
  }
}

/** How many tokens were scored, and the sum of their log-probabilities. */
async function scoreWindows(model: Model, text: string, flags: Flags, terminal: Terminal) {
  const tokens = await model.tokenizer.encode(text, { specialTokens: flags.bos, signal: terminal.signal })
  if (tokens.length < 2) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `expected a text of at least two tokens but received ${tokens.length}`,
      remedy: 'pass a longer text',
    })
  }
  const window = flags.window ?? tokens.length - 1
  let sum = 0
  for (let begin = 0; begin + 1 < tokens.length; begin += window) {
    const part = tokens.slice(begin, begin + window + 1)
    const { logprobs } = await model.score(part, { signal: terminal.signal })
    for (const logprob of logprobs) sum += logprob
  }
  return { tokens: tokens.length - 1, sum }
}

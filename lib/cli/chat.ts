import { createInterface } from 'node:readline'
import { Command } from 'commander'
import { MillraceError } from '../errors.ts'
import type { Model } from '../model/model.ts'
import type { ChatMessage, GenerateOptions } from '../options/request.ts'
import { stream } from './generate.ts'
import {
  addHeadFlag,
  addLoadFlags,
  addSamplingFlags,
  addServeFlags,
  checkTokens,
  type HeadFlag,
  loadModel,
  type RunFlags,
  samplingOptions,
} from './options.ts'
import { endTrace } from './output.ts'
import { checkStdin, Interrupted, type Terminal } from './terminal.ts'

interface Flags extends RunFlags, HeadFlag {
  system?: string
}

export function chatCommand(terminal: Terminal): Command {
  const command = new Command('chat')
    .description('talk with a model; from a pipe, every line is a message')
    .argument('<model>', 'folder of the checkpoint, or a GGUF file')
    .option('--system <text>', 'the system message')
  addSamplingFlags(addHeadFlag(addServeFlags(addLoadFlags(command))))
  return command.action(async (path: string, flags: Flags) => {
    const sampling = samplingOptions(flags)
    checkStdin()
    await checkTokens(path, sampling)
    await using model = await loadModel(path, flags, terminal, { head: flags.head, weights: flags.weights })
    if (!model.hasChatTemplate) {
      throw new MillraceError('CHAT_TEMPLATE_MISSING', { message: `${path} has no chat template` })
    }
    const talk = new Talk(model, sampling, flags.system, terminal)
    if (process.stdin.isTTY && process.stdout.isTTY) await interactive(talk, terminal)
    else await piped(talk, terminal)
    await endTrace(model, flags)
  })
}

class Talk {
  readonly #model: Model
  readonly #sampling: GenerateOptions
  readonly #system: string | undefined
  readonly #terminal: Terminal
  #messages: ChatMessage[] = []

  constructor(model: Model, sampling: GenerateOptions, system: string | undefined, terminal: Terminal) {
    this.#model = model
    this.#sampling = sampling
    this.#system = system
    this.#terminal = terminal
    this.reset()
  }

  reset(): void {
    this.#messages = this.#system === undefined ? [] : [{ role: 'system', content: this.#system }]
  }

  /** Prints the answer. A message that fails leaves no trace. */
  async say(content: string, onStart?: (cancel: () => void) => void): Promise<void> {
    const messages = [...this.#messages, { role: 'user', content }]
    const generation = this.#model.chat(messages, this.#sampling)
    onStart?.(() => generation.cancel())
    const { text } = await stream(generation, this.#terminal)
    this.#messages = [...messages, { role: 'assistant', content: text }]
  }
}

async function piped(talk: Talk, terminal: Terminal): Promise<void> {
  const lines = createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY })
  const off = terminal.onInterrupt(() => lines.close())
  try {
    for await (const line of lines) {
      if (line.trim() === '') continue
      await talk.say(line)
      if (terminal.exitCode !== undefined) throw new Interrupted()
    }
  } finally {
    off()
  }
}

/** Ctrl-C ends an answer, and at the prompt the program. */
async function interactive(talk: Talk, terminal: Terminal): Promise<void> {
  terminal.note('/reset forgets what was said, /exit or Ctrl-D leaves')
  const prompt = createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' })
  let cancel: (() => void) | undefined
  let interrupted = false
  prompt.on('SIGINT', () => {
    if (cancel) return cancel()
    interrupted = true
    prompt.close()
  })
  prompt.prompt()
  for await (const line of prompt) {
    const text = line.trim()
    if (text === '/exit' || text === '/quit') break
    if (text === '/reset') talk.reset()
    else if (text !== '') {
      try {
        await talk.say(text, (stop) => {
          cancel = stop
        })
      } catch (error) {
        if (!MillraceError.isInstance(error)) throw error
        terminal.complain(`${error.code}: ${error.message}\n  ${error.remedy}`)
      } finally {
        cancel = undefined
      }
    }
    prompt.prompt()
  }
  prompt.close()
  if (interrupted) {
    process.stdout.write('\n')
    terminal.interrupt()
  }
}

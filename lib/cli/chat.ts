import { createInterface } from 'node:readline'
import { Command } from 'commander'
import { MillraceError } from '../errors.ts'
import type { Model } from '../model/model.ts'
import type { ChatMessage, ChatOptions } from '../options/request.ts'
import { type Sinks, sinksOf, stream } from './answer.ts'
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
import { checkStdin, Interrupted, type Terminal } from './terminal.ts'

interface Flags extends RunFlags, HeadFlag, ChatFlags {
  system?: string
}

export function chatCommand(terminal: Terminal): Command {
  const command = new Command('chat')
    .description('talk with a model; from a pipe, every line is a message')
    .argument('<model>', MODEL)
    .option('--system <text>', 'the system message')
  addSamplingFlags(addChatFlags(addHeadFlag(addServeFlags(addLoadFlags(command)))))
  return command.action(async (path: string, flags: Flags) => {
    const options = { ...samplingOptions(flags), ...chatOptionsOf(flags) }
    checkStdin()
    await checkTokens(path, options, flags)
    await using model = await loadModel(path, flags, terminal, loadFlagOptions(flags))
    if (!model.hasChatTemplate) {
      throw new MillraceError('CHAT_TEMPLATE_MISSING', { message: `${path} has no chat template` })
    }
    const talk = new Talk(model, options, flags.system, terminal, sinksOf(terminal, flags.reasoning))
    if (process.stdin.isTTY && process.stdout.isTTY) await interactive(talk, terminal)
    else await piped(talk, terminal)
    await endTrace(model, flags)
  })
}

class Talk {
  readonly #model: Model
  readonly #options: ChatOptions
  readonly #system: string | undefined
  readonly #terminal: Terminal
  readonly #sinks: Sinks
  #messages: ChatMessage[] = []

  constructor(model: Model, options: ChatOptions, system: string | undefined, terminal: Terminal, sinks: Sinks) {
    this.#model = model
    this.#options = options
    this.#system = system
    this.#terminal = terminal
    this.#sinks = sinks
    this.reset()
  }

  reset(): void {
    this.#messages = this.#system === undefined ? [] : [{ role: 'system', content: this.#system }]
  }

  /** Prints the answer. A message that fails leaves no trace. */
  async say(content: string, onStart?: (cancel: () => void) => void): Promise<void> {
    const messages = [...this.#messages, { role: 'user', content }]
    const generation = this.#model.chat(messages, this.#options)
    onStart?.(() => generation.cancel())
    const { text, reasoning } = await stream(generation, this.#terminal, this.#sinks)
    this.#messages = [...messages, { role: 'assistant', content: text, reasoning }]
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
        terminal.explain(error)
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

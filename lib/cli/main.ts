#!/usr/bin/env node
/** The `millrace` command. stdout carries results alone; progress, figures and complaints go to stderr. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, CommanderError } from 'commander'
import { packageRoot } from '../binding.ts'
import { ERRORS, MillraceError } from '../errors.ts'
import { batchCommand } from './batch.ts'
import { benchCommand } from './bench.ts'
import { buildCommand } from './build.ts'
import { cacheCommand } from './cache.ts'
import { chatCommand } from './chat.ts'
import { doctorCommand } from './doctor.ts'
import { EXAMPLES } from './examples.ts'
import { generateCommand } from './generate.ts'
import { inspectCommand } from './inspect.ts'
import { lsCommand, modelsCommand, pullCommand, rmCommand } from './models.ts'
import { planCommand } from './plan.ts'
import { probeCommand } from './probe.ts'
import { scoreCommand } from './score.ts'
import { serveCommand } from './serve.ts'
import { Interrupted, Terminal } from './terminal.ts'

/** As the help lists them. */
const GROUPS: [heading: string, commands: ((terminal: Terminal) => Command)[]][] = [
  ['Answers:', [generateCommand, chatCommand, serveCommand, batchCommand]],
  ['Models:', [modelsCommand, planCommand, pullCommand, lsCommand, rmCommand, inspectCommand]],
  ['This machine:', [doctorCommand, probeCommand, cacheCommand, buildCommand]],
  ['Figures:', [scoreCommand, benchCommand]],
]

const EXIT = { ok: 0, failure: 1, usage: 2 }

async function main(): Promise<void> {
  const terminal = new Terminal()
  const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }
  const program = new Command('millrace')
    .description('Runs language models whose weights stream from system memory.')
    .version(version)
    .exitOverride()
    .showHelpAfterError('  see millrace --help')
    .configureHelp({ showGlobalOptions: true })
    .enablePositionalOptions()
    .addHelpText(
      'after',
      '\nmillrace help <command> has the options of one, and an example.\nExit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted (Ctrl-C), 143 terminated.',
    )
    .hook('preAction', (_, { options }) => {
      terminal.flags = new Set(options.flatMap(({ long }) => long ?? []))
    })
  for (const [heading, commands] of GROUPS) {
    for (const make of commands) {
      const command = make(terminal).exitOverride().helpGroup(heading)
      refine(command, 'millrace')
      program.addCommand(command.addHelpText('after', `\nExample:\n  ${EXAMPLES[command.name()]}`))
    }
  }
  process.exitCode = (await run(program, terminal)) || process.exitCode
  terminal.tellSignal()
  terminal.close()
}

/** What a command and its own ones say of wrong usage. */
function refine(command: Command, before: string): void {
  const name = `${before} ${command.name()}`
  // Those that have commands of their own say themselves what they show.
  if (command.commands.length === 0) command.showHelpAfterError(`  see ${name} --help`)
  for (const inner of command.commands) refine(inner, name)
}

async function run(program: Command, terminal: Terminal): Promise<number> {
  try {
    await program.parseAsync()
    return terminal.exitCode ?? EXIT.ok
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage
    if (error instanceof Interrupted) return terminal.exitCode ?? EXIT.failure
    if (terminal.exitCode !== undefined && MillraceError.isInstance(error) && error.code === 'ABORTED') {
      return terminal.exitCode
    }
    if (MillraceError.isInstance(error)) {
      terminal.explain({ code: error.code, message: error.message, remedy: remedyOf(error, program) })
      return error.code === 'INVALID_ARGUMENT' ? EXIT.usage : EXIT.failure
    }
    terminal.complain(`INTERNAL: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
    return EXIT.failure
  }
}

/** Where the library's remedy is the message again, the command's help says more. */
function remedyOf(error: MillraceError, program: Command): string {
  const expected = /^pass (.+) as /.exec(error.remedy)?.[1]
  const isAgain = expected !== undefined && error.message.startsWith(`expected ${expected}`)
  if (!isAgain && error.remedy !== ERRORS.INVALID_ARGUMENT) return error.remedy
  return `see ${['millrace', ...commandOf(program)].join(' ')} --help`
}

/** The words of the command that was meant, `bench decode` for instance. */
function commandOf(command: Command): string[] {
  const called = command.commands.find((one) => one.name() === command.args[0])
  return called ? [called.name(), ...commandOf(called)] : []
}

void main()

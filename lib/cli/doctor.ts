import { Command } from 'commander'
import { diagnose, readFacts } from '../doctor.ts'
import type { Terminal } from './terminal.ts'

const MARKS = { ok: 'ok', note: 'note', problem: 'PROBLEM' }

export function doctorCommand(terminal: Terminal): Command {
  return new Command('doctor')
    .description(
      'what of this machine keeps millrace from working, and what to do about it; exits with 1 if something does',
    )
    .option('--json', 'print as JSON')
    .action(async ({ json }: { json?: boolean }) => {
      const findings = diagnose(await readFacts())
      const width = Math.max(...findings.map(({ name }) => name.length))
      const lines = findings.map(
        ({ name, level, text, remedy }) =>
          `${MARKS[level].padEnd(7)}  ${name.padEnd(width)}  ${text}\n${remedy === undefined ? '' : `${' '.repeat(width + 11)}-> ${remedy}\n`}`,
      )
      await terminal.write(json ? `${JSON.stringify(findings, null, 2)}\n` : lines.join(''))
      if (findings.some(({ level }) => level === 'problem')) process.exitCode = 1
    })
}

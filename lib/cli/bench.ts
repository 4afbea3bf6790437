import { Command } from 'commander'
import { nearest } from '../options/validate.ts'
import { benchDraftsCommand } from './bench_drafts.ts'
import { benchExpertsCommand } from './bench_experts.ts'
import { benchKernelCommand } from './bench_kernel.ts'
import { BENCHES, benchModelCommand } from './bench_model.ts'
import { benchStreamCommand } from './bench_stream.ts'
import type { Terminal } from './terminal.ts'

export function benchCommand(terminal: Terminal): Command {
  const bench = new Command('bench').description(
    'speed of decoding, of prompts, with drafts, of experts on demand, of streaming, or of one kernel, beside bandwidths measured in the same run',
  )
  // Who names no subcommand may not have meant this one.
  const decode = benchModelCommand(terminal, 'decode').exitOverride((error) => {
    const word = bench.args[0]
    if (error.code === 'commander.missingArgument' && word !== 'decode') bench.outputHelp({ error: true })
    if (error.code === 'commander.excessArguments' && word !== undefined && !BENCHES.includes(word)) {
      const likely = nearest(word, BENCHES)
      if (likely !== undefined) terminal.complain(`(Did you mean bench ${likely}?)`)
    }
    throw error
  })
  return bench
    .addCommand(decode, { isDefault: true })
    .addCommand(benchModelCommand(terminal, 'prefill').exitOverride())
    .addCommand(benchDraftsCommand(terminal).exitOverride())
    .addCommand(benchExpertsCommand(terminal).exitOverride())
    .addCommand(benchStreamCommand(terminal).exitOverride())
    .addCommand(benchKernelCommand(terminal).exitOverride())
}

import { Command } from 'commander'
import { benchKernelCommand } from './bench_kernel.ts'
import { benchModelCommand } from './bench_model.ts'
import { benchStreamCommand } from './bench_stream.ts'
import type { Terminal } from './terminal.ts'

export function benchCommand(terminal: Terminal): Command {
  return new Command('bench')
    .description(
      'speed of decoding, of prompts, of streaming, or of one kernel, beside bandwidths measured in the same run',
    )
    .addCommand(benchModelCommand(terminal, 'decode').exitOverride(), { isDefault: true })
    .addCommand(benchModelCommand(terminal, 'prefill').exitOverride())
    .addCommand(benchStreamCommand(terminal).exitOverride())
    .addCommand(benchKernelCommand(terminal).exitOverride())
}

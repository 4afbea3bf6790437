import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Command } from 'commander'
import { packageRoot } from '../binding.ts'

/** The script of the package does it: it runs in a clone before this command is there. */
export function buildCommand(): Command {
  return new Command('build')
    .description('compile the native addon from source, in the place of the prebuilt one')
    .addHelpText(
      'after',
      '\nIt needs a C++20 compiler and CMake, and says whether CUDA was found, and why not. In the environment:\n' +
        '  MILLRACE_CUDA=ON|OFF|AUTO            AUTO: where nvcc (CUDA 12 or newer) and a GPU are found\n' +
        '  MILLRACE_CUDA_ARCHITECTURES="90;120" what to compile for; default: the GPUs of this machine, with ON all',
    )
    .action(async () => {
      const script = join(packageRoot(), 'scripts', 'build-native.mjs')
      const child = spawn(process.execPath, [script, '--quiet'], { stdio: 'inherit' })
      const [code, signal] = await once(child, 'close')
      process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 1)
    })
}

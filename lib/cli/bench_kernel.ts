/** bench kernel: one operation, or a kernel of one's own in its place, at the sizes that a model's shape gives it. */
import { Command, Option } from 'commander'
import type { KvType } from '../binding.ts'
import { specOf } from '../checkpoint/spec.ts'
import { MillraceError } from '../errors.ts'
import { type Lab, type LabKernel, openLab, type Work } from '../lab/lab.ts'
import { checkOperation, describe } from '../lab/operations.ts'
import { type ShapedOperation, shapedOperations } from '../lab/shapes.ts'
import { type Verification, verify } from '../lab/verify.ts'
import { requireShape, SHAPES } from '../model/shapes.ts'
import { invalidArgument } from '../options/validate.ts'
import { formatBytes } from './format.ts'
import { addKvChoices, parseNumber } from './options.ts'
import type { Terminal } from './terminal.ts'

interface Flags {
  op: string
  shape: string
  part?: string
  rows: number
  group: number
  kv: KvType
  context: number
  n?: number
  k?: number
  zeros?: boolean
  permuted?: boolean
  cubin?: string
  verify?: boolean
  seed: number
  device?: string
  threads?: number
  repeats: number
  json?: boolean
}

type Result = ShapedOperation &
  Awaited<ReturnType<typeof measure>> & {
    /** Of the read peak. */
    share: number
    verified?: Verification
  }

/** Weights that are read in turn are together at least so large: no cache holds them. */
const COLD_BYTES = 512 * 2 ** 20
const MOST_COPIES = 4096

export function benchKernelCommand(terminal: Terminal): Command {
  return new Command('kernel')
    .description('time of one operation, or of your own kernel in its place, beside the read bandwidth of the same run')
    .addOption(new Option('--op <operation>', 'gemv_q4, gemm_q4, rms_norm, attention_decode, ...').default('gemv_q4'))
    .addOption(new Option('--shape <name>', `sizes of a model: ${Object.keys(SHAPES).join(', ')}`).default('llama3-8b'))
    .addOption(new Option('--part <name>', 'of linears, only this one: qkv, o, gate_up, down or head'))
    .addOption(new Option('--rows <count>', 'rows of activations').argParser(parseNumber).default(1))
    .addOption(
      new Option('--n <count>', 'of a linear: output features, in the place of a shape').argParser(parseNumber),
    )
    .addOption(new Option('--k <count>', 'of a linear: input features, in the place of a shape').argParser(parseNumber))
    .addOption(new Option('--group <count>', 'of 4-bit weights').argParser(parseNumber).default(128))
    .option('--zeros', 'of 4-bit weights: integer zero points')
    .option('--permuted', 'of a linear: input features in an order of their own (act-order)')
    .addOption(new Option('--context <tokens>', 'positions that attention sees').argParser(parseNumber).default(1024))
    .addOption(addKvChoices(new Option('--kv <type>', "attention's keys and values")).default('f16'))
    .addOption(new Option('--cubin <file>', 'cubin, fatbin or PTX with a kernel of your own: see docs/KERNELS.md'))
    .option('--verify', 'compare with the CPU twin on random inputs, outputs poisoned; exits with 1 if it differs')
    .addOption(new Option('--seed <number>', 'of the random inputs').argParser(parseNumber).default(1))
    .addOption(new Option('--device <device>', 'auto, cpu, cuda or cuda:<index>'))
    .addOption(new Option('--threads <count>', 'threads that compute on the CPU').argParser(parseNumber))
    .addOption(new Option('--repeats <count>', 'take the median of this many').argParser(parseNumber).default(10))
    .option('--json', 'print as JSON')
    .action(async (flags: Flags) => {
      const problems = problemsOf(flags)
      await using lab = await openLab({ device: flags.device, threads: flags.threads })
      const kernel = flags.cubin === undefined ? undefined : await lab.loadKernel(flags.op, flags.cubin)
      const peak = await lab.readBandwidth()
      const results: Result[] = []
      for (const problem of problems) {
        if (terminal.signal.aborted) break
        const verified = flags.verify
          ? await verify(lab, problem.operation, problem.dimensions, { kernel, seed: flags.seed })
          : undefined
        const timed = await measure(lab, problem, flags, kernel)
        results.push({ ...problem, ...timed, share: timed.bytesPerSecond / peak, ...(verified ? { verified } : {}) })
      }
      const failed = results.filter(({ verified }) => verified?.ok === false)
      await terminal.write(
        flags.json
          ? `${JSON.stringify({ device: lab.device, readBytesPerSecond: peak, kernel: kernel?.facts, results })}\n`
          : table(),
      )
      if (failed.length > 0) process.exitCode = 1

      function table(): string {
        const head = ['', 'us', 'GB/s', 'of peak', 'GFLOP/s', ...(flags.verify ? ['error', 'verdict'] : [])]
        const rows = results.map((result) => [
          result.part,
          result.us.toFixed(2),
          (result.bytesPerSecond / 1e9).toFixed(1),
          result.cold ? `${(result.share * 100).toFixed(0)} %` : 'cached',
          (result.flops / 1e9).toFixed(0),
          ...(result.verified ? verdict(result.verified) : []),
        ])
        const facts = kernel
          ? ` (${flags.cubin}: ${kernel.facts.registers} registers, ${kernel.facts.threads} threads a block${kernel.facts.localBytes > 0 ? `, ${formatBytes(kernel.facts.localBytes)} of local memory a thread` : ''})`
          : ''
        return `${flags.op}${facts}, ${flags.rows} row${flags.rows === 1 ? '' : 's'}, on ${lab.device}; read peak ${(peak / 1e9).toFixed(1)} GB/s\n${columns([head, ...rows])}`
      }
    })
}

function problemsOf(flags: Flags): ShapedOperation[] {
  const { op, rows, group, context, kv, n, k } = flags
  const linear = /^(gemv|gemm)_/.test(op)
  const extra = {
    ...(flags.zeros && /_q[48]$/.test(op) ? { zeros: 1 } : {}),
    ...(flags.permuted && (linear || op.startsWith('experts_')) ? { permuted: 1 } : {}),
  }
  checkOperation(op, 'see millrace bench kernel --help')
  if (n !== undefined || k !== undefined) {
    const given = n === undefined ? '--k' : '--n'
    const missing = n === undefined ? '--n' : '--k'
    if (!linear) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `${given} is a size of linears (gemv_..., gemm_...), and ${op} is none`,
        remedy: 'choose its sizes by --shape, --rows and --context',
      })
    }
    if (n === undefined || k === undefined) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `expected ${missing} with ${given} but received none`,
        remedy: 'give output features by --n and input features by --k, or a model by --shape',
      })
    }
    const dimensions = { rows, n, k, ...(op.endsWith('q4') ? { group } : {}), ...extra }
    describe(op, dimensions)
    return [{ part: `${n} x ${k}`, operation: op, dimensions }]
  }
  const all = shapedOperations(op, specOf(requireShape(flags.shape)), { rows, group, context, kv })
  const wanted = flags.part === undefined ? all : all.filter(({ part }) => part === flags.part)
  if (wanted.length === 0) throw invalidArgument(`one of ${all.map(({ part }) => part).join(', ')}`, 'part', flags.part)
  const problems = wanted.map((problem) => ({ ...problem, dimensions: { ...problem.dimensions, ...extra } }))
  for (const { operation, dimensions } of problems) describe(operation, dimensions)
  return problems
}

/** Over as many copies of the weights as no cache holds. */
async function measure(lab: Lab, problem: ShapedOperation, flags: Flags, kernel: LabKernel | undefined) {
  const { operation, dimensions } = problem
  const { weightBytes, bytes, operations } = describe(operation, dimensions)
  const first = await lab.prepare(operation, dimensions, { seed: flags.seed, ...(kernel ? { kernel } : {}) })
  const copied = ['slab', 'kv'].find((name) => first.buffers[name] !== undefined)
  const copies = copied === undefined ? 1 : Math.min(MOST_COPIES, Math.ceil(COLD_BYTES / weightBytes))
  const works: Work[] = [first]
  const stream = await lab.stream()
  const mine = [stream, ...Object.values(first.buffers)] as { release(): Promise<void> }[]
  for (let copy = 1; copy < copies; copy++) {
    const original = first.buffers[copied!]!
    if ('offset' in original) break
    const buffer = await lab.buffer(original.bytes)
    await stream.copy(buffer, original)
    mine.push(buffer)
    works.push({ ...first, buffers: { ...first.buffers, [copied!]: buffer } })
  }
  await stream.synchronize()
  const times = await lab.time(works, { repeats: flags.repeats })
  for (const thing of mine) await thing.release()
  times.sort((a, b) => a - b)
  const us = times[Math.floor(times.length / 2)]!
  return {
    us,
    usBest: times[0]!,
    usWorst: times.at(-1)!,
    bytes,
    bytesPerSecond: bytes / (us / 1e6),
    flops: operations / (us / 1e6),
    copies,
    /** No cache holds what it reads: `share` is one of memory's speed. */
    cold: copies * weightBytes >= COLD_BYTES,
  }
}

function verdict({ ok, outputs }: Verification): string[] {
  const worst = outputs.reduce((a, b) => (b.relativeError > a.relativeError || Number.isNaN(b.relativeError) ? b : a))
  const wrong = outputs.find(({ notNumbers }) => notNumbers > 0)
  const beyond = outputs.find(({ overrun }) => overrun > 0)
  const text = ok
    ? 'ok'
    : wrong
      ? `WRONG: ${wrong.notNumbers} of ${wrong.name} are no numbers`
      : beyond
        ? `WRONG: wrote beyond ${beyond.name}`
        : `WRONG: error above ${worst.bound}`
  return [worst.relativeError.toExponential(1), text]
}

function columns(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          column === 0 || column === 6 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
    .concat('\n')
}

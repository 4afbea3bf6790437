/** `millrace bench stream`: budgets and batches, predicted beside measured. */
import { Command, Option } from 'commander'
import { addon } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { settle } from '../model/calibrate.ts'
import { load } from '../model/load.ts'
import { readMachine } from '../model/machine.ts'
import type { Model } from '../model/model.ts'
import { plan, shapeOf } from '../model/plan.ts'
import { SHAPES } from '../model/shapes.ts'
import { loadSynthetic } from '../model/synthetic.ts'
import type { HeadType, PlanOptions } from '../options/model.ts'
import { invalidArgument } from '../options/validate.ts'
import type { Calibration } from '../plan/calibration.ts'
import type { ModelPlan } from '../plan/plan.ts'
import { type Bound, predictDecode } from '../plan/predict.ts'
import { addPlanFlags, parseNumber, planOptions, type RunFlags } from './options.ts'
import { checkOutput, writeOutput } from './output.ts'
import { describeHomes, significant } from './plan.ts'
import { streamPage } from './stream_page.ts'
import type { Terminal } from './terminal.ts'

interface Flags extends Omit<RunFlags, 'coExecute'> {
  budgets?: string[]
  batches: number[]
  cpu: 'on' | 'off'
  prompt: number
  tokens: number
  head: HeadType
  json?: string
  html?: string
}

const OF_THE_CPU = 'millrace bench decode and bench prefill measure models on the CPU'

/** One load and one batch of requests. */
export interface StreamRun {
  /** As asked for: a size, or 'streamed', 'resident'. */
  budget: string
  batch: number
  homes: string
  /** By the plan, and as the model tells. */
  plannedVramBytes: number
  vramBytes: number
  streamedBytesPerPass: number
  predictedTokensPerSecond: number
  /** After the first token, of all sequences together. */
  tokensPerSecond: number
  /** All tokens over the whole time, prompts included. */
  wallTokensPerSecond: number
  predictedPrefillTokensPerSecond: number
  prefillTokensPerSecond: number
  /** Weights copied while decoding, over what the link's best copy of the same run could have. */
  linkShare: number
  boundBy: Bound
  loadSeconds: number
}

export interface StreamReport {
  model: string
  gpu: string
  calibrated: boolean
  linkBytesPerSecond: number
  prompt: number
  tokens: number
  head: string
  date: string
  runs: StreamRun[]
}

export function benchStreamCommand(terminal: Terminal): Command {
  const list = (text: string) => text.split(',').map((part) => part.trim())
  const command = new Command('stream')
    .description('throughput against GPU memory and batch, predicted beside measured, with the share of the link')
    .argument(
      '<model>',
      `folder of a checkpoint, a GGUF file, or a shape with random weights: ${Object.keys(SHAPES).join(', ')}`,
    )
    .addOption(
      new Option(
        '--budgets <sizes>',
        'GPU memory, with commas: 2GiB,4GiB; also streamed and resident. Default: from one to the other in quarters',
      ).argParser(list),
    )
    .addOption(
      new Option('--batches <counts>', 'sequences at once, with commas')
        .argParser((text) => list(text).map(parseNumber))
        .default([1, 8, 64], '1,8,64'),
    )
    .addOption(new Option('--cpu <on|off>', 'the CPU computes, too').choices(['on', 'off']).default('on'))
    .addOption(new Option('--prompt <count>', 'tokens of each prompt').argParser(parseNumber).default(64))
    .addOption(new Option('--tokens <count>', 'tokens of each answer').argParser(parseNumber).default(64))
    .addOption(new Option('--head <type>', 'weights of the head').choices(['stored', 'q4', 'q8']).default('stored'))
    .addOption(new Option('--json <file>', 'write the runs as JSON'))
    .addOption(new Option('--html <file>', 'write a page with the plots'))
  addPlanFlags(command).option('--quiet', 'no remarks on stderr')
  return command.action(async (name: string, flags: Flags) => {
    checkCounts(flags)
    await checkOutput('--json', flags.json)
    await checkOutput('--html', flags.html)
    terminal.quiet = flags.quiet ?? false
    const native = addon()
    const machine = readMachine(native)
    const gpu = machine.gpus[0]
    if (flags.device !== undefined && [flags.device].flat().includes('cpu')) {
      throw invalidArgument('a GPU, of which it measures the link,', 'device', flags.device, OF_THE_CPU)
    }
    if (!gpu) {
      throw new MillraceError('DEVICE_UNAVAILABLE', {
        message: `bench stream needs a GPU: ${machine.gpuReason}`,
        remedy: OF_THE_CPU,
      })
    }
    const linkBytesPerSecond = await native.measureLinkBandwidth(0)
    const report: StreamReport = {
      model: name,
      gpu: gpu.name,
      calibrated: gpu.calibration.calibrated,
      linkBytesPerSecond,
      prompt: flags.prompt,
      tokens: flags.tokens,
      head: flags.head,
      date: new Date().toISOString().slice(0, 10),
      runs: [],
    }
    const calibrated = report.calibrated ? '' : ', not calibrated: predictions are guesses'
    terminal.note(`${report.gpu}, link ${(linkBytesPerSecond / 1e9).toFixed(2)} GB/s${calibrated}`)
    await terminal.write(header())
    for (const batch of flags.batches) {
      for (const budget of flags.budgets ?? (await defaultBudgets(name, flags, batch))) {
        const run = await measure(name, flags, { budget, batch }, gpu.calibration, linkBytesPerSecond, terminal)
        if (!run) continue
        report.runs.push(run)
        await terminal.write(line(run))
      }
    }
    await writeOutput('--json', flags.json, () => `${JSON.stringify(report, null, 2)}\n`)
    await writeOutput('--html', flags.html, () => streamPage(report))
  })
}

function checkCounts(flags: Flags): void {
  const counts = { prompt: [flags.prompt], tokens: [flags.tokens], batches: flags.batches }
  for (const [name, values] of Object.entries(counts)) {
    const least = name === 'tokens' ? 2 : 1
    const wrong = values.find((value) => !Number.isInteger(value) || value < least || value > 65536)
    if (wrong === undefined) continue
    throw invalidArgument(`integers from ${least} to 65536`, name, wrong)
  }
}

interface Point {
  budget: string
  batch: number
}

function optionsOf(flags: Flags, { budget, batch }: Point): PlanOptions {
  const word = budget === 'streamed' || budget === 'resident'
  return {
    ...planOptions({ ...flags, ...(word ? { placement: budget } : { vramBudget: budget }) }),
    device: flags.device ?? 'cuda',
    contextLength: flags.context ?? flags.prompt + flags.tokens,
    coExecute: flags.cpu === 'on',
    maxSequences: batch,
    batch,
  }
}

/** From all streamed to all resident, as far as the GPU reaches. */
async function defaultBudgets(name: string, flags: Flags, batch: number): Promise<string[]> {
  const head = flags.head
  const { vramBytes } = await plan(name, { ...optionsOf(flags, { budget: 'streamed', batch }), head })
  const most = await plan(name, { ...optionsOf(flags, { budget: '95%', batch }), head })
  const between = [1, 2, 3].map((quarter) => vramBytes + ((most.vramBytes - vramBytes) * quarter) / 4)
  const resident = most.units.every((unit) => unit.home === 'resident')
  return ['streamed', ...between.map((bytes) => `${Math.round(bytes / 2 ** 20)}MiB`), resident ? 'resident' : '95%']
}

async function open(name: string, head: Flags['head'], options: PlanOptions, signal: AbortSignal): Promise<Model> {
  const spec = shapeOf(name)
  if (!spec) return load(name, { ...options, head, signal })
  // Random weights mean nothing at any position.
  const maxPosition = Math.max(spec.maxPosition, options.contextLength ?? 0)
  return loadSynthetic(name, { ...spec, maxPosition }, { ...options, signal }, head === 'stored' ? {} : { head })
}

async function measure(
  name: string,
  flags: Flags,
  point: Point,
  calibration: Calibration,
  link: number,
  terminal: Terminal,
): Promise<StreamRun | undefined> {
  const { prompt, tokens } = flags
  const { batch } = point
  const began = performance.now()
  let model: Model
  try {
    model = await open(name, flags.head, optionsOf(flags, point), terminal.signal)
  } catch (error) {
    if (!MillraceError.isInstance(error) || error.code !== 'OUT_OF_MEMORY') throw error
    terminal.note(`${point.budget} at batch ${batch}: ${error.message}`)
    return undefined
  }
  await using _closing = model
  const loadSeconds = (performance.now() - began) / 1000
  let salt = 0
  const generate = async (maxTokens: number) => {
    const { vocab } = model.spec
    const before = model.stats.streaming.copiedBytes
    const start = performance.now()
    const running = Array.from({ length: batch }, () => {
      // No two begin alike: nothing is found in the prefix cache.
      const seed = ++salt
      const ids = Int32Array.from({ length: prompt }, (_, index) => (seed * 7919 + index * 104729) % vocab)
      return model.generate(ids, { maxTokens, ignoreEos: true, signal: terminal.signal }).result
    })
    await Promise.all(running)
    return { seconds: (performance.now() - start) / 1000, bytes: model.stats.streaming.copiedBytes - before }
  }
  await settle(model, () => generate(4))
  const first = await generate(1)
  const whole = await generate(tokens)
  const decodeSeconds = Math.max(whole.seconds - first.seconds, 1e-9)
  const made = model.plan
  const predicted = predictDecode(
    made.units,
    made.ringBytes,
    { rows: batch, context: prompt + tokens / 2, kvBytesPerToken: made.kvBytesPerToken, threads: made.threads },
    calibration,
  )
  return {
    ...point,
    homes: describeHomes(made),
    plannedVramBytes: made.vramBytes,
    vramBytes: model.memory.vramBytes,
    streamedBytesPerPass: made.streamedBytesPerPass,
    predictedTokensPerSecond: predicted.tokensPerSecond,
    tokensPerSecond: (batch * (tokens - 1)) / decodeSeconds,
    wallTokensPerSecond: (batch * tokens) / whole.seconds,
    predictedPrefillTokensPerSecond: prefillOf(made),
    prefillTokensPerSecond: (batch * prompt) / first.seconds,
    linkShare: (made.streamedBytesPerPass * (tokens - 1)) / decodeSeconds / (link * made.devices.length),
    boundBy: predicted.boundBy,
    loadSeconds,
  }
}

const prefillOf = (made: ModelPlan) => made.prediction.prefill.tokensPerSecond

const COLUMNS: [string, number, (run: StreamRun) => string][] = [
  ['batch', 5, (run) => String(run.batch)],
  ['budget', 9, (run) => run.budget],
  ['VRAM GiB', 8, (run) => (run.vramBytes / 2 ** 30).toFixed(2)],
  ['planned', 7, (run) => (run.plannedVramBytes / 2 ** 30).toFixed(2)],
  ['predicted', 9, (run) => significant(run.predictedTokensPerSecond)],
  ['tok/s', 8, (run) => significant(run.tokensPerSecond)],
  ['off', 6, (run) => `${((run.predictedTokensPerSecond / run.tokensPerSecond - 1) * 100).toFixed(1)} %`],
  ['wall', 8, (run) => significant(run.wallTokensPerSecond)],
  ['link', 6, (run) => `${(run.linkShare * 100).toFixed(1)} %`],
  ['bound', 5, (run) => run.boundBy],
  ['prefill', 7, (run) => significant(run.prefillTokensPerSecond)],
]

function header(): string {
  return `${COLUMNS.map(([name, width]) => name.padStart(width)).join('  ')}  homes\n`
}

function line(run: StreamRun): string {
  return `${COLUMNS.map(([, width, text]) => text(run).padStart(width)).join('  ')}  ${run.homes}\n`
}

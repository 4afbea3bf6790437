/** bench decode, bench prefill: a whole model through generate(), by the wall clock. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { WEIGHT_TYPES, type WeightType } from '../binding.ts'
import { readKernel } from '../lab/kernel.ts'
import { openLab } from '../lab/lab.ts'
import type { Model } from '../model/model.ts'
import { findShape, requireShape, SHAPES } from '../model/shapes.ts'
import { loadSynthetic } from '../model/synthetic.ts'
import { invalidArgument, nearest } from '../options/validate.ts'
import { formatTable } from './format.ts'
import { addLoadFlags, loadModel, parseNumber, planOptions, type RunFlags } from './options.ts'
import { checkOutput, endTrace } from './output.ts'
import type { Terminal } from './terminal.ts'

type What = 'decode' | 'prefill'

export const BENCHES = ['decode', 'prefill', 'drafts', 'experts', 'stream', 'kernel']

interface Flags extends RunFlags {
  batch: number
  prompt?: number
  promptTokens?: number
  tokens: number
  runs: number
  head: WeightType
  code: WeightType | 'q4_k_m'
  group: number
  kernel?: Record<string, string>
  json?: boolean
}

/** What one run found. */
interface Figures {
  /** Of all requests, once each has its first. */
  decodeTokensPerSecond: number
  /** Of all requests, by the whole time from the prompts to the last token. */
  wholeTokensPerSecond: number
  /** Of all prompts, until the last of their first tokens. */
  prefillTokensPerSecond: number
  firstTokenMs: number
  /** A step's time, head and sampling included, over the layers. */
  decodeMicrosecondsPerLayer: number
  /** The prompts' time over the layers. */
  prefillMicrosecondsPerLayer: number
  /** Read by linears while decoding, and while the prompts were computed. */
  weightBytesPerSecond: number
  prefillWeightBytesPerSecond: number
  /** Copied into the ring while decoding. */
  copiedBytesPerSecond: number
  /** Of the layers' linears, for the prompts. */
  prefillFlops: number
}

const DEFAULTS = { decode: { prompt: 64, tokens: 64 }, prefill: { prompt: 512, tokens: 1 } }

export function benchModelCommand(terminal: Terminal, what: What): Command {
  const collect = (text: string, all: Record<string, string> | undefined) => {
    const [, operation, path] = /^(\w+)=(.+)$/.exec(text) ?? []
    if (operation === undefined) throw new InvalidArgumentError('Expected <operation>=<file>.')
    return { ...all, [operation]: path! }
  }
  const { prompt, tokens } = DEFAULTS[what]
  const command = new Command(what)
    .description(
      what === 'decode'
        ? 'tokens a second of requests that decode together, through generate()'
        : 'tokens a second of prompts, until their first token, through generate()',
    )
    .argument(
      '<model>',
      `folder of a checkpoint, a GGUF file, or a shape with random weights: ${Object.keys(SHAPES).join(', ')}`,
    )
    .addOption(new Option('--batch <count>', 'requests at once').argParser(parseNumber).default(1))
    .addOption(new Option('--prompt <count>', `tokens of each prompt (${prompt})`).argParser(parseNumber))
    .addOption(new Option('--prompt-tokens <count>').argParser(parseNumber).hideHelp())
    .addOption(new Option('--runs <count>', 'take the median of this many runs').argParser(parseNumber).default(3))
    .addOption(
      new Option('--head <type>', 'weights of the head; a checkpoint keeps its own with f16')
        .choices(['q4', 'q8', 'f16', 'q6_k'])
        .default('f16'),
    )
    .addOption(
      new Option('--code <name>', "of a shape: the layers' weights").choices([...WEIGHT_TYPES, 'q4_k_m']).default('q4'),
    )
    .addOption(
      new Option('--group <count>', 'of a shape: input features that share a scale')
        .argParser(parseNumber)
        .default(128),
    )
    .addOption(
      new Option(
        '--kernel <operation=file>',
        'a cubin of your own in the place of an operation; may be given again',
      ).argParser(collect),
    )
    .option('--json', 'print as JSON')
  const counted = new Option('--tokens <count>', 'tokens of each answer').argParser(parseNumber).default(tokens)
  command.addOption(what === 'decode' ? counted : counted.hideHelp())
  addLoadFlags(command, 'tokens of each prompt and answer together, in the place of --prompt')
  return command.action(async (name: string, flags: Flags) => {
    const shape = { batch: flags.batch, prompt: promptOf(flags, prompt), tokens: flags.tokens }
    checkCounts({ ...shape, runs: flags.runs }, what)
    checkName(name)
    await using model = await openBench(name, { ...flags, context: shape.prompt + shape.tokens }, terminal)
    const runs: Figures[] = []
    // The first one pages in, warms caches, captures graphs.
    for (let run = -1; run < flags.runs; run++) {
      const figures = await measure(model, shape, run + 1, terminal)
      if (run >= 0) runs.push(figures)
    }
    await endTrace(model, flags)
    const peak = await readBandwidth(model)
    const figures = medians(runs)
    const bytes = what === 'decode' ? figures.weightBytesPerSecond : figures.prefillWeightBytesPerSecond
    const share = bytes / peak
    const settings = { ...shape, model: name, device: model.plan.device, plan: model.plan }
    await terminal.write(
      flags.json
        ? `${JSON.stringify({ ...figures, readBytesPerSecond: peak, share, runs, ...settings })}\n`
        : formatTable(what === 'decode' ? decodeTable() : prefillTable()),
    )

    function decodeTable(): [string, string][] {
      const spread = runs.map((run) => run.decodeTokensPerSecond)
      const { copiedBytesPerSecond } = figures
      return [
        [
          'decode',
          `${figures.decodeTokensPerSecond.toFixed(1)} tok/s at batch ${shape.batch} (${runs.length} runs, ${Math.min(...spread).toFixed(1)} to ${Math.max(...spread).toFixed(1)}), ${figures.decodeMicrosecondsPerLayer.toFixed(1)} us a layer`,
        ],
        [
          'with the prompt',
          `${figures.wholeTokensPerSecond.toFixed(1)} tok/s, ${shape.prompt} + ${shape.tokens} tokens, the first after ${figures.firstTokenMs.toFixed(1)} ms`,
        ],
        ['weights read', `${gigabytes(bytes)} while decoding`],
        ...(copiedBytesPerSecond > 0
          ? [['streamed', `${gigabytes(copiedBytesPerSecond)} while decoding`] as [string, string]]
          : []),
        ['read peak', `${gigabytes(peak)}${peakNote(model)}: share ${percent(share)}${share > 1 ? CACHED : ''}`],
      ]
    }

    function prefillTable(): [string, string][] {
      const spread = runs.map((run) => run.prefillTokensPerSecond)
      return [
        [
          'prefill',
          `${figures.prefillTokensPerSecond.toFixed(1)} tok/s, ${shape.batch} x ${shape.prompt} tokens (${runs.length} runs, ${Math.min(...spread).toFixed(1)} to ${Math.max(...spread).toFixed(1)}), ${figures.prefillMicrosecondsPerLayer.toFixed(1)} us a layer`,
        ],
        ['first token', `${figures.firstTokenMs.toFixed(1)} ms`],
        ['linears', `${(figures.prefillFlops / 1e12).toFixed(2)} TFLOP/s of the layers' linears alone`],
        ['weights read', gigabytes(bytes)],
        ['read peak', `${gigabytes(peak)}${peakNote(model)}: share ${percent(share)}`],
      ]
    }
  })
}

const CACHED = ' (caches hold what is read)'
const gigabytes = (bytesPerSecond: number) => `${(bytesPerSecond / 1e9).toFixed(2)} GB/s`
const percent = (share: number) => `${(share * 100).toFixed(0)} %`
const peakNote = (model: Model) => (model.plan.device === 'cpu' ? ` with ${model.plan.threads} threads` : '')

function promptOf(flags: Flags, fallback: number): number {
  const prompt = flags.prompt ?? flags.promptTokens
  if (flags.context === undefined) return prompt ?? fallback
  if (prompt === undefined) return flags.context - flags.tokens
  throw invalidArgument('one of --prompt and --context', 'context', flags.context, 'a context is prompt and answer')
}

function checkCounts(counts: { batch: number; prompt: number; tokens: number; runs: number }, what: What): void {
  const least = { batch: 1, prompt: 1, tokens: what === 'decode' ? 2 : 1, runs: 1 }
  for (const [name, min] of Object.entries(least)) {
    const value = counts[name as keyof typeof least]
    if (Number.isInteger(value) && value >= min) continue
    throw invalidArgument(`an integer of at least ${min}`, name, value)
  }
}

/** A shape that is misspelt is none of a folder that is missing. */
export function checkName(name: string): void {
  if (existsSync(name) || /[./\\]/.test(name) || findShape(name)) return
  // Where no subcommand is named, decode has what was meant as one.
  const likely = nearest(name, BENCHES)
  if (likely !== undefined) {
    throw invalidArgument(
      'decode, prefill, drafts, experts, stream, kernel or a model',
      'bench',
      name,
      `did you mean '${likely}'?`,
    )
  }
  requireShape(name, 'a folder or one')
}

/** A checkpoint, or a shape; `maxSequences`: that may run at once. */
export async function openBench(
  name: string,
  flags: RunFlags & Pick<Flags, 'batch' | 'head' | 'code' | 'group' | 'kernel'>,
  terminal: Terminal,
  maxSequences = flags.batch,
  draft?: string,
): Promise<Model> {
  const spec = findShape(name)
  // No prompt is to be found in the cache of an earlier run.
  const options = { maxSequences, batch: flags.batch, prefixReuse: false }
  // A folder of that name is meant rather than the shape.
  if (spec === undefined || existsSync(join(name, 'config.json'))) {
    if (flags.head !== 'f16' && flags.head !== 'q4' && flags.head !== 'q8') {
      throw invalidArgument("of a checkpoint 'q4', 'q8' or 'f16'", 'head', flags.head)
    }
    const head = flags.head === 'f16' ? 'stored' : flags.head
    return loadModel(name, flags, terminal, { ...options, head, kernels: flags.kernel, draft })
  }
  terminal.quiet = flags.quiet ?? false
  await checkOutput('--trace', flags.trace)
  const progress = terminal.progress(`${name} (random weights)`)
  const model = await loadSynthetic(
    name,
    // Contexts beyond what the model was made for are for timing alone, as the weights are.
    { ...spec, maxPosition: Math.max(spec.maxPosition, flags.context!) },
    {
      ...planOptions(flags),
      ...options,
      draft: draft === undefined ? undefined : { shape: requireShape(draft) },
      signal: terminal.signal,
      kernels: await Promise.all(Object.entries(flags.kernel ?? {}).map((entry) => readKernel(...entry))),
    },
    { layers: flags.code, head: flags.head, group: flags.group },
  )
  progress.done()
  if (flags.trace !== undefined) await model.trace(flags.trace)
  return model
}

async function readBandwidth(model: Model): Promise<number> {
  await using lab = await openLab({ device: model.plan.device, threads: model.plan.threads })
  return lab.readBandwidth()
}

function medians(runs: readonly Figures[]): Figures {
  const names = Object.keys(runs[0]!) as (keyof Figures)[]
  const median = (name: keyof Figures) =>
    runs.map((run) => run[name]).sort((a, b) => a - b)[Math.floor(runs.length / 2)]!
  return Object.fromEntries(names.map((name) => [name, median(name)])) as unknown as Figures
}

/**
 * One batch twice: for one token, and for all. Decoding begins when the last request has its first token; what requests
 * had before that is taken off in proportion. Prompts are of tokens spread over the vocabulary, others in every run; the
 * answers do not matter.
 */
async function measure(
  model: Model,
  shape: { batch: number; prompt: number; tokens: number },
  salt: number,
  terminal: Terminal,
): Promise<Figures> {
  const { vocab, layers } = model.spec
  const run = async (maxTokens: number, turn: number) => {
    const prompts = Array.from({ length: shape.batch }, (_, request) =>
      Int32Array.from(
        { length: shape.prompt },
        (_, index) => ((request + 1) * 7919 + index * 104729 + (2 * salt + turn) * 15485863) % vocab,
      ),
    )
    const before = model.stats
    const began = performance.now()
    const options = { maxTokens, ignoreEos: true, signal: terminal.signal }
    const results = await Promise.all(prompts.map((prompt) => model.generate(prompt, options).result))
    const ms = performance.now() - began
    const { stats } = model
    return {
      ms,
      timings: results.map(({ timings }) => timings),
      steps: stats.steps - before.steps,
      bytes: stats.weightBytesRead - before.weightBytesRead,
      copied: stats.streaming.copiedBytes - before.streaming.copiedBytes,
    }
  }
  const first = await run(1, 0)
  const whole = shape.tokens > 1 ? await run(shape.tokens, 1) : first
  const lastFirst = Math.max(...whole.timings.map(({ firstTokenMs }) => firstTokenMs))
  const seconds = Math.max(whole.ms - lastFirst, 1e-3) / 1e3
  // Of a request's tokens after its first, those that came after the last request's first.
  const counted = whole.timings.map(({ firstTokenMs, totalMs }) =>
    totalMs > lastFirst ? (totalMs - lastFirst) / (totalMs - firstTokenMs) : 0,
  )
  const part = counted.reduce((sum, share) => sum + share, 0) / shape.batch
  const { hidden, heads, kvHeads, headDim, intermediate } = model.spec
  const layerWeights = hidden * headDim * (2 * heads + 2 * kvHeads) + 3 * hidden * intermediate
  const promptTokens = shape.batch * shape.prompt
  const prefillSeconds = first.ms / 1e3
  return {
    decodeTokensPerSecond: (part * shape.batch * (shape.tokens - 1)) / seconds,
    wholeTokensPerSecond: (shape.batch * shape.tokens) / (whole.ms / 1e3),
    prefillTokensPerSecond: promptTokens / prefillSeconds,
    firstTokenMs: first.ms,
    decodeMicrosecondsPerLayer: (seconds / Math.max(1, part * (shape.tokens - 1)) / layers) * 1e6,
    prefillMicrosecondsPerLayer: (prefillSeconds / layers) * 1e6,
    weightBytesPerSecond: (part * (whole.bytes - first.bytes)) / seconds,
    prefillWeightBytesPerSecond: first.bytes / prefillSeconds,
    copiedBytesPerSecond: (part * Math.max(0, whole.copied - first.copied)) / seconds,
    prefillFlops: (2 * layerWeights * layers * promptTokens) / prefillSeconds,
  }
}

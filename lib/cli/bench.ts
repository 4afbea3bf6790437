import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { Command, Option } from 'commander'
import { addon } from '../binding.ts'
import type { Model } from '../model/model.ts'
import { loadSynthetic, SHAPES } from '../model/synthetic.ts'
import { invalidArgument } from '../options.ts'
import { formatTable } from './format.ts'
import { addLoadFlags, type LoadFlags, loadModel, parseNumber, planOptions } from './options.ts'
import type { Terminal } from './terminal.ts'

interface Flags extends LoadFlags {
  batch: number
  promptTokens: number
  tokens: number
  runs: number
  head: 'q4' | 'f16'
  json?: boolean
}

interface Figures {
  prefillTokensPerSecond: number
  decodeTokensPerSecond: number
  /** Read by linears while decoding. */
  weightBytesPerSecond: number
}

export function benchCommand(terminal: Terminal): Command {
  const command = new Command('bench')
    .description('decode and prefill speed of a model beside the DRAM bandwidth measured in the same run')
    .argument('<model>', `folder of a checkpoint, or a shape with random weights: ${Object.keys(SHAPES).join(', ')}`)
    .addOption(new Option('--batch <count>', 'requests at once').argParser(parseNumber).default(1))
    .addOption(new Option('--prompt-tokens <count>', 'tokens of each prompt').argParser(parseNumber).default(128))
    .addOption(new Option('--tokens <count>', 'tokens of each answer').argParser(parseNumber).default(64))
    .addOption(new Option('--runs <count>', 'take the median of this many runs').argParser(parseNumber).default(3))
    .addOption(new Option('--head <type>', 'of a shape: weights of its head').choices(['q4', 'f16']).default('f16'))
    .option('--json', 'print as JSON')
  addLoadFlags(command)
  return command.action(async (name: string, flags: Flags) => {
    checkCounts(flags)
    const context = flags.context ?? flags.promptTokens + flags.tokens
    await using model = await open(name, { ...flags, context }, terminal)
    await measure(model, flags, terminal) // pages in, caches warm
    const runs: Figures[] = []
    for (let run = 0; run < flags.runs; run++) runs.push(await measure(model, flags, terminal))
    const dram = await addon().measureDramBandwidth(model.plan.threads)
    const median = (of: (figures: Figures) => number) =>
      runs.map(of).sort((a, b) => a - b)[Math.floor(runs.length / 2)]!
    const figures: Figures = {
      prefillTokensPerSecond: median((run) => run.prefillTokensPerSecond),
      decodeTokensPerSecond: median((run) => run.decodeTokensPerSecond),
      weightBytesPerSecond: median((run) => run.weightBytesPerSecond),
    }
    const share = figures.weightBytesPerSecond / dram
    const decode = runs.map((run) => run.decodeTokensPerSecond)
    await terminal.write(
      flags.json
        ? `${JSON.stringify({ ...figures, dramBytesPerSecond: dram, share, runs, batch: flags.batch, promptTokens: flags.promptTokens, tokens: flags.tokens, plan: model.plan })}\n`
        : formatTable([
            [
              'decode',
              `${figures.decodeTokensPerSecond.toFixed(1)} tok/s at batch ${flags.batch} (${runs.length} runs, ${Math.min(...decode).toFixed(1)} to ${Math.max(...decode).toFixed(1)})`,
            ],
            [
              'prefill',
              `${figures.prefillTokensPerSecond.toFixed(1)} tok/s, ${flags.batch} x ${flags.promptTokens} tokens`,
            ],
            ['weights read', `${(figures.weightBytesPerSecond / 1e9).toFixed(2)} GB/s while decoding`],
            [
              'DRAM read',
              `${(dram / 1e9).toFixed(2)} GB/s with ${model.plan.threads} threads: share ${(share * 100).toFixed(0)} %${share > 1 ? ' (caches hold what is read)' : ''}`,
            ],
          ]),
    )
  })
}

async function open(name: string, flags: Flags, terminal: Terminal): Promise<Model> {
  const spec = Object.hasOwn(SHAPES, name) ? SHAPES[name] : undefined
  // A folder of that name is meant rather than the shape.
  if (spec === undefined || existsSync(join(name, 'config.json'))) {
    return loadModel(name, flags, terminal, { maxSequences: flags.batch, batch: flags.batch })
  }
  terminal.quiet = flags.quiet ?? false
  const progress = terminal.progress(`${name} (random weights)`)
  const options = { ...planOptions(flags), maxSequences: flags.batch, batch: flags.batch, signal: terminal.signal }
  const model = await loadSynthetic(name, spec, options, { head: flags.head })
  progress.done()
  return model
}

function checkCounts(flags: Flags): void {
  const least = { batch: 1, promptTokens: 1, tokens: 2, runs: 1 }
  for (const [name, min] of Object.entries(least)) {
    const value = flags[name as keyof typeof least]
    if (Number.isInteger(value) && value >= min) continue
    throw invalidArgument(`an integer of at least ${min}`, name, value, 'see millrace bench --help')
  }
}

/**
 * One batch twice: for one token, and for all. What the second takes beyond the first is decoding, by the engine's own
 * clock and counters. Prompts are of tokens spread over the vocabulary; the answers do not matter.
 */
async function measure(model: Model, flags: Flags, terminal: Terminal): Promise<Figures> {
  const { vocab } = model.spec
  const prompts = Array.from({ length: flags.batch }, (_, request) =>
    Int32Array.from({ length: flags.promptTokens }, (_, index) => ((request + 1) * 7919 + index * 104729) % vocab),
  )
  const run = async (maxTokens: number) => {
    const before = model.stats.weightBytesRead
    const options = { maxTokens, ignoreEos: true, signal: terminal.signal }
    const results = await Promise.all(prompts.map((prompt) => model.generate(prompt, options).result))
    return {
      seconds: Math.max(...results.map((result) => result.timings.totalMs)) / 1000,
      bytes: model.stats.weightBytesRead - before,
    }
  }
  const prefill = await run(1)
  const whole = await run(flags.tokens)
  const decodeSeconds = Math.max(whole.seconds - prefill.seconds, 1e-9)
  return {
    prefillTokensPerSecond: (flags.batch * flags.promptTokens) / prefill.seconds,
    decodeTokensPerSecond: (flags.batch * (flags.tokens - 1)) / decodeSeconds,
    weightBytesPerSecond: (whole.bytes - prefill.bytes) / decodeSeconds,
  }
}

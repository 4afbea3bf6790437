/** `millrace bench experts`: mixtures on demand by routing that is drawn or replayed, predicted beside measured. */
import { readFile } from 'node:fs/promises'
import { Command, InvalidArgumentError, Option } from 'commander'
import { addon } from '../binding.ts'
import { buildDecoder } from '../checkpoint/decoder.ts'
import { readMachine } from '../model/machine.ts'
import type { Model } from '../model/model.ts'
import { requireShape, SHAPES } from '../model/shapes.ts'
import { loadSynthetic, planSynthetic } from '../model/synthetic.ts'
import type { PlanOptions } from '../options/model.ts'
import { invalidArgument } from '../options/validate.ts'
import type { PlannedExperts } from '../plan/experts.ts'
import { predictionOf } from '../plan/plan.ts'
import {
  type MixtureSizes,
  parseRoutes,
  type Routes,
  replayHits,
  routesThatHit,
  uniformRoutes,
} from '../plan/routes.ts'
import { formatTable } from './format.ts'
import { addLoadFlags, parseNumber, planOptions, type RunFlags } from './options.ts'
import type { Terminal } from './terminal.ts'

interface Flags extends RunFlags {
  batch: number
  prompt: number
  tokens: number
  runs: number
  hits?: number
  replay?: string
  json?: boolean
}

/** Rows whose choices are drawn; others take them again. */
const DRAWN = 4096

const MIXTURES = Object.keys(SHAPES).filter((name) => SHAPES[name]!.layer(0).mixture !== undefined)

export function benchExpertsCommand(terminal: Terminal): Command {
  const share = (text: string) => {
    const value = parseNumber(text)
    if (!(value > 0 && value <= 1)) throw new InvalidArgumentError('Expected a share from 0 to 1.')
    return value
  }
  const command = new Command('experts')
    .description('mixtures of experts on demand: tokens a second by what tokens choose, and what the plan expects')
    .argument('<shape>', `of random weights: ${MIXTURES.join(', ')}`)
    .addOption(new Option('--batch <count>', 'requests at once').argParser(parseNumber).default(1))
    .addOption(new Option('--prompt <count>', 'tokens of each prompt').argParser(parseNumber).default(16))
    .addOption(new Option('--tokens <count>', 'tokens of each answer').argParser(parseNumber).default(128))
    .addOption(new Option('--runs <count>', 'take the median of this many runs').argParser(parseNumber).default(3))
    .addOption(
      new Option('--hits <share>', 'choices of which a cache by recency finds this share (default: even)').argParser(
        share,
      ),
    )
    .addOption(new Option('--replay <file>', 'choices of a log that model.traceRoutes() wrote').conflicts('hits'))
    .option('--json', 'print as JSON')
  addLoadFlags(command)
  return command.action(async (name: string, flags: Flags) => {
    const shape = requireShape(name)
    const { mixture } = shape.layer(shape.layers - 1)
    if (!mixture) throw invalidArgument(`one of ${MIXTURES.join(', ')}`, 'shape', name)
    const least = { batch: 1, prompt: 1, tokens: 2, runs: 1 }
    for (const [count, min] of Object.entries(least)) {
      const value = flags[count as keyof typeof least]
      if (!Number.isInteger(value) || value < min) throw invalidArgument(`an integer of at least ${min}`, count, value)
    }
    terminal.quiet = flags.quiet ?? false
    const mixtures = Array.from({ length: shape.layers }, (_, layer) => shape.layer(layer).mixture).filter(Boolean)
    const sizes = { mixtures: mixtures.length, experts: mixture.experts, chosen: mixture.chosen }
    const context = flags.prompt + flags.tokens
    const options = {
      ...planOptions({ ...flags, experts: flags.experts ?? 'demand', context: flags.context ?? context }),
      maxSequences: flags.batch,
      batch: flags.batch,
      prefixReuse: false,
      signal: terminal.signal,
    }
    const routes = await chosen(sizes, flags, name, options)
    const progress = terminal.progress(`${name} (random weights)`)
    await using model = await loadSynthetic(name, shape, {
      ...options,
      drawnRoutes: { entries: routes.entries, experts: routes.ids },
    })
    progress.done()
    const runs: Measured[] = []
    for (let run = -1; run < flags.runs; run++) {
      const figures = await measure(model, flags)
      if (run >= 0) runs.push(figures)
    }
    const median = (of: (run: (typeof runs)[number]) => number) =>
      runs.map(of).sort((a, b) => a - b)[Math.floor(runs.length / 2)]!
    const tokensPerSecond = median((run) => run.tokensPerSecond)
    const hitRate = median((run) => run.hitRate)
    const { plan } = model
    const { program } = buildDecoder(shape)
    // What the routing makes of the cache is not the plan's to know; how fast that is, it says.
    const units = plan.units.map((unit) => (unit.home === 'demand' ? { ...unit, hitRate } : unit))
    const { batch: predicted } = predictionOf(program, { ...plan, units }, readMachine(addon()))
    const off = predicted.tokensPerSecond / tokensPerSecond - 1
    const replayed = replayHits(routes, plan.experts?.frames ?? 0)
    const answeredRate = median((run) => run.answeredRate)
    const found = {
      tokensPerSecond,
      hitRate,
      answeredRate,
      promotedBytesPerSecond: median((run) => run.promotedBytesPerSecond),
    }
    await terminal.write(
      flags.json
        ? `${JSON.stringify({ model: name, batch: flags.batch, ...found, replayedHitRate: replayed, predicted, runs, plan })}\n`
        : formatTable([
            [
              'decode',
              `${tokensPerSecond.toFixed(1)} tok/s at batch ${flags.batch} (${runs.map((run) => run.tokensPerSecond.toFixed(1)).join(', ')})`,
            ],
            ['experts', describe(plan.experts, found)],
            ['cache by recency', `finds ${percent(replayed)} of these choices of one row a pass`],
            [
              'plan',
              `${predicted.tokensPerSecond.toFixed(1)} tok/s at that share: ${off >= 0 ? '+' : ''}${percent(off)}${predicted.boundBy === 'link' ? ', bound by the link' : ''}`,
            ],
          ]),
    )
  })
}

type Measured = Awaited<ReturnType<typeof measure>>

const percent = (share: number) => `${(share * 100).toFixed(0)} %`

function describe(
  experts: PlannedExperts | undefined,
  {
    hitRate,
    answeredRate,
    promotedBytesPerSecond,
  }: Pick<Measured, 'hitRate' | 'answeredRate' | 'promotedBytesPerSecond'>,
): string {
  if (!experts) return 'all in their places: none are on demand'
  return `${experts.frames} of ${experts.count} fit the cache, ${percent(hitRate)} were found there, ${experts.cpu ? `${percent(answeredRate)} answered by the CPU, ` : ''}${(promotedBytesPerSecond / 1e9).toFixed(1)} GB/s copied into it`
}

async function chosen(
  sizes: MixtureSizes,
  { hits, replay }: Flags,
  name: string,
  options: PlanOptions,
): Promise<Routes> {
  if (replay !== undefined) {
    const routes = parseRoutes(await readFile(replay), replay)
    if (routes.mixtures === sizes.mixtures && routes.chosen === sizes.chosen && routes.experts <= sizes.experts)
      return routes
    throw invalidArgument(
      `a log of ${sizes.mixtures} mixtures of ${sizes.experts}, of which ${sizes.chosen} are chosen,`,
      'replay',
      replay,
    )
  }
  if (hits === undefined) return uniformRoutes(sizes, DRAWN)
  const { experts } = planSynthetic(requireShape(name), options)
  return routesThatHit(sizes, DRAWN / 4, experts?.frames ?? 0, hits)
}

/** Of all requests, from the last one's first token on. */
async function measure(model: Model, { batch, prompt, tokens }: Flags) {
  const ask = async (maxTokens: number) => {
    const before = model.stats.experts
    const began = performance.now()
    await Promise.all(
      Array.from({ length: batch }, (_, request) => {
        const ids = Int32Array.from(
          { length: prompt },
          (_, at) => ((request + 1) * 7919 + at * 104729) % model.spec.vocab,
        )
        return model.generate(ids, { maxTokens, ignoreEos: true }).result
      }),
    )
    const seconds = (performance.now() - began) / 1e3
    const { hits, mapped, cpu, promotedBytes } = model.stats.experts
    return {
      seconds,
      hits: hits - before.hits,
      mapped: mapped - before.mapped,
      answered: cpu - before.cpu,
      promoted: promotedBytes - before.promotedBytes,
    }
  }
  const first = await ask(1)
  const whole = await ask(tokens)
  const seconds = Math.max(whole.seconds - first.seconds, 1e-6)
  const asked = whole.hits + whole.mapped + whole.answered
  return {
    tokensPerSecond: (batch * (tokens - 1)) / seconds,
    hitRate: asked === 0 ? 1 : whole.hits / asked,
    answeredRate: asked === 0 ? 0 : whole.answered / asked,
    promotedBytesPerSecond: whole.promoted / seconds,
  }
}

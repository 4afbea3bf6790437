/** bench drafts: what tokens that are guessed ahead bring, by how often they are right. */
import { readFile } from 'node:fs/promises'
import { Command, InvalidArgumentError, Option } from 'commander'
import { WEIGHT_TYPES, type WeightType } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { foresee } from '../model/foreseen.ts'
import type { Model } from '../model/model.ts'
import { SHAPES } from '../model/shapes.ts'
import type { Speculation } from '../options/speculation.ts'
import { invalidArgument } from '../options/validate.ts'
import { checkName, openBench } from './bench_model.ts'
import { addLoadFlags, parseNumber, type RunFlags } from './options.ts'
import { endTrace } from './output.ts'
import { significant } from './plan.ts'
import type { Terminal } from './terminal.ts'

type Length = number | 'auto'

interface Flags extends RunFlags {
  acceptance: number[]
  lengths: Length[]
  text?: string
  chat?: boolean
  draft?: string
  batch: number
  prompt: number
  tokens: number
  runs: number
  head: WeightType
  code: WeightType
  group: number
  json?: boolean
}

/** The answers of one batch. */
interface Run {
  tokens: Int32Array
  /** Of the whole batch, after the first token of the last request. */
  tokensPerSecond: number
  /** Of a sequence, in a pass of decoding. */
  tokensPerPass: number
  drafted: number
  accepted: number
  /** Of the time of decoding, what the draft model's passes took; 0 without one. */
  draftShare: number
}

/** One acceptance and length: the medians of its runs. */
export interface DraftRun {
  /** That a draft was right; of n-grams, as it turned out. */
  acceptance: number
  length: Length
  tokensPerPass: number
  draftedTokens: number
  acceptedTokens: number
  tokensPerSecond: number
  /** Over that without drafts. */
  gain: number
  /** `gain` over `tokensPerPass`: 1 where drafts cost nothing. */
  share: number
  draftShare: number
}

export function benchDraftsCommand(terminal: Terminal): Command {
  const list = (text: string) => text.split(',').map((part) => parseNumber(part.trim()))
  const lengths = (text: string) =>
    text.split(',').map((part): Length => (part.trim() === 'auto' ? 'auto' : parseNumber(part.trim())))
  const command = new Command('drafts')
    .description('tokens a pass and a second with tokens guessed ahead, beside those without')
    .argument(
      '<model>',
      `folder of a checkpoint, a GGUF file, or a shape with random weights: ${Object.keys(SHAPES).join(', ')}`,
    )
    .addOption(
      new Option(
        '--acceptance <shares>',
        'drafts that are right so often, of an answer that is known already, with commas',
      )
        .argParser(list)
        .default([0.6, 0.8, 0.9], '0.6,0.8,0.9'),
    )
    .addOption(
      new Option('--lengths <counts>', 'drafts of a sequence in a pass, with commas; auto: as many as are worth it')
        .argParser(lengths)
        .default([3, 7, 15, 'auto'], '3,7,15,auto'),
    )
    .addOption(new Option('--text <file>', 'n-grams of this text as the prompt, in the place of --acceptance'))
    .addOption(new Option('--chat', "the text is what a user says: in the form of the model's chats, and whole"))
    .addOption(
      new Option(
        '--draft <model>',
        'a smaller model, or its shape: with --text its drafts, else its passes for the time that they take',
      ),
    )
    .addOption(new Option('--batch <count>', 'requests at once').argParser(parseNumber).default(1))
    .addOption(new Option('--prompt <count>', 'tokens of the prompt').argParser(parseNumber).default(64))
    .addOption(new Option('--tokens <count>', 'tokens of each answer').argParser(parseNumber).default(128))
    .addOption(new Option('--runs <count>', 'take the median of this many runs').argParser(parseNumber).default(3))
    .addOption(new Option('--head <type>', 'weights of the head').choices(['q4', 'q8', 'f16', 'q6_k']).default('f16'))
    .addOption(new Option('--code <name>', "of a shape: the layers' weights").choices([...WEIGHT_TYPES]).default('q4'))
    .addOption(
      new Option('--group <count>', 'of a shape: input features that share a scale')
        .argParser(parseNumber)
        .default(128),
    )
    .option('--json', 'print as JSON')
  addLoadFlags(command)
  return command.action(async (name: string, flags: Flags) => {
    checkFlags(flags)
    checkName(name)
    if (flags.chat && flags.text === undefined) throw invalidArgument('given beside text', 'chat', true)
    const context = flags.chat ? {} : { context: flags.context ?? flags.prompt + flags.tokens }
    await using model = await openBench(name, { ...flags, ...context }, terminal, 2 * flags.batch, flags.draft)
    const prompt = await promptOf(model, flags)
    const answer = (speculation: Speculation, foreseen?: Int32Array) =>
      measure(model, prompt, flags, speculation, foreseen, terminal.signal)
    const passesOfPrompt = await warm(model, prompt, flags, terminal.signal)
    const of = (run: Awaited<ReturnType<typeof answer>>): Run => {
      const { passes, ...rest } = run
      return { ...rest, tokensPerPass: (flags.tokens - 1) / (passes - passesOfPrompt) }
    }
    const before = of(await answer({ method: 'off' }))
    const rows: Omit<DraftRun, 'gain' | 'share'>[] = []
    const acceptances = flags.text === undefined ? flags.acceptance : [undefined]
    for (const acceptance of acceptances) {
      for (const length of flags.lengths) {
        const speculation = speculationOf(length, flags)
        const runs: Run[] = []
        for (let run = 0; run < flags.runs; run++) {
          const foreseen =
            acceptance === undefined ? undefined : spoilt(before.tokens, acceptance, run, model.spec.vocab)
          const found = of(await answer(speculation, foreseen))
          checkSame(before.tokens, found.tokens)
          runs.push(found)
        }
        rows.push(rowOf(acceptance, length, runs))
      }
    }
    const after = of(await answer({ method: 'off' }))
    await endTrace(model, flags)
    const undrafted = (before.tokensPerSecond + after.tokensPerSecond) / 2
    const runs = rows.map((row): DraftRun => {
      const gain = row.tokensPerSecond / undrafted
      return { ...row, gain, share: gain / row.tokensPerPass }
    })
    const settings = { model: name, device: model.plan.device, batch: flags.batch, tokens: flags.tokens }
    await terminal.write(
      flags.json
        ? `${JSON.stringify({ undrafted: [before.tokensPerSecond, after.tokensPerSecond], runs, ...settings, plan: model.plan })}\n`
        : `undrafted  ${significant(before.tokensPerSecond)} tok/s before, ${significant(after.tokensPerSecond)} after; the same tokens in every run\n${table(runs)}`,
    )
  })
}

function checkFlags({ acceptance, lengths, batch, prompt, tokens, runs }: Flags): void {
  const wrong = acceptance.find((share) => !(share >= 0 && share <= 1))
  if (wrong !== undefined) throw invalidArgument('numbers from 0 to 1', 'acceptance', wrong)
  const length = lengths.find((one) => one !== 'auto' && !(Number.isInteger(one) && one >= 1 && one <= 63))
  if (length !== undefined) throw invalidArgument("integers from 1 to 63, or 'auto'", 'lengths', length)
  for (const [name, value] of Object.entries({ batch, prompt, runs, tokens })) {
    const least = name === 'tokens' ? 2 : 1
    if (!Number.isInteger(value) || value < least) throw invalidArgument(`an integer of at least ${least}`, name, value)
  }
}

function speculationOf(length: Length, { draft }: Flags): Speculation {
  if (length === 'auto') return { method: 'auto' }
  return { method: draft === undefined ? 'ngram' : 'draft', tokens: length }
}

async function promptOf(model: Model, { text, chat, prompt }: Flags): Promise<Int32Array> {
  if (text === undefined) return Int32Array.from({ length: prompt }, (_, at) => (7919 + at * 104729) % model.spec.vocab)
  const content = await readFile(text, 'utf8').catch((error: Error) => {
    throw new InvalidArgumentError(error.message)
  })
  if (chat) return model.tokenizer.encodeChat([{ role: 'user', content }], { addGenerationPrompt: true })
  return (await model.tokenizer.encode(content)).slice(0, prompt)
}

/** Answers of one batch, all to the same prompt. */
async function measure(
  model: Model,
  prompt: Int32Array,
  { batch, tokens }: Pick<Flags, 'batch' | 'tokens'>,
  speculation: Speculation,
  foreseen: Int32Array | undefined,
  signal: AbortSignal,
) {
  foresee(model, foreseen)
  const before = model.stats
  const options = { maxTokens: tokens, ignoreEos: true, temperature: 0, speculation, signal }
  const results = await Promise.all(Array.from({ length: batch }, () => model.generate(prompt, options).result))
  const first = Math.max(...results.map(({ timings }) => timings.firstTokenMs))
  const last = Math.max(...results.map(({ timings }) => timings.totalMs))
  const sum = (name: 'draftedTokens' | 'acceptedTokens') =>
    results.reduce((all, { usage }) => all + (usage[name] ?? 0), 0)
  return {
    tokens: Int32Array.from(results[0]!.tokens),
    tokensPerSecond: (batch * (tokens - 1)) / Math.max(1e-6, (last - first) / 1e3),
    passes: model.stats.steps - before.steps,
    draftShare: (model.stats.speculation.draftMs - before.speculation.draftMs) / Math.max(1e-3, last - first),
    drafted: sum('draftedTokens'),
    accepted: sum('acceptedTokens'),
  }
}

/** Pages in, captures graphs of the rows that are asked for; returns the passes of the prompts. */
async function warm(model: Model, prompt: Int32Array, flags: Flags, signal: AbortSignal): Promise<number> {
  const most = Math.min(flags.tokens, 8)
  const few = { ...flags, tokens: most }
  const { tokens } = await measure(model, prompt, few, { method: 'off' }, undefined, signal)
  for (const length of flags.lengths) {
    await measure(model, prompt, few, speculationOf(length === 'auto' ? 15 : length, flags), tokens, signal)
  }
  return (await measure(model, prompt, { ...flags, tokens: 1 }, { method: 'off' }, undefined, signal)).passes
}

/** The answer, of whose tokens each is right with the probability of `acceptance`. The same for the same `seed`. */
function spoilt(answer: Int32Array, acceptance: number, seed: number, vocab: number): Int32Array {
  let state = 0x9e3779b9 + seed
  // mulberry32
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  return answer.map((token) => (next() < acceptance ? token : (token + 1 + Math.floor(next() * (vocab - 1))) % vocab))
}

function checkSame(expected: Int32Array, found: Int32Array): void {
  const at = expected.findIndex((token, index) => token !== found[index])
  if (at < 0) return
  throw new MillraceError('INTERNAL', {
    message: `drafts changed token ${at} of the answer from ${expected[at]} to ${found[at]}`,
    remedy: 'report this with the command',
  })
}

const median = (values: number[]) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!

function rowOf(acceptance: number | undefined, length: Length, runs: readonly Run[]): Omit<DraftRun, 'gain' | 'share'> {
  const of = (name: Exclude<keyof Run, 'tokens'>) => median(runs.map((run) => run[name]))
  const [draftedTokens, acceptedTokens] = [of('drafted'), of('accepted')]
  return {
    acceptance: acceptance ?? (draftedTokens === 0 ? 0 : acceptedTokens / draftedTokens),
    length,
    tokensPerPass: of('tokensPerPass'),
    draftedTokens,
    acceptedTokens,
    tokensPerSecond: of('tokensPerSecond'),
    draftShare: of('draftShare'),
  }
}

const COLUMNS: [string, number, (run: DraftRun) => string][] = [
  ['acceptance', 10, ({ acceptance }) => acceptance.toFixed(2)],
  ['drafts', 6, ({ length }) => String(length)],
  ['made', 6, ({ draftedTokens }) => String(draftedTokens)],
  ['stood', 6, ({ acceptedTokens }) => String(acceptedTokens)],
  ['tokens a pass', 13, (run) => run.tokensPerPass.toFixed(2)],
  ['tok/s', 8, (run) => significant(run.tokensPerSecond)],
  ['times undrafted', 15, ({ gain }) => gain.toFixed(2)],
  ['of tokens a pass', 16, ({ share }) => `${(share * 100).toFixed(1)} %`],
  ['drafting', 8, ({ draftShare }) => `${(draftShare * 100).toFixed(1)} %`],
]

function table(runs: readonly DraftRun[]): string {
  const line = (cell: (column: (typeof COLUMNS)[number]) => string) =>
    `${COLUMNS.map((column) => cell(column).padStart(column[1])).join('  ')}\n`
  return line(([name]) => name) + runs.map((run) => line(([, , text]) => text(run))).join('')
}

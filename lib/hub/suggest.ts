/** Which of several GGUF models of a repository suits this machine. */
import { basename } from 'node:path'
import { addon } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { HubRepository } from './repository.ts'
import type { GgufChoice } from './select.ts'
import type { HubSettings } from './settings.ts'

/** About 4 bits, the best for their size first: what most people take. */
const USUAL = ['q4_k_m', 'q4_k_xl', 'q4_k_s', 'iq4_xs', 'iq4_nl', 'q4_k', 'q4_0', 'q4_1', 'mxfp4']
/** Headers are fetched of so many at most. */
const MOST_TRIED = 3
/** Of free RAM, what weights may take. */
const SHARE = 0.9

/** The error that lists them and suggests one. */
export async function severalModels(
  repository: HubRepository,
  choices: readonly GgufChoice[],
  settings: HubSettings,
  signal: AbortSignal | undefined,
): Promise<MillraceError> {
  const { repo } = repository
  const list = choices.map(({ name, bytes }) => name + (bytes > 0 ? ` (${size(bytes)})` : '')).join(', ')
  return new MillraceError('INVALID_ARGUMENT', {
    message: `${repo} has ${choices.length} GGUF models: ${list}`,
    remedy: await suggestion(repository, choices, settings, signal),
  })
}

async function suggestion(
  repository: HubRepository,
  choices: readonly GgufChoice[],
  settings: HubSettings,
  signal: AbortSignal | undefined,
): Promise<string> {
  const { repo } = repository
  const free = freeBytes()
  const order = preferred(choices.filter(({ bytes }) => bytes <= free * SHARE))
  const first = order[0]
  if (first === undefined) {
    return `none fits the ${size(free)} of RAM that are free here; the smallest is '${repo}:${choices[0]!.name}'`
  }
  // Of the cache, sizes are not known and nothing is to be fetched.
  if (settings.offline) return `name one, such as '${repo}:${first.name}'`
  for (const choice of order.slice(0, MOST_TRIED)) {
    const speed = await predict(repository, choice, settings, signal).catch(() => undefined)
    if (speed !== undefined) return `'${repo}:${choice.name}' fits this machine, at about ${speed.toPrecision(2)} tok/s`
  }
  return `name one, such as '${repo}:${first.name}'`
}

/** The usual ones, then smaller ones, the largest first, then larger ones. */
export function preferred(choices: readonly GgufChoice[]): GgufChoice[] {
  const rank = ({ name }: GgufChoice) => USUAL.findIndex((type) => typeOf(name).endsWith(type))
  const usual = choices.filter((choice) => rank(choice) >= 0).sort((a, b) => rank(a) - rank(b))
  const least = Math.min(...usual.map(({ bytes }) => bytes))
  const others = choices.filter((choice) => rank(choice) < 0)
  const smaller = others.filter(({ bytes }) => usual.length === 0 || bytes < least).sort((a, b) => b.bytes - a.bytes)
  const larger = others.filter((choice) => !smaller.includes(choice)).sort((a, b) => a.bytes - b.bytes)
  return [...usual, ...smaller, ...larger]
}

const typeOf = (name: string) =>
  basename(name)
    .toLowerCase()
    .replace(/(-\d{5}-of-\d{5})?\.gguf$/, '')

async function predict(
  repository: HubRepository,
  choice: GgufChoice,
  settings: HubSettings,
  signal: AbortSignal | undefined,
): Promise<number> {
  const [{ ggufHeaders }, { plan }] = await Promise.all([import('./headers.ts'), import('../model/plan.ts')])
  await using headers = await ggufHeaders(repository, choice, settings, signal)
  return (await plan(headers.path)).prediction.single.tokensPerSecond
}

function freeBytes(): number {
  try {
    return addon().probeCpu().memoryAvailableBytes
  } catch {
    return Number.POSITIVE_INFINITY // whoever loads it is told
  }
}

const size = (bytes: number) => `${(bytes / 1e9).toPrecision(3)} GB`

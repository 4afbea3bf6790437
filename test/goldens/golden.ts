/** Goldens of test/goldens/*.json, made by make_goldens.py from transformers, and the model folders they belong to. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))
const root = join(here, '..', '..')

export interface Golden {
  model: string
  vocab: number
  sequences: GoldenSequence[]
  greedy: GoldenGreedy[]
}

export interface GoldenSequence {
  name: string
  tokens: number[]
  /** Of tokens[i + 1]. */
  logprobs: Float32Array
  /** The most likely tokens at some positions, with their logits, and log(sum(exp)) over all logits. */
  positions: { position: number; logSumExp: number; ids: number[]; logits: Float32Array }[]
  /** All logits of the last position, of small vocabularies. */
  lastLogits?: Float32Array
}

export interface GoldenGreedy {
  prompt: number[]
  tokens: number[]
  /** How far each token's logit lay above the next best. */
  margins: number[]
}

/** The folder of a model: shipped, made for the goldens, in MILLRACE_MODELS or in ../shared/models; or undefined. */
export function modelFolder(name: string): string | undefined {
  const places = [join(root, 'models'), join(here, 'models'), join(root, '..', 'shared', 'models')]
  if (process.env.MILLRACE_MODELS) places.unshift(process.env.MILLRACE_MODELS)
  return places.map((place) => join(place, name)).find((dir) => existsSync(join(dir, 'config.json')))
}

export function readGoldens(): Golden[] {
  const names = readdirSync(here).filter((name) => name.endsWith('.json'))
  return names.sort().map((name) => JSON.parse(readFileSync(join(here, name), 'utf8'), revive) as Golden)
}

const ENCODED = new Set(['logprobs', 'logits', 'lastLogits'])

function revive(key: string, value: unknown): unknown {
  return ENCODED.has(key) && typeof value === 'string' ? floats(value) : value
}

/** Base64 of little-endian float32. */
function floats(base64: string): Float32Array {
  const bytes = Buffer.from(base64, 'base64')
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i))
}

/** Prompt and continuation up to the first token whose choice was nearly a tie, which other arithmetic may break otherwise. */
export function certainGreedy({ prompt, tokens, margins }: GoldenGreedy, margin: number): GoldenGreedy {
  const tie = margins.findIndex((m) => m < margin)
  const count = tie === -1 ? tokens.length : tie
  return { prompt, tokens: tokens.slice(0, count), margins: margins.slice(0, count) }
}

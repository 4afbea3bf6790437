/** Schemas of every public options object, and the one place where they become INVALID_ARGUMENT. */
import { z } from 'zod'
import { MillraceError } from './errors.ts'
import { isLogger, type Logger } from './log.ts'
import type { Truncation } from './text/truncate.ts'

/**
 * Where weights rest: in device memory; in system RAM, streamed through the ring at every pass; in system RAM, where
 * beside a GPU the CPU computes the feed-forwards of answers, and long prompts stream them; or in device memory that all
 * models of a GPU share, as long as no other one needs the room.
 */
export type PlacementHome = 'resident' | 'streamed' | 'cpu' | 'shared'

export interface LoadProgress {
  /** 'tokenizer' and 'checkpoint' count files; 'weights' counts bytes of weights repacked, or read from the cache. */
  stage: 'checkpoint' | 'tokenizer' | 'weights'
  done: number
  total: number
}

/** What a decision about memory and threads may depend on, apart from the model. */
export interface PlanOptions {
  /**
   * 'auto', 'cpu', 'cuda', 'cuda:1'; or several GPUs, ['cuda:0', 'cuda:1']: the layers alternate between them, so that
   * each brings its streamed layers over its own link while the others compute. Default 'auto'.
   */
  device?: string | readonly string[] | undefined
  /**
   * One word for all layers, one home a layer, or one a unit. Default 'auto': the fastest that fits, by prediction, for
   * `batch` sequences.
   */
  placement?: 'auto' | PlacementHome | readonly PlacementHome[] | undefined
  /**
   * Memory that streamed units pass through: a number of the largest units, or bytes as '256MiB'. Default 2, and 4 beside
   * units on the CPU.
   */
  ring?: number | string | undefined
  /**
   * Device memory for the shared units of all models on the GPU, as '4GiB'; the last model that names it decides.
   * Default: as it is, and as much as its own shared units take for the first.
   */
  arena?: number | string | undefined
  /** Milliseconds that this model keeps the arena while others that have no room there wait for it. Default 250. */
  turnMs?: number | undefined
  /** Tokens of prompt and answer of one request. Default: what the model was made for, at most 4096. */
  contextLength?: number | undefined
  /** Requests with a full context that the KV cache holds at once. Default 4. Not together with kvTokens. */
  maxSequences?: number | undefined
  /** Tokens that the KV cache holds in all; raised to one context where it is less. */
  kvTokens?: number | undefined
  /**
   * GPU memory for all of the model: resident weights, ring, KV cache, workspace. Bytes, '6GiB', or a share of what is
   * free, '80%'. Default '90%'. What CUDA itself takes, about half a gigabyte, comes on top. Of each, on several GPUs.
   */
  vramBudget?: number | string | undefined
  /** System RAM for the model: bytes, '64GiB', or a share of what this process may use. Default: all of that. */
  ramBudget?: number | string | undefined
  /** Sequences expected to decode at once: what homes, and the KV cache by default, are chosen for. Default 1. */
  batch?: number | undefined
  /** 'auto' may leave feed-forwards to the CPU beside a GPU. Default true. */
  coExecute?: boolean | undefined
  /**
   * Beside a GPU, who computes the CPU's feed-forwards moves with the load: with more sequences than the CPU serves as
   * fast as the link they are streamed for all. Then the bits of an answer may depend on how many others there were.
   * Default false.
   */
  adaptive?: boolean | undefined
  /** Threads that compute on the CPU. Default: the cores that this process may use. */
  threads?: number | undefined
}

/** The checkpoint's own head, or one of 4 or 8 bits. */
export type HeadType = 'stored' | 'q4' | 'q8'

export interface LoadOptions extends PlanOptions {
  /**
   * 'q4' and 'q8' make 4 or 8 bits of a head that the checkpoint has in 16 or 32: a quarter or a half of its memory and
   * of the time to read it, at a loss that model.headError tells. Default 'stored': as the checkpoint has it.
   */
  head?: HeadType | undefined
  onProgress?: ((progress: LoadProgress) => void) | undefined
  /** Aborts the load: it rejects with ABORTED and frees what it had taken. */
  signal?: AbortSignal | undefined
  /** Keep the keys and values of earlier requests for later ones that begin with the same tokens. Default true. */
  prefixReuse?: boolean | undefined
  /**
   * Of those, only what was computed from prompts: then the bits of an answer never depend on which answers came
   * before. Default false.
   */
  deterministic?: boolean | undefined
  /**
   * Requests that may wait, those included that were handed in a moment ago and have not started; the next is refused
   * with QUEUE_FULL. Default: no limit.
   */
  maxQueue?: number | undefined
  /**
   * Keep the repacked weights on disk, so that the next load only reads them: true, false, or the folder to keep them
   * in. Default: MILLRACE_CACHE of the environment, or true. Models of less than 64 MiB are not kept.
   */
  cache?: boolean | string | undefined
  /** Told of loads, requests and failures, e.g. pino. Default: nobody is. */
  logger?: Logger | undefined
  /**
   * On a GPU, kernels of your own in the place of built-in operations: by the operation's name, the path or the bytes of
   * a cubin, a fatbin or PTX (docs/KERNELS.md).
   */
  kernels?: Readonly<Record<string, string | Uint8Array>> | undefined
  /** Fill freed ring slots with NaN patterns, to find reads of stale weights. For tests: costs memory bandwidth. */
  poison?: boolean | undefined
}

/** When a request may run. */
export interface ScheduleOptions {
  /** Higher goes first, and is preempted last. Default 0; equal ones in order of age. */
  priority?: number | undefined
  /** Milliseconds that it may wait before its first step; then it rejects with QUEUE_TIMEOUT. Default: no limit. */
  queueTimeoutMs?: number | undefined
  /** Milliseconds from submission that it may take in all; then it rejects with DEADLINE_EXCEEDED. Default: no limit. */
  deadlineMs?: number | undefined
}

export interface GenerateOptions extends ScheduleOptions {
  /** Default: as many as the context has room for, which is also the upper limit. */
  maxTokens?: number | undefined
  /**
   * What goes of a prompt that leaves the answer less room than maxTokens (at most half of the context; a quarter where
   * maxTokens is not named): tokens from its start, its first token apart, or from its middle. Default 'none': a prompt
   * that fills the context rejects with CONTEXT_OVERFLOW.
   */
  truncate?: 'none' | Truncation | undefined
  /** 0, the default, always takes the most likely token; the filters and seed then have no effect. */
  temperature?: number | undefined
  /** Sample among the k most likely tokens. Default 0: among all. */
  topK?: number | undefined
  /** Sample among the most likely tokens that together reach this probability. Default 1: all. */
  topP?: number | undefined
  /** Sample among tokens at least this fraction as likely as the most likely one. Default 0: all. */
  minP?: number | undefined
  /**
   * Sample among the tokens whose surprise is nearest to the expected, together of this probability: locally typical
   * sampling (Meister et al. 2022), after the other filters. Default 1: all.
   */
  typicalP?: number | undefined
  /**
   * Positive logits of tokens in prompt or answer are divided by it, negative ones multiplied (Keskar et al. 2019).
   * Default 1: none.
   */
  repetitionPenalty?: number | undefined
  /** Taken off the logit of every token that is in the answer already. Default 0. */
  presencePenalty?: number | undefined
  /** Taken off the logit of a token once for each time that it is in the answer already. Default 0. */
  frequencyPenalty?: number | undefined
  /** By token id, what is added to its logit, after penalties: -100 to 100, or -Infinity to forbid it. */
  logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number> | undefined
  /** Integer from 0 to 2^53 - 1; the same seed gives the same text. Default: random, and told in the result. */
  seed?: number | undefined
  /** Text at which to stop; it is not part of the answer. */
  stop?: string | readonly string[] | undefined
  /** Token ids at which to stop, besides the model's own end tokens. */
  stopTokens?: readonly number[] | undefined
  /** Continue past the model's own end tokens. Default false. */
  ignoreEos?: boolean | undefined
  /** Give the log-probability of every generated token. Default false. */
  logprobs?: boolean | undefined
  /** Give so many of the highest log-probabilities at every generated token, 64 at most. Default 0. */
  topLogprobs?: number | undefined
  /** Aborts the request: iteration and result reject with ABORTED. */
  signal?: AbortSignal | undefined
}

export interface ScoreOptions extends ScheduleOptions {
  /** Add the tokenizer's own first and last tokens to a text. Default true. */
  specialTokens?: boolean | undefined
  /** Give every position's logits too: float32 [tokens, vocabulary]. Default false. */
  logits?: boolean | undefined
  signal?: AbortSignal | undefined
}

export interface CloseOptions {
  /** Let running requests end first. Default true; false aborts them. */
  drain?: boolean | undefined
  /** Milliseconds that draining may take; what still runs then is aborted. Default: no limit. */
  timeoutMs?: number | undefined
}

export interface ChatMessage {
  /** 'system', 'user', 'assistant', or what else the model's chat template knows. */
  role: string
  content: string
}

const integer = (min: number, max: number) => {
  const error = `an integer ${range(min, max)}`
  return z.int({ error }).min(min, { error }).max(max, { error })
}
const number = (min: number, max: number) => {
  const error = `a number ${range(min, max)}`
  return z.number({ error }).min(min, { error }).max(max, { error })
}
const boolean = () => z.boolean({ error: 'true or false' })
const signal = () =>
  z.custom<AbortSignal>(
    (value) => typeof (value as AbortSignal)?.aborted === 'boolean' && 'addEventListener' in (value as AbortSignal),
    { error: 'an AbortSignal' },
  )

function range(min: number, max: number): string {
  if (max === Number.MAX_SAFE_INTEGER) return min === 0 ? 'not below 0' : `of at least ${min}`
  return `from ${min} to ${max}`
}

const MAX_TOKENS = 2 ** 27

const homes = ['resident', 'streamed', 'cpu', 'shared'] as const
const placement = z.union([z.enum(['auto', ...homes]), z.array(z.enum(homes)).readonly()], {
  error: `'auto', 'resident', 'streamed', 'cpu', 'shared' or an array of one of the last four a layer or a unit`,
})
const deviceError = `'auto', 'cpu', 'cuda', 'cuda:<index>' or an array of GPUs`
const deviceInListError = `'cuda:<index>'`
/** '512M' may mean either of two sizes: it is refused, and the message says what is not. */
const UNITS = 'units are B, KB, MB, GB, TB and KiB, MiB, GiB, TiB'
const ringError = `a number of units from 1 to 4096 or a size such as '256MiB' (${UNITS})`
const budgetError = `bytes, a size such as '6GiB' (${UNITS}) or a share such as '80%'`
const budget = z.union(
  [
    integer(1, Number.MAX_SAFE_INTEGER),
    z.string().refine((text) => parseBytes(text) !== undefined || parsePercent(text) !== undefined, {
      error: budgetError,
    }),
  ],
  { error: budgetError },
)

/** A size in bytes, or as a text. */
const bytes = () => {
  const error = `a size in bytes or as '256MiB' (${UNITS})`
  return z.union(
    [integer(1, Number.MAX_SAFE_INTEGER), z.string().refine((text) => parseBytes(text) !== undefined, { error })],
    { error },
  )
}

const deviceList = z
  .array(z.string({ error: deviceInListError }).regex(/^(cpu|cuda:\d{1,3})$/, { error: deviceInListError }))
  .min(1, { error: deviceInListError })
  .max(64, { error: '64 devices at most' })
  .readonly()

const plan = {
  device: z
    .custom<string | readonly string[]>(
      (value) => Array.isArray(value) || (typeof value === 'string' && /^(auto|cpu|cuda(:\d{1,3})?)$/.test(value)),
      { error: deviceError },
    )
    .superRefine((value, context) => {
      if (typeof value === 'string') return
      for (const { path, message } of deviceList.safeParse(value).error?.issues ?? []) {
        context.addIssue({ code: 'custom', path, message })
      }
    })
    .optional(),
  placement: placement.optional(),
  ring: z
    .union([integer(1, 4096), z.string().refine((text) => parseBytes(text) !== undefined, { error: ringError })], {
      error: ringError,
    })
    .optional(),
  arena: bytes().optional(),
  turnMs: integer(1, 2 ** 31 - 1).optional(),
  contextLength: integer(1, MAX_TOKENS).optional(),
  maxSequences: integer(1, 65536).optional(),
  kvTokens: integer(1, 2 ** 31 - 1).optional(),
  vramBudget: budget.optional(),
  ramBudget: budget.optional(),
  batch: integer(1, 65536).optional(),
  coExecute: boolean().optional(),
  adaptive: boolean().optional(),
  threads: integer(1, 1024).optional(),
}

export const budgetSchema = budget

const imageError = `a path or a Uint8Array by an operation's name`
const isImage = (value: unknown) => typeof value === 'string' || value instanceof Uint8Array

export const planOptions = z.strictObject(plan)

const head = z.enum(['stored', 'q4', 'q8'], { error: `'stored', 'q4' or 'q8'` })

export const inspectOptions = z.strictObject({ head: head.optional() })

export const loadOptions = z.strictObject({
  ...plan,
  head: head.optional(),
  onProgress: z
    .custom<(progress: LoadProgress) => void>((value) => typeof value === 'function', { error: 'a function' })
    .optional(),
  signal: signal().optional(),
  prefixReuse: boolean().optional(),
  deterministic: boolean().optional(),
  maxQueue: integer(1, 2 ** 31 - 1).optional(),
  cache: z.union([z.boolean(), z.string().min(1)], { error: 'true, false or the path of a folder' }).optional(),
  logger: z.custom<Logger>(isLogger, { error: 'an object with the functions debug, info, warn and error' }).optional(),
  poison: boolean().optional(),
  kernels: z
    .record(z.string(), z.custom<string | Uint8Array>(isImage, { error: imageError }), { error: imageError })
    .optional(),
})

const biasError = 'a Map or an object of numbers from -100 to 100, or -Infinity, by token id'

/** Becomes a list of pairs, so that both forms are one. */
const logitBias = z
  .custom<Readonly<Record<number, number>> | ReadonlyMap<number, number>>(
    (value) => typeof value === 'object' && value !== null && biasEntries(value).every(isBias),
    { error: biasError },
  )
  .transform(biasEntries)

function biasEntries(value: object): [number, number][] {
  const entries = value instanceof Map ? [...value] : Object.entries(value)
  // An object's keys are texts: '7' is a token id, '' and ' 7' are none.
  return entries.map(([key, bias]) => [typeof key === 'string' && !/^\d+$/.test(key) ? Number.NaN : Number(key), bias])
}

function isBias([token, bias]: [number, unknown]): boolean {
  if (!Number.isInteger(token) || token < 0 || token >= 2 ** 31 || typeof bias !== 'number') return false
  return bias === Number.NEGATIVE_INFINITY || (bias >= -100 && bias <= 100)
}

const stopText = () => z.string({ error: 'a text' }).min(1, { error: 'a text that is not empty' })

const schedule = {
  priority: integer(-(2 ** 31), 2 ** 31 - 1).optional(),
  queueTimeoutMs: number(1, Number.MAX_SAFE_INTEGER).optional(),
  deadlineMs: number(1, Number.MAX_SAFE_INTEGER).optional(),
}

export const generateOptions = z.strictObject({
  ...schedule,
  maxTokens: integer(1, MAX_TOKENS).optional(),
  truncate: z.enum(['none', 'start', 'middle'], { error: `'none', 'start' or 'middle'` }).optional(),
  temperature: number(0, 100).optional(),
  topK: integer(0, 2 ** 31 - 1).optional(),
  topP: number(0, 1).optional(),
  minP: number(0, 1).optional(),
  typicalP: number(0, 1).optional(),
  repetitionPenalty: number(0.01, 100).optional(),
  presencePenalty: number(-100, 100).optional(),
  frequencyPenalty: number(-100, 100).optional(),
  logitBias: logitBias.optional(),
  seed: integer(0, Number.MAX_SAFE_INTEGER).optional(),
  stop: z
    .union([stopText(), z.array(stopText()).readonly()], { error: 'a text or an array of texts, none empty' })
    .optional(),
  stopTokens: z
    .array(integer(0, 2 ** 31 - 1), { error: 'an array of token ids' })
    .readonly()
    .optional(),
  ignoreEos: boolean().optional(),
  logprobs: boolean().optional(),
  topLogprobs: integer(0, 64).optional(),
  signal: signal().optional(),
})

export const scoreOptions = z.strictObject({
  ...schedule,
  specialTokens: boolean().optional(),
  logits: boolean().optional(),
  signal: signal().optional(),
})

export const closeOptions = z.strictObject({
  drain: boolean().optional(),
  timeoutMs: number(0, Number.MAX_SAFE_INTEGER).optional(),
})

export const chatMessages = z
  .array(
    z.looseObject(
      {
        role: z.string({ error: 'a text' }).min(1, { error: 'a text that is not empty' }),
        content: z.string({ error: 'a text' }),
      },
      { error: "an object such as { role: 'user', content: 'Hello' }" },
    ),
    { error: "an array of messages such as [{ role: 'user', content: 'Hello' }]" },
  )
  .min(1, { error: 'an array of at least one message' })
  .readonly()

/**
 * Checks what a caller handed over. `subject` names the object in messages, e.g. 'options' of generate.
 *
 * Throws INVALID_ARGUMENT: `expected X for Y but received Z of type T`, or for an unknown option the likely intended.
 */
export function validate<Schema extends z.ZodType>(schema: Schema, value: unknown, subject: string): z.output<Schema> {
  const outcome = schema.safeParse(value, { reportInput: true })
  if (outcome.success) return outcome.data
  const issue = outcome.error.issues[0]!
  if (issue.code === 'unrecognized_keys') {
    const known = Object.keys((schema as unknown as { shape?: object }).shape ?? {})
    const unknown = issue.keys[0]!
    const likely = nearest(unknown, known)
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `unknown option '${unknown}' in ${subject}${likely === undefined ? '' : `, did you mean '${likely}'?`}`,
      remedy: `known options: ${known.join(', ')}`,
    })
  }
  const name =
    issue.path.length === 0 ? subject : pathName(Array.isArray(value) ? [subject, ...issue.path] : issue.path)
  // The schemas here say what they expect; what is left are zod's own words, such as of the outermost object.
  const expected = issue.path.length === 0 && isOwnWording(issue) ? 'an object' : issue.message.replace(ZOD_WORDING, '')
  throw invalidArgument(expected, name, at(value, issue.path))
}

const ZOD_WORDING = /^Invalid input: expected /
const isOwnWording = (issue: { message: string }) => ZOD_WORDING.test(issue.message)

/** The uniform complaint about one argument. */
export function invalidArgument(expected: string, name: string, received: unknown, remedy?: string): MillraceError {
  return new MillraceError('INVALID_ARGUMENT', {
    message: `expected ${expected} for ${name} but received ${describe(received)}`,
    remedy: remedy ?? `pass ${expected.replace(/,$/, '')} as ${name}`,
  })
}

/** '256MiB' -> 268435456; undefined if the text is no size. Units are B, KB to TB and KiB to TiB. */
export function parseBytes(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B)\s*$/i.exec(text)
  if (!match) return undefined
  const unit = match[2]!.toLowerCase()
  const base = unit.includes('i') ? 1024 : 1000
  const bytes = Math.floor(Number(match[1]) * base ** ['b', 'k', 'm', 'g', 't'].indexOf(unit[0]!))
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined
}

/** '80%' -> 0.8; undefined if the text is no share above 0 and up to 1. */
export function parsePercent(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*%\s*$/.exec(text)
  const share = match ? Number(match[1]) / 100 : 0
  return share > 0 && share <= 1 ? share : undefined
}

/** The candidate that a misspelt word most likely stands for, if one is close enough. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const plain = (text: string) => text.toLowerCase().replace(/[^a-z0-9]/g, '')
  let best: string | undefined
  let bestDistance = Number.POSITIVE_INFINITY
  for (const candidate of candidates) {
    const distance = editDistance(plain(word), plain(candidate))
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance]
  }
  return best !== undefined && bestDistance <= Math.max(1, Math.floor(best.length / 3)) ? best : undefined
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)))
    }
    row = next
  }
  return row[b.length]!
}

function pathName(path: readonly PropertyKey[]): string {
  return path
    .map((part, index) => (typeof part === 'number' ? `[${part}]` : `${index === 0 ? '' : '.'}${String(part)}`))
    .join('')
}

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((inner, part) => (inner as Record<PropertyKey, unknown> | undefined)?.[part], value)
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'null'
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : `an array of ${value.length}`
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object') return `an object of type ${value.constructor?.name ?? 'Object'}`
  const text = typeof value === 'string' ? `'${value.length > 60 ? `${value.slice(0, 57)}...` : value}'` : String(value)
  return `${text} of type ${typeof value}`
}

/**
 * The options of an answer, one row each: types, schemas, what the engine is handed, flags of the command line, names in
 * HTTP requests and the table in docs/API.md (whose texts are the comments here) come from these rows.
 */
import { z } from 'zod'
import { boolean, integer, MAX_TOKENS, number } from './validate.ts'

export interface OptionRow {
  schema: z.ZodType
  /** What holds where the caller names nothing; or, where that is no value, a word for it. */
  default?: unknown
  otherwise?: string
  /** The engine reads it, by the row's own name; such a row has a default. */
  native?: true
  /** As OpenAI's API has it, else as vLLM's does. */
  wire?: string
  flag?: OptionFlag
}

export interface OptionFlag {
  /** '--top-k <count>'. */
  form: string
  help: string
  /** What its word becomes; 'numbers', 'texts' and 'biases' may be given again. A 'switch' has none. */
  reads: 'number' | 'numbers' | 'texts' | 'biases' | 'choice' | 'switch'
  /** Of commands that print JSON alone. */
  json?: true
}

type Rows = Readonly<Record<string, OptionRow>>

/** The options object of a table of rows, as a caller writes it. */
export type OptionsOf<Table extends Rows> = { [Name in keyof Table]?: z.input<Table[Name]['schema']> | undefined }

type ShapeOf<Table extends Rows> = { [Name in keyof Table]: z.ZodOptional<Table[Name]['schema']> }

export function shapeOf<Table extends Rows>(table: Table): ShapeOf<Table> {
  const entries = Object.entries(table).map(([name, { schema }]) => [name, schema.optional()])
  return Object.fromEntries(entries) as ShapeOf<Table>
}

const biasError = 'a Map or an object of numbers from -100 to 100, or -Infinity, by token id'

/** Becomes a list of pairs, each token once, so that both forms are one. */
const logitBias = z
  .custom<Readonly<Record<number, number>> | ReadonlyMap<number, number>>(
    (value) => typeof value === 'object' && value !== null && biasEntries(value).every(isBias),
    { error: biasError },
  )
  .transform((value) => [...new Map(biasEntries(value))])

function biasEntries(value: object): [number, number][] {
  const entries = value instanceof Map ? [...value] : Object.entries(value)
  // An object's keys are texts: '7' is a token id, '', ' 7' and '07' are none.
  return entries.map(([key, bias]) => [
    typeof key === 'string' && !/^(0|[1-9]\d*)$/.test(key) ? Number.NaN : Number(key),
    bias,
  ])
}

function isBias([token, bias]: [number, unknown]): boolean {
  if (!Number.isInteger(token) || token < 0 || token >= 2 ** 31 || typeof bias !== 'number') return false
  return bias === Number.NEGATIVE_INFINITY || (bias >= -100 && bias <= 100)
}

const stopText = () => z.string({ error: 'a text' }).min(1, { error: 'a text that is not empty' })
const stopError = 'a text or an array of texts, none empty'

export const sampling = {
  /** Tokens of the answer at most; cut to what the context leaves. */
  maxTokens: {
    schema: integer(1, MAX_TOKENS),
    otherwise: "to the context's end",
    wire: 'max_tokens',
    flag: { form: '--max-tokens <count>', help: 'tokens of the answer at most', reads: 'number' },
  },
  /**
   * Tokens of the answer at least: before there are so many no end token is chosen, none of `stopTokens`, and no stop text
   * counts. The context's end does, and a constraint that lets nothing follow.
   */
  minTokens: {
    schema: integer(0, MAX_TOKENS),
    default: 0,
    wire: 'min_tokens',
    flag: { form: '--min-tokens <count>', help: 'neither end tokens nor stop texts before so many', reads: 'number' },
  },
  /**
   * What to cut of a prompt that leaves the answer too little room: its `'start'` (but a first token of the tokenizer's own)
   * or its `'middle'`. With `'none'` it is `CONTEXT_OVERFLOW` if it fills the context.
   */
  truncate: {
    schema: z.enum(['none', 'start', 'middle'], { error: `'none', 'start' or 'middle'` }),
    default: 'none',
    flag: { form: '--truncate <where>', help: 'what goes of a prompt too long for the context', reads: 'choice' },
  },
  /** 0 takes the most likely token; filters and `seed` then have no effect. */
  temperature: {
    schema: number(0, 100),
    default: 0,
    native: true,
    wire: 'temperature',
    flag: {
      form: '--temperature <value>',
      help: '0 takes the likeliest token; default 0, or what the checkpoint names',
      reads: 'number',
    },
  },
  /** Sample among so many of the most likely tokens, the first of the filters; 0: among all. */
  topK: {
    schema: integer(0, 2 ** 31 - 1),
    default: 0,
    native: true,
    wire: 'top_k',
    flag: { form: '--top-k <count>', help: 'sample among the k likeliest tokens', reads: 'number' },
  },
  /** Then among the most likely tokens that together reach this probability; 1: all. */
  topP: {
    schema: number(0, 1),
    default: 1,
    native: true,
    wire: 'top_p',
    flag: { form: '--top-p <share>', help: 'sample among the likeliest that reach this share', reads: 'number' },
  },
  /** Then among tokens at least this fraction as likely as the most likely one; 0: all. */
  minP: {
    schema: number(0, 1),
    default: 0,
    native: true,
    wire: 'min_p',
    flag: { form: '--min-p <share>', help: 'sample among those this likely, of the likeliest', reads: 'number' },
  },
  /**
   * Then among the tokens whose surprise is nearest to the expected, together of this probability (locally typical
   * sampling, Meister et al. 2022); 1: all.
   */
  typicalP: {
    schema: number(0, 1),
    default: 1,
    native: true,
    wire: 'typical_p',
    flag: {
      form: '--typical-p <share>',
      help: 'sample among those of the most expected surprise that reach this share',
      reads: 'number',
    },
  },
  /**
   * Logits of tokens in prompt or answer are divided by it if positive, else multiplied (Keskar et al. 2019); 1: none.
   */
  repetitionPenalty: {
    schema: number(0.01, 100),
    default: 1,
    native: true,
    wire: 'repetition_penalty',
    flag: {
      form: '--repetition-penalty <factor>',
      help: 'above 1: tokens of prompt and answer come less',
      reads: 'number',
    },
  },
  /** Taken off the logit of every token that is in the answer already. */
  presencePenalty: {
    schema: number(-100, 100),
    default: 0,
    native: true,
    wire: 'presence_penalty',
    flag: {
      form: '--presence-penalty <value>',
      help: 'off the logit of a token that the answer has',
      reads: 'number',
    },
  },
  /** Taken off the logit of a token once for each time that it is in the answer already. */
  frequencyPenalty: {
    schema: number(-100, 100),
    default: 0,
    native: true,
    wire: 'frequency_penalty',
    flag: { form: '--frequency-penalty <value>', help: 'the same, once for each time that it has it', reads: 'number' },
  },
  /** An object or `Map` from token id to what is added to its logit, after penalties: -100 to 100, or `-Infinity`. */
  logitBias: {
    schema: logitBias,
    wire: 'logit_bias',
    flag: {
      form: '--logit-bias <token=bias>',
      help: "added to a token id's logit, -Infinity forbids it; may be given again",
      reads: 'biases',
    },
  },
  /** Integer from 0 to 2^53 - 1: the same seed gives the same text; the result tells it. */
  seed: {
    schema: integer(0, Number.MAX_SAFE_INTEGER),
    otherwise: 'random',
    wire: 'seed',
    flag: { form: '--seed <number>', help: 'the same seed gives the same text', reads: 'number' },
  },
  /** A text or several: the answer ends before the first that is complete. */
  stop: {
    schema: z.union([stopText(), z.array(stopText()).readonly()], { error: stopError }),
    wire: 'stop',
    flag: { form: '--stop <text>', help: 'end the answer before this text; may be given again', reads: 'texts' },
  },
  /** Token ids at which to end, besides the model's own. */
  stopTokens: {
    schema: z.array(integer(0, 2 ** 31 - 1), { error: 'an array of token ids' }).readonly(),
    wire: 'stop_token_ids',
    flag: {
      form: '--stop-token <id>',
      help: 'end the answer at this token, too; may be given again',
      reads: 'numbers',
    },
  },
  /** Go on past the model's own end tokens. */
  ignoreEos: {
    schema: boolean(),
    default: false,
    wire: 'ignore_eos',
    flag: { form: '--ignore-eos', help: "go on past the model's own end tokens", reads: 'switch' },
  },
  /** Natural logarithm of each token's probability, before temperature, filters, penalties and biases. */
  logprobs: {
    schema: boolean(),
    default: false,
    wire: 'logprobs',
    flag: { form: '--logprobs', help: "with --json: every token's log-probability", reads: 'switch', json: true },
  },
  /**
   * So many of the most likely tokens (64 at most) at every generated one: `{ token, logprob }`, best first, of the same
   * distribution.
   */
  topLogprobs: {
    schema: integer(0, 64),
    default: 0,
    wire: 'top_logprobs',
    flag: {
      form: '--top-logprobs <count>',
      help: 'with --json: so many of the likeliest at every token',
      reads: 'number',
      json: true,
    },
  },
} satisfies Rows

/** When a request may run. */
export const scheduling = {
  /** Higher goes first, and is preempted last; equal ones by age. */
  priority: {
    schema: integer(-(2 ** 31), 2 ** 31 - 1),
    default: 0,
    wire: 'priority',
    flag: { form: '--priority <number>', help: 'higher goes before other requests', reads: 'number' },
  },
  /** Milliseconds from the call; `QUEUE_TIMEOUT` if the request has not started by then. */
  queueTimeoutMs: {
    schema: number(1, Number.MAX_SAFE_INTEGER),
    otherwise: 'no limit',
    wire: 'queue_timeout_ms',
    flag: { form: '--queue-timeout <ms>', help: 'fail if it has not started by then', reads: 'number' },
  },
  /** Milliseconds from the call, tokenising counted; `DEADLINE_EXCEEDED` if the request has not ended by then. */
  deadlineMs: {
    schema: number(1, Number.MAX_SAFE_INTEGER),
    otherwise: 'no limit',
    wire: 'deadline_ms',
    flag: { form: '--deadline <ms>', help: 'fail if it has not ended by then', reads: 'number' },
  },
} satisfies Rows

/** Every row that generate() and chat() take, in the order of documents. */
export const answerRows = { ...sampling, ...scheduling }

type NativeNames<Table extends Rows> = {
  [Name in keyof Table]: Table[Name] extends { native: true } ? Name : never
}[keyof Table]

/** What the engine is handed of these options, one value each. */
export type NativeSampling = {
  [Name in NativeNames<typeof sampling>]: z.output<(typeof sampling)[Name]['schema']>
}

/** Checked options; of each that the caller left out the model's own default, or that of its row. */
export function nativeSampling(
  options: { [Name in keyof NativeSampling]?: NativeSampling[Name] | undefined },
  defaults: Partial<NativeSampling> = {},
): NativeSampling {
  const rows = Object.entries<OptionRow>(sampling).filter(([, row]) => row.native)
  const entries = rows.map(([row, { default: otherwise }]) => {
    const name = row as keyof NativeSampling
    return [name, options[name] ?? defaults[name] ?? otherwise]
  })
  return Object.fromEntries(entries) as NativeSampling
}

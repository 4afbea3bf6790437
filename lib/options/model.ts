/** Options of a model: how it is planned, loaded, inspected and closed. */
import { z } from 'zod'
import type { KvType } from '../binding.ts'
import { isLogger, type Logger } from '../log.ts'
import { type Speculation, speculation } from './speculation.ts'
import { boolean, integer, MAX_TOKENS, number, parseBytes, parsePercent, signal } from './validate.ts'

/**
 * Where weights rest: in device memory; in system RAM, streamed through the ring at every pass; in system RAM, where
 * beside a GPU the CPU computes the feed-forwards of answers, and long prompts stream them; or in device memory that all
 * models of a GPU share, as long as no other one needs the room. 'demand' is of mixtures, and what `experts` gives them.
 */
export type PlacementHome = 'resident' | 'streamed' | 'cpu' | 'shared' | 'demand'

export interface LoadProgress {
  /**
   * 'tokenizer' and 'checkpoint' count files; 'weights' counts bytes of weights repacked, or read from the cache;
   * 'download' counts bytes of a model's files, those that were there already included.
   */
  stage: 'download' | 'checkpoint' | 'tokenizer' | 'weights'
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
   * How keys and values are kept: 'f16', or 'q8', 8 bits with a scale a head and token: half of the memory, and of what long
   * contexts read. Latents, and states of layers that keep them, stay as they are. A draft model keeps its own alike.
   * Default 'f16'.
   */
  kv?: KvType | undefined
  /**
   * Of mixtures of experts: 'demand' leaves them in system RAM, pinned, where the GPU reads those that a token chooses,
   * and copies those that were chosen of late into a cache of GPU memory; 'resident' treats them as all weights.
   * Default 'auto': on demand where not all of the model fits the GPU. No bit of an answer depends on it.
   */
  experts?: 'auto' | 'resident' | 'demand' | undefined
  /** GPU memory for experts on demand: bytes or '8GiB'; 0: none. Default: what vramBudget leaves. */
  expertCache?: number | string | undefined
  /**
   * true: of the experts on demand that a pass does not find in the cache the CPU answers some, beside those that the GPU
   * reads over the link, as many as end at the same time: the same bits. Not of float weights. Default 'auto': none.
   */
  expertCpu?: 'auto' | boolean | undefined
  /**
   * System RAM for keys and values that the KV cache has no room for: those of preempted requests, and where these leave
   * any, those of earlier requests (prefixReuse), which come back when a text begins alike. Bytes or '4GiB', in whole
   * blocks. It is part of ramBudget, and pinned for a GPU. What finds no room there is computed again; 0: all of it.
   * Default: as much as the KV cache, 4 GiB and a quarter of what the model leaves free at most.
   */
  kvSwap?: number | string | undefined
  /**
   * Of models whose layers keep states, as Qwen3-Next and Qwen3.5: copies of them that are kept, at the ends of prompts and
   * answers, for requests that begin with the same tokens. Each takes what a sequence's states take, part of the KV cache;
   * 0: none, so that nothing is reused. Default: as many as sequences that the plan has states for, 2 at least.
   */
  stateCopies?: number | undefined
  /**
   * Of the same models: drafts of a pass that have a state until it is known which of them stand, at most; memory as of
   * copies. 0: none are made. Default: as many as sequences that the plan has states for, from 2 to 8; none where
   * `speculation` is 'off'.
   */
  stateDrafts?: number | undefined
  /**
   * GPU memory for all of the model: resident weights, ring, KV cache, workspace. Bytes, '6GiB', or a share of what is
   * free, '80%'. Default '90%'. What CUDA itself takes, about half a gigabyte, comes on top. Of each, on several GPUs.
   */
  vramBudget?: number | string | undefined
  /**
   * System RAM for the model: bytes, '64GiB', or a share of what this process may use. Weights that have no room there stay
   * in the packed file (`cache`) and are read for every pass. Default: all that this process may use, and no such reads.
   */
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

/** The checkpoint's own layers, or of 4 or 8 bits. */
export type WeightsType = 'stored' | 'q4' | 'q8'

/** What is made of a checkpoint's floats while they are read. */
export interface MadeWeights {
  /**
   * 'q4' and 'q8' make 4 or 8 bits of every linear of the layers that the checkpoint has in 16 or 32: 8 in groups of
   * 64, 4 in groups of 128 (narrow models: of 64, or of 32 with zeros), whose scales leave the least error, weighed by the
   * norm before. Once: the result is kept with the other repacked
   * weights. model.weightError tells the loss. Default 'stored': as the checkpoint has them.
   */
  weights?: WeightsType | undefined
  /**
   * 'q4' and 'q8' make 4 or 8 bits of a head that the checkpoint has in 16 or 32: a quarter or a half of its memory and
   * of the time to read it, at a loss that model.headError tells. Default 'stored': as the checkpoint has it.
   */
  head?: HeadType | undefined
}

export interface DraftOptions {
  model: string
  /** 'cpu', 'cuda:1'. Default: the model's own, of several the first. */
  device?: string | undefined
  /** Default 'resident'; 'shared': in the arena of the model's own device, with which it takes turns. */
  placement?: 'resident' | 'streamed' | 'shared' | undefined
}

export interface LoadOptions extends PlanOptions, MadeWeights {
  /** Of a model by name: a branch, a tag or a commit. Default 'main'. */
  revision?: string | undefined
  /** Of a model by name: ask nothing of the network. Default: HF_HUB_OFFLINE of the environment. */
  offline?: boolean | undefined
  onProgress?: ((progress: LoadProgress) => void) | undefined
  /** Aborts the load: it rejects with an AbortError whose code is ABORTED, and frees what it had taken. */
  signal?: AbortSignal | undefined
  /** Keep the keys and values of earlier requests for later ones that begin with the same tokens. Default true. */
  prefixReuse?: boolean | undefined
  /**
   * Sampling options that a request leaves out: 'model' takes those of the checkpoint's generation_config.json, 'none'
   * the documented defaults alone. Default 'model'.
   */
  generationConfig?: 'model' | 'none' | undefined
  /**
   * Of those, only what was computed from prompts: then the bits of an answer never depend on which answers came
   * before. Default false.
   */
  deterministic?: boolean | undefined
  /**
   * Requests that may wait: that have not started yet, those included whose texts are being tokenised; the next is
   * refused with QUEUE_FULL. Default: no limit.
   */
  maxQueue?: number | undefined
  /** Tokens guessed ahead and checked several a pass, for requests that do not say. */
  speculation?: Speculation | undefined
  /**
   * A smaller model of the same vocabulary that guesses tokens ahead: a folder, a GGUF file or a name of the hub. It has
   * weights, keys and values of its own, on a GPU within vramBudget.
   */
  draft?: string | DraftOptions | undefined
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

export interface CloseOptions {
  /** Let running requests end first. Default true; false aborts them. */
  drain?: boolean | undefined
  /** Milliseconds that draining may take; what still runs then is aborted. Default: no limit. */
  timeoutMs?: number | undefined
}

const homes = ['resident', 'streamed', 'cpu', 'shared', 'demand'] as const
const placement = z.union([z.enum(['auto', ...homes]), z.array(z.enum(homes)).readonly()], {
  error: `'auto', 'resident', 'streamed', 'cpu', 'shared', 'demand' or an array of one of the last five a layer or a unit`,
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
const bytes = (minimum = 1) => {
  const error = `a size in bytes or as '256MiB' (${UNITS})`
  return z.union(
    [integer(minimum, Number.MAX_SAFE_INTEGER), z.string().refine((text) => parseBytes(text) !== undefined, { error })],
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
  kv: z.enum(['f16', 'q8'], { error: "'f16' or 'q8'" }).optional(),
  kvSwap: bytes(0).optional(),
  stateCopies: integer(0, 65536).optional(),
  stateDrafts: integer(0, 65536).optional(),
  experts: z.enum(['auto', 'resident', 'demand'], { error: "'auto', 'resident' or 'demand'" }).optional(),
  expertCache: bytes(0).optional(),
  expertCpu: z.union([z.literal('auto'), z.boolean()], { error: "'auto', true or false" }).optional(),
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

const revision = { error: 'a branch, a tag or a commit' }
/** Of models by name. */
export const hubOptions = {
  revision: z
    .string(revision)
    // As git has it: no part that leads elsewhere.
    .regex(/^(?!.*(^|\/)\.{0,2}(\/|$))[^\s\0\\]+$/, revision)
    .optional(),
  offline: boolean().optional(),
}

const draftName = z.string().min(1)
const draft = z.union(
  [
    draftName,
    z.strictObject({
      model: draftName,
      device: z
        .string()
        .regex(/^(cpu|cuda(:\d+)?)$/)
        .optional(),
      placement: z.enum(['resident', 'streamed', 'shared']).optional(),
    }),
  ],
  { error: "a model, or an object such as { model: 'folder', device: 'cpu' }" },
)

const made = { weights: head.optional(), head: head.optional() }

export const inspectOptions = z.strictObject({ ...made, ...hubOptions, kv: plan.kv, signal: signal().optional() })

export const loadOptions = z.strictObject({
  ...plan,
  ...hubOptions,
  ...made,
  onProgress: z
    .custom<(progress: LoadProgress) => void>((value) => typeof value === 'function', { error: 'a function' })
    .optional(),
  signal: signal().optional(),
  prefixReuse: boolean().optional(),
  generationConfig: z.enum(['model', 'none'], { error: "'model' or 'none'" }).optional(),
  deterministic: boolean().optional(),
  maxQueue: integer(1, 2 ** 31 - 1).optional(),
  speculation: speculation.optional(),
  draft: draft.optional(),
  cache: z.union([z.boolean(), z.string().min(1)], { error: 'true, false or the path of a folder' }).optional(),
  logger: z.custom<Logger>(isLogger, { error: 'an object with the functions debug, info, warn and error' }).optional(),
  poison: boolean().optional(),
  kernels: z
    .record(z.string(), z.custom<string | Uint8Array>(isImage, { error: imageError }), { error: imageError })
    .optional(),
})

export const closeOptions = z.strictObject({
  drain: boolean().optional(),
  timeoutMs: number(0, Number.MAX_SAFE_INTEGER).optional(),
})

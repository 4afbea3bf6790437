/**
 * The only file that touches the addon: everything native is typed here. The native side trusts nothing but types;
 * options are validated in options/ before they come here.
 */
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { MillraceError } from './errors.ts'
import type { NativeSampling } from './options/sampling.ts'

export type LinearFormat = 'plain' | 'gptq' | 'awq' | 'compressed-tensors' | 'fp8' | 'nvfp4' | 'mxfp4'
/** How a matrix is written in slabs (csrc/model/code.h). */
export const WEIGHT_TYPES = [
  'q4',
  'f16',
  'bf16',
  'f32',
  'q8',
  'q4_1',
  'q5_0',
  'q5_1',
  'q2_k',
  'q3_k',
  'q4_k',
  'q5_k',
  'q6_k',
  'iq4_nl',
  'iq4_xs',
  'mxfp4',
  'nvfp4',
  'fp8',
] as const
export type WeightType = (typeof WEIGHT_TYPES)[number]
export type Home = 'resident' | 'streamed' | 'cpu' | 'shared' | 'demand'

/** A tensor of a checkpoint, as its file describes it. */
export interface NativeTensor {
  name: string
  /** As the format spells it: 'F16', 'I32', 'Q4_K', ... */
  dtype: string
  /** Whether its elements can be read. Of any other type, nothing can be said but its name. */
  known: boolean
  shape: number[]
  /** Index into the paths. */
  file: number
  /** Bytes from the file's start. */
  offset: number
  bytes: number
}

export interface RopeSpec {
  headDim: number
  /** Of so many elements of a head the first half turns with the second; even. */
  rotary: number
  theta: number
  scaling: 'none' | 'linear' | 'dynamic' | 'llama3' | 'yarn'
  factor: number
  lowFrequencyFactor: number
  highFrequencyFactor: number
  originalMaxPosition: number
  /** Cosines and sines are multiplied by it. */
  attentionFactor: number
  /** yarn: turns within the original context above which a pair is kept, below which it is stretched. */
  betaFast: number
  betaSlow: number
  /** yarn: the range between is rounded outwards to whole pairs. */
  truncate: boolean
  /** One a pair, that its frequency is divided by before any scaling. */
  factors?: number[]
  /** The same in contexts longer than originalMaxPosition. */
  longFactors?: number[]
  /** Elements that exponents of frequencies are counted over; the rotated ones where it is left out. */
  span?: number
}

export type Activation = 'silu' | 'gelu' | 'geluTanh' | 'clampedSwiglu' | 'sigmoid'

/**
 * An operation on rows of values, which are numbered; weights are those of its unit, numbered too. What each computes is
 * said in csrc/model/program.h.
 */
export type Op =
  | {
      op: 'norm'
      in: number
      out: number
      begin?: number
      width: number
      groups?: number
      weight?: number
      bias?: number
      epsilon: number
      mean?: boolean
      add?: boolean
    }
  | {
      op: 'scale'
      value: number
      begin?: number
      width: number
      factor?: number
      weight?: number
      cap?: number
      growth?: number
      period?: number
    }
  | { op: 'add'; in: number; out: number; scale?: number }
  | { op: 'linear'; in: number; out: number; linear: number; add?: boolean }
  | { op: 'glu'; in: number; out: number; linear: number; activation: Activation }
  | {
      op: 'gate'
      in: number
      by: number
      begin: number
      out: number
      activation: Activation
      inBegin?: number
      /** One number a row is the gate of all its columns. */
      scalar?: boolean
    }
  | { op: 'gather'; table: number; out: number; scale?: number }
  | {
      op: 'attend'
      qkv: number
      out: number
      heads: number
      kvHeads: number
      headDim: number
      kvClass: number
      kvLayer: number
      rope: number
      scale?: number
      cap?: number
      sinks?: number
      readsOnly?: boolean
    }
  | {
      op: 'latent'
      /** Of each head what does not turn, then what does. */
      q: number
      /** What keys and values are made of, then the part of the keys that turns. */
      latent: number
      out: number
      linear: number
      heads: number
      rank: number
      nope: number
      rotary: number
      valueDim: number
      kvClass: number
      kvLayer: number
      rope: number
      scale?: number
      /** Neighbours turn together; else halves. */
      interleaved?: boolean
    }
  | {
      op: 'route'
      in: number
      out: number
      experts: number
      topK: number
      score: 'softmax' | 'sigmoid'
      selectBias?: number
      groups?: number
      topGroups?: number
      /** Of a group's best scores, how many are summed: 1 or, where it is left out, 2. */
      groupBest?: 1
      renormalise?: boolean
      scale?: number
    }
  | {
      op: 'experts'
      in: number
      routes: number
      out: number
      /** The first of two an expert: gate and up, then down. */
      linear: number
      experts: number
      activation: Activation
      alpha?: number
      limit?: number
    }
  | ({
      op: 'conv'
      in: number
      out: number
      begin?: number
      channels: number
      taps: number
      weight: number
    } & StatePlace)
  | ({
      op: 'delta'
      /** Query heads, key heads, value heads. */
      in: number
      /** Of every value head b, then a. */
      gates: number
      out: number
      keyHeads: number
      valueHeads: number
      keyDim: number
      valueDim: number
      rate: number
      bias: number
      /** Value heads take key heads in turn. */
      inTurn?: boolean
    } & StatePlace)

/** Of the floats that a layer of a class of states keeps of a sequence, those from `stateBegin` on. */
export interface StatePlace {
  kvClass: number
  kvLayer: number
  stateBegin: number
}

export interface LinearShape {
  k: number
  /** Output features of each of the matrices that lie side by side. */
  parts: number[]
  glu?: boolean
}

export interface ProgramUnit {
  name: string
  layer: number
  head: boolean
  ops: Op[]
  /** Widths of the norms' weights. */
  vectors: number[]
  linears: LinearShape[]
}

/** How keys and values are kept: float16, or 8 bits with a scale a head and token. */
export type KvType = 'f16' | 'q8'

/** Layers whose keys and values have one shape and are kept for as long. */
export interface KvClass {
  layers: number
  /** Positions that a row sees, its own counted; 0: all before it. */
  window: number
  kvHeads: number
  headDim: number
  /** Floats that a layer keeps of a sequence in the place of keys and values. */
  state?: number
  /** Rows of headDim that are keys and values at once. */
  latent?: boolean
}

/** What a model computes, unit by unit. The native side checks it. */
export interface Program {
  vocab: number
  maxPosition: number
  /** Widths; the residual stream first. */
  values: number[]
  /** The value that the head writes. */
  logits: number
  /** Widths of the embedding tables. */
  tables: number[]
  embed: Op[]
  units: ProgramUnit[]
  kv: KvClass[]
  ropes: RopeSpec[]
}

/** Of heads whose first `rotary` elements turn: each with the one half of them further on, or with its neighbour. */
export interface HeadOrder {
  headDim: number
  rotary: number
  interleaved: boolean
}

/** A part of a tensor's `of` rows: `run` (1) from `begin` on, and from each `step` further on. */
export interface RowRange {
  begin: number
  of: number
  step?: number
  run?: number
}

/**
 * How a linear is stored: tensor names, '' where the format has none; `name[3]` is a part of a tensor. See
 * csrc/checkpoint/repack.h.
 */
export interface LinearSource {
  format: LinearFormat
  weight: string
  zeros: string
  scales: string
  gIdx: string
  /** compressed-tensors: weight_shape. */
  shape: string
  bias: string
  bits: number
  groupSize: number
  symmetric: boolean
  zerosMinusOne: boolean
  heads?: HeadOrder
  rows?: RowRange
  /** fp8: rows of a block of groupSize input features; 1 where each row has a scale. */
  blockRows: number
  /** nvfp4: the tensor's scale, and whether it divides. */
  globalScale: string
  globalDivides: boolean
  /** Plain floats are made so many bits while they are read; 0: they stay. */
  makeBits: 0 | 4 | 8
  /** Of 4 bits: input features that share a scale; 0: 128. Fewer where their number is no multiple. */
  makeGroup: 0 | 32 | 64 | 128
  /** Plain: input features are the file's rows. */
  transposed?: boolean
  /** Plain, what makes keys and values of latents: the tensor of keys [heads, rank, nope], `weight` being that of values. */
  keys?: string
}

/** Texts one after the other in UTF-8, and where each ends. */
export interface NativeGgufStrings {
  bytes: Uint8Array
  ends: Uint32Array
}

/** A value of GGUF's metadata; booleans of an array are bytes, integers beyond 2^53 bigints. */
export type NativeGgufValue =
  | number
  | bigint
  | boolean
  | string
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array
  | NativeGgufStrings

export interface VectorSource {
  tensor: string
  /** Stored as what is added to 1. */
  plusOne?: boolean
  /** Of a norm of heads: the order of their rows. */
  heads?: HeadOrder
  /** e to the power of what is stored. */
  exponential?: boolean
  negated?: boolean
  /** Stored as a matrix of so many columns. */
  columns?: number
}

/** Where the weights of a unit of the program come from: one a vector, one a part of each linear. */
export interface UnitSource {
  vectors: VectorSource[]
  linears: LinearSource[][]
}

export interface ModelSource {
  program: Program
  units: UnitSource[]
  /** Names of the embedding tables. */
  tables: string[]
  /** Make 4 or 8 bits of a head of floats while it is repacked; 0: leave it. */
}

/** Of a unit with a mixture: how many experts it has, how many of them answer a token, bytes of all. */
export interface NativeExperts {
  count: number
  chosen: number
  bytes: number
}

export interface NativeUnit {
  /** 'attention 3', 'feed-forward 3', 'head' */
  name: string
  /**
   * What may be done with it: `feedForward` reads and writes the residual stream alone, so that the CPU can compute it beside
   * a GPU; `attention` is all else of a layer.
   */
  kind: 'attention' | 'feedForward' | 'head'
  /** -1 of the head. */
  layer: number
  /** Of NativeSlabPlan.kv, the one whose keys and values it appends; -1: none. */
  kvClass: number
  bytes: number
  /** The weight types of its matrices, e.g. ['q4', 'q4']. */
  types: readonly WeightType[]
  experts?: NativeExperts
}

/** Keys and values of the layers that are kept for as long. */
export interface NativeKvClass {
  layers: number
  /** 0: all positions are kept. */
  window: number
  /** Of all its layers, in float16; 0 of a class of states. */
  bytesPerToken: number
  /** The same of 8 bits; left out where they cannot be had: of states and latents. */
  q8BytesPerToken?: number
  /** What bytesPerToken is of, where a plan has chosen; never the native side's. */
  type?: KvType
  /** Of a class of states: what all its layers keep of a sequence, however long it is; else 0. */
  bytesPerSequence: number
}

export interface NativeSlabPlan {
  layoutVersion: number
  units: NativeUnit[]
  kv: NativeKvClass[]
  /** Of all classes. */
  kvBytesPerToken: number
  embeddingBytes: number
  embeddingType: WeightType
}

export interface SyntheticOptions {
  /** Of the layers' linears; q4_k_m: q4_k, and q6_k where llama.cpp's Q4_K_M has it. */
  layers: WeightType | 'q4_k_m'
  /** Input features that share a scale in linears of q4; a multiple of 16. */
  group: number
  /** Of q4: integer zeros about 8 instead of exactly 8. */
  zeros: boolean
  head: WeightType
  embedding: 'f16' | 'bf16' | 'f32'
  seed: number
}

export type NativeWeightsSource =
  | {
      paths: string[]
      source: ModelSource
      /** Identifies the checkpoint's content (paths, sizes, times): environments that load the same share its slabs. */
      identity: string
      /** A file of slabs to read instead of the weights, if it holds just these; '' for none. */
      packed: string
    }
  /** Random weights in a real shape: for benches. `packed`: where units stay that RAM is not to hold, if any. */
  | { synthetic: { program: Program; options: SyntheticOptions; packed?: string } }

/** A model that drafts for the one that is loaded. */
export type NativeDraftModel = NativeWeightsSource & {
  device: string
  /** 'resident' or 'streamed', one a unit. */
  homes: Home[]
  ringBytes: number
  contextLength: number
  /** Of each class: windows keep all. */
  kvBlocks: number
  kvType: KvType
  maxRows: number
  /** That it drafts for in one pass. */
  maxSequences: number
  /** Seconds of its passes with 1, 2, ... rows. */
  passCosts: number[]
}

export type NativeLoadRequest = NativeWeightsSource & NativeLoadSettings

export interface NativeLoadSettings {
  /** 'cpu', 'cuda:0', ...; of one kind. */
  devices: string[]
  /** One home a unit, in the order of NativeSlabPlan.units. */
  homes: Home[]
  /** One a unit: which of the devices has it. Empty: the first has all. */
  unitDevices: number[]
  /** One a device. */
  ringBytes: number[]
  /** One a device: of each window through which units that stay in the packed file are read. */
  windowBytes: number[]
  /** One a unit: it stays in the packed file. Empty: none does. */
  inFile: boolean[]
  /** Rows cross straight into another device's memory, where there is a way. */
  directHops: boolean
  /** Device memory for the shared units of all models of this device; 0: as it is. */
  arenaBytes: number
  /** Device memory for experts of units at home on demand. */
  expertCacheBytes: number
  /** CPU threads that answer experts which are not there, and the rates by which they are shared out. */
  answers?: { threads: number; linkBytesPerSecond: number; bytesPerSecond: number; hopSeconds: number } | undefined
  /** How long it keeps the arena from others that wait, while it has work. */
  turnMs: number
  /** With more sequences that decode than this, units at home on the CPU are streamed for them all. */
  cpuRows: number
  contextLength: number
  /** One a class of NativeSlabPlan.kv. */
  kvBlocks: number[]
  /** Of the blocks of states, those that drafts have. */
  draftStates: number
  /** Of keys and values, latents aside. */
  kvType: KvType
  /** Of system RAM, for keys and values that leave the cache. */
  kvSwapBytes: number
  /** Rows of a step: decode rows first, then prefill. */
  maxRows: number
  /** Rows of a step whose logits may be asked for. */
  maxLogitRows: number
  /** Threads of the CPU twin, the caller counted. */
  threads: number
  /** Reuse keys and values of earlier requests that begin with the same tokens. */
  prefixReuse: boolean
  /** Of those, only what prefill computed: then a request's bits never depend on what came before. */
  deterministic: boolean
  /** What passes with 1, 2, ... decode rows cost, in any unit: so many drafts are worth their rows. Empty: rows are free. */
  passCosts: number[]
  draft?: NativeDraftModel | undefined
  /** Requests that may wait; 0: any number. */
  maxQueue: number
  /** Fill freed ring slots with NaN patterns: for tests, costs bandwidth. */
  poison: boolean
  /** On a GPU, in the place of the package's own. */
  kernels?: NativeKernelImage[]
  /** What rows choose of mixtures in the place of their routers: [entries, mixtures, chosen] numbers of experts. */
  drawnRoutes?: { entries: number; experts: Uint16Array } | undefined
  /** Chosen by the caller; progress events carry it, cancelLoad takes it. */
  loadId: number
}

export interface NativeRequestBase extends NativeSchedule {
  tokens: Int32Array
  /** Milliseconds since the caller's call: limits and timings count from there. */
  ageMs: number
}

/** Continues the tokens. */
export interface NativeGenerateRequest extends NativeSampling {
  kind: 'generate'
  maxTokens: number
  /** None of the stop tokens is chosen before there are so many. */
  minTokens: number
  /** Tokens, each once, and what is added to their logits. */
  biasTokens: Int32Array
  biasValues: Float32Array
  /** Integer in [0, 2^53). */
  seed: number
  stopTokens: Int32Array
  /** What the answer must be. */
  constraint?: NativeConstraint | undefined
  /** At most so many drafts a pass; 'auto': as many of them as are worth it. */
  draftMethod: 'auto' | 'ngram' | 'draft' | 'off'
  draftTokens: number
  /** For benches: what the answer may be, in the place of what its drafter finds. */
  foreseen: Int32Array
  /** Log-probabilities of generated tokens. */
  logprobs: boolean
  /** So many of the highest log-probabilities at each token. */
  topLogprobs: number
}

/** Gives the log-probability of each of the tokens. */
export interface NativeScoreRequest {
  kind: 'score'
  /** Every position's logits too, float32 [tokens, vocab]. */
  logits: boolean
}

/** Pools the final hidden states of the tokens. */
export interface NativeEmbedRequest {
  kind: 'embed'
  pooling: 'mean' | 'last'
}

export type NativeRequestKind = NativeGenerateRequest | NativeScoreRequest | NativeEmbedRequest
export type NativeRequest = NativeRequestBase & NativeRequestKind

export interface NativeSchedule {
  /** Higher goes first; int32. */
  priority: number
  /** Milliseconds from the call; 0: none. */
  queueTimeoutMs: number
  deadlineMs: number
}

export type NativeFinish = 'stop' | 'length' | 'abort' | 'error'

export interface NativeTokensEvent {
  type: 'tokens'
  model: number
  request: number
  /** Generated since the last event; a stop token is not among them. */
  tokens: Int32Array
  /** generate: one a token if asked for. score: with `finish`, [tokens - 1]. */
  logprobs?: Float32Array
  logits?: Float32Array
  /** embed: with `finish`, [hidden], of length 1. */
  embedding?: Float32Array
  /** [tokens, topLogprobs] if asked for, highest first; -1 and NaN where the vocabulary has no more. */
  topTokens?: Int32Array
  topLogprobs?: Float32Array
  finish?: NativeFinish
  error?: { code: string; message: string; remedy: string }
  /** With `finish`: milliseconds from the call to the start, to the first token, to the end. */
  timings?: { queueMs: number; firstTokenMs: number; totalMs: number }
  /** With `finish`: of the answer's drafts, those that were made and those that were right. */
  draftedTokens?: number
  acceptedTokens?: number
}

export interface NativeProgressEvent {
  type: 'progress'
  load: number
  done: number
  total: number
}

/** One pass over a model whose steps are observed. */
export interface NativeStepEvent {
  type: 'step'
  model: number
  /** Computed, and those of them that decode. */
  rows: number
  decodeRows: number
  /** That had rows. */
  sequences: number
  /** Requests that wait. */
  waiting: number
  kvBlocksUsed: number
  /** From choosing the rows, or from having the step before if that was later, to having the tokens. */
  ms: number
}

export type NativeEvent = NativeTokensEvent | NativeStepEvent | NativeProgressEvent

export interface NativeStats {
  /** Passes over the model. */
  steps: number
  /** Rows computed, of either kind. */
  decodeRows: number
  prefillRows: number
  /** Copied into the ring, and the part of it that no pass has used yet. */
  copiedBytes: number
  prefetchedBytes: number
  /** Copied for a pass that then needed other units; copied through the staging window, for want of pinned memory. */
  droppedBytes: number
  stagedBytes: number
  /** Read in the packed file. */
  fileBytes: number
  /** Of the slabs, pinned so far. */
  pinnedBytes: number
  /** Times that hidden rows went to the CPU and back in the middle of a pass. */
  hops: number
  /** Copied into the arena, and the passes that had to. */
  arenaCopiedBytes: number
  switches: number
  /** Milliseconds that steps took in all, and those of them that brought weights to the arena. */
  stepMs: number
  switchMs: number
  /** Streamed units handed to passes. */
  streamedUnits: number
  /** Read by linears, whatever the number of rows. */
  weightBytesRead: number
  runningSequences: number
  /** Admitted and not started, those included that are not submitted yet; and preempted ones. */
  waitingSequences: number
  kvBlocksUsed: number
  kvBlocksTotal: number
  /** Tokens of admitted prompts, how many of them were found in the prefix cache, and of those in system RAM. */
  promptTokens: number
  reusedTokens: number
  returnedTokens: number
  /**
   * Sequences that gave up their blocks to others, those of them that are computed again for want of room in system RAM,
   * and the bytes that the others have there now.
   */
  preemptions: number
  recomputations: number
  draftedTokens: number
  acceptedTokens: number
  /** Of the draft model, and the milliseconds that they took. */
  draftPasses: number
  draftMs: number
  savedKvBytes: number
  /** Beside those, what the prefix cache has there. */
  tierKvBytes: number
  /** Experts that passes read in the cache, and in system RAM; bytes copied into the cache; its places, and those taken. */
  expertHits: number
  expertMapped: number
  /** Experts that the CPU has answered. */
  expertCpu: number
  promotedBytes: number
  expertFrames: number
  usedFrames: number
}

export interface NativeMemory {
  /** Slabs and embedding in system RAM; shared by models of one identity. */
  hostBytes: number
  /** Copies of resident units on the device; 0 on the CPU, which reads them where they lie. */
  residentBytes: number
  /** In the arena now. */
  sharedBytes: number
  ringBytes: number
  kvBytes: number
  /** Reserved in system RAM for keys and values that leave the cache. */
  kvSwapBytes: number
  workspaceBytes: number
  /** Of the draft model, beside all that: weights in system RAM, and everything that it has on its device. */
  draftHostBytes: number
  draftDeviceBytes: number
  /** The same by device, and what it has copied over its link. */
  devices: NativeDeviceMemory[]
}

export interface NativeDeviceMemory {
  device: string
  residentBytes: number
  ringBytes: number
  kvBytes: number
  workspaceBytes: number
  copiedBytes: number
  /** Rows come from other devices straight into its memory. */
  directHops: boolean
}

/**
 * What became of the file of slabs: 'read'; 'absent'; 'stale' (made from other files) or 'damaged' (removed), with a
 * reason; 'unused' if none was named, or if the model was in memory already.
 */
export interface NativePacked {
  state: 'unused' | 'absent' | 'stale' | 'damaged' | 'read'
  reason: string
}

/** The bytes of all tokens, in the form that masks are made from. */
export interface NativeVocabulary {
  readonly native?: never
}

/** A compiled constraint of one vocabulary, with the states and masks that it has made so far. */
export interface NativeConstraint {
  /** Whether an answer may be these bytes, as a whole. */
  accepts(text: Uint8Array): boolean
  /**
   * Masks before each of the tokens that may come and behind the last of them, a bit a token from the lowest on, and the
   * microseconds that each took: for tests and benches.
   */
  trace(tokens: Int32Array): { taken: number; accepts: boolean; masks: Uint32Array[]; us: Float64Array }
  /** Of memory. */
  readonly bytes: number
}

export interface NativeModel {
  readonly id: number
  /** Of a head that was made 4 bits: root mean squares relative to those of what it was made of. */
  readonly headError: { weights: number; logits: number } | undefined
  readonly weightError: { weights: number; results: number } | undefined
  readonly packed: NativePacked
  /** From the native load's beginning until the device had started, the weights were in RAM, all was in its place. */
  readonly timings: { deviceMs: number; weightsMs: number; totalMs: number }
  /** Writes the file of slabs in the background; why nothing was written, or ''. Of a model whose load named it. */
  writePacked(path: string): Promise<string>
  /**
   * A place among the requests that may wait, and the request's id, unique in the process and larger for what came
   * later. Throws QUEUE_FULL (with retryAfterMs). Each is submitted or withdrawn, once.
   */
  admit(): number
  withdraw(): void
  /** Returns the id. Throws CONTEXT_OVERFLOW; the place is kept then. */
  submit(id: number, request: NativeRequest): number
  /** The request ends with finish 'abort' unless it has ended already. */
  cancel(request: number): void
  /** Step events from now on, or no more. */
  observeSteps(on: boolean): void
  stats(): NativeStats
  memory(): NativeMemory
  /**
   * Other homes from the next pass on; units move between 'resident' and 'streamed' only. Resolves to the homes that it
   * came to: where the device has no room, a unit stays streamed.
   */
  setHomes(request: { homes: Home[]; ringBytes: number[] }): Promise<Home[]>
  /** Writes what copies, kernels and waits take to a file of trace events; '': no more. */
  trace(path: string): Promise<void>
  /** Writes what rows choose of mixtures to a file; '': no more. */
  traceRoutes(path: string): Promise<void>
  /** Bytes of device memory for the shared units of all models of its device. */
  setArena(bytes: number): Promise<void>
  /** Bytes of device memory for experts on demand. Resolves to what it came to. */
  setExpertCache(bytes: number): Promise<number>
  /** Lets running requests end for up to timeoutMs (drain) or aborts them, then frees the model. Idempotent. */
  close(drain: boolean, timeoutMs: number): Promise<void>
}

export interface NativeCpu {
  arch: string
  model: string
  features: string[]
  /** The kernels chosen at run time: 'avx512vnni', 'avx512', 'avx2', 'plain'. */
  kernels: string
  /** Cores this process may use: affinity and cgroup quota, rounded up. */
  cores: number
  coresOnline: number
  memoryBytes: number
  /** Cgroup limit, or memoryBytes. */
  memoryLimitBytes: number
  memoryAvailableBytes: number
}

export interface NativeGpu {
  index: number
  name: string
  computeCapability: string
  memoryBytes: number
  memoryFreeBytes: number
  link: string
}

/** A kernel of somebody else's, in the place of one operation on a GPU. */
export interface NativeKernelImage {
  operation: string
  /** Where it came from, for messages. */
  source: string
  /** cubin, fatbin or PTX. */
  image: Uint8Array
}

export interface NativeDimension {
  name: string
  what: string
  required: boolean
  fallback?: number
  least: number
  most: number
  integer: boolean
}

export interface NativeOperation {
  name: string
  what: string
  /** A kernel of one's own may take its place. */
  replaceable: boolean
  dimensions: NativeDimension[]
  arguments: { name: string; access: 'in' | 'inout' | 'out'; type: string; shape: string; what: string }[]
}

export interface NativeProblem {
  operation: string
  dimensions: Record<string, number>
  arguments: { name: string; access: 'in' | 'inout' | 'out'; type: string; shape: number[]; bytes: number }[]
  weightBytes: number
  bytes: number
  operations: number
  matrix?: {
    offset: number
    permutationOffset: number
    kStored: number
    rowBlocks: number
    rowBlockBytes: number
    groups: number
    groupBytes: number
    groupHeaderBytes: number
    spanHeaderBytes: number
    tileBytes: number
  }
}

export interface NativeLaunch {
  operation: string
  dimensions: Record<string, number>
  /** In the order of the operation's arguments. */
  buffers: { id: number; offset: number }[]
  /** 0: the built-in kernel. */
  kernel: number
}

export interface NativeKernel {
  id: number
  threads: number
  registers: number
  sharedBytes: number
  localBytes: number
}

/** Calls run one after the other on a thread of the lab's own. Things are numbers; one number names one thing. */
export interface NativeLab {
  allocate(bytes: number, host: boolean): Promise<number>
  createStream(): Promise<number>
  createEvent(): Promise<number>
  loadKernel(image: NativeKernelImage): Promise<NativeKernel>
  release(id: number): Promise<void>
  write(buffer: number, offset: number, data: Uint8Array): Promise<void>
  read(buffer: number, offset: number, bytes: number): Promise<ArrayBuffer>
  copy(stream: number, to: number, toOffset: number, from: number, fromOffset: number, bytes: number): Promise<void>
  fill(stream: number, buffer: number, offset: number, bytes: number, value: number): Promise<void>
  record(stream: number, event: number): Promise<void>
  wait(stream: number, event: number): Promise<void>
  synchronize(stream: number): Promise<void>
  elapsed(begin: number, end: number): Promise<number>
  launch(stream: number, launch: NativeLaunch): Promise<void>
  time(launches: NativeLaunch[], count: number, repeats: number): Promise<number[]>
  randomise(launch: NativeLaunch, seed: number, outputs: boolean): Promise<void>
  readBandwidth(): Promise<number>
  close(): Promise<void>
}

export interface NativeLabs {
  open(device: string, threads: number): Promise<NativeLab>
  operations(): NativeOperation[]
  describe(operation: string, dimensions: Record<string, number>): NativeProblem
  /** What encoders and kernels use: lib/lab/layout.ts is held against it. */
  slabLayout(): {
    version: number
    tileN: number
    tileK: number
    q4TileBytes: number
    alignment: number
    padding: number
    nibbleOf: number[]
    elementOf: number[]
    scaleOf: number[]
  }
  kernelArguments(): Record<'linear' | 'launch', { bytes: number; offsets: Record<string, number> }> & {
    version: number
  }
}

export interface NativeAddon {
  version: string
  lab: NativeLabs
  /** The sampling options that a request's reader takes, by name. */
  samplingOptions(): string[]
  /** Reads headers only. */
  readTensors(paths: string[]): NativeTensor[]
  /** The metadata of a GGUF file, keys and values in the file's order. */
  readGguf(path: string): { version: number; keys: string[]; values: NativeGgufValue[]; tensorCount: number }
  planSlabs(paths: string[], source: ModelSource): Promise<NativeSlabPlan>
  planSynthetic(program: Program, options: SyntheticOptions): NativeSlabPlan
  probeCpu(): NativeCpu
  /** Bytes a second of one read pass over a buffer far larger than the caches, the best of several. */
  measureDramBandwidth(threads: number): Promise<number>
  /** Bytes a second of copies of 1 GiB from pinned host memory to the GPU, the best of five. */
  measureLinkBandwidth(gpu: number): Promise<number>
  /** Bytes a second of reads of a file past the page cache, the median of rounds that begin within so many seconds. */
  measureReadRate(path: string, seconds: number): Promise<number>
  /** Weights in system RAM of all models of the process, shared ones once. */
  weightBytes(): number
  /** A model of this identity is loaded, or being loaded: another takes no weights of its own. */
  holdsWeights(identity: string): boolean
  /** GPUs, or the sentence that says why there are none. */
  probeGpus(): { gpus: NativeGpu[]; reason: string; lost?: boolean }
  /** Once per environment: all events of its loads and requests come here, in batches. */
  attach(onEvents: (events: NativeEvent[]) => void): void
  /** What probeGpus() says; then the GPU starts, ahead of a load. What fails is for the load to tell. */
  startDevice(device: string): Promise<{ gpus: NativeGpu[]; reason: string; lost?: boolean }>
  /** Of Pieces.shared; on a thread of its own. */
  createVocabulary(table: Uint8Array): Promise<NativeVocabulary>
  /** Of what compileTask() made. */
  createConstraint(program: Uint32Array, vocabulary: NativeVocabulary): NativeConstraint
  load(request: NativeLoadRequest): Promise<NativeModel>
  cancelLoad(loadId: number): void
  /** A pending request keeps the process alive: counts up and down. */
  ref(): void
  unref(): void
}

let loaded: NativeAddon | undefined

/** Loads the addon at first use, so that importing the package never fails for want of it. */
export function addon(): NativeAddon {
  loaded ??= loadAddon(process.platform, process.arch)
  return loaded
}

const PLATFORMS = ['linux-x64', 'linux-arm64']

/** What was built here (`millrace build`, a clone), else the package of this platform. */
export function loadAddon(platform: string, arch: string): NativeAddon {
  const name = `${platform}-${arch}`
  if (!PLATFORMS.includes(name)) throw unsupported(platform, arch)
  const require = createRequire(import.meta.url)
  const root = packageRoot()
  const load = require('node-gyp-build') as (folder: string) => NativeAddon
  const places = [
    ['its own build', () => root],
    [`@millrace/${name}`, () => dirname(require.resolve(`@millrace/${name}/package.json`))],
  ] as const
  const failures: { place: string; cause: Error }[] = []
  for (const [place, folderOf] of places) {
    try {
      return load(folderOf())
    } catch (error) {
      failures.push({ place, cause: error as Error })
    }
  }
  // Where one was found and does not load, that is what is wrong.
  const { place, cause } = failures.find((failure) => !isAbsent(failure.cause)) ?? failures[1]!
  throw new MillraceError('ADDON_NOT_BUILT', {
    message: isAbsent(cause)
      ? `the native addon was found neither in ${join(root, 'build')} nor as the package @millrace/${name}`
      : `the native addon of ${place} could not be loaded: ${cause.message.split('\n')[0]}`,
    cause,
  })
}

const isAbsent = ({ message, code }: Error & { code?: string }) =>
  code === 'MODULE_NOT_FOUND' || message.startsWith('No native build was found')

function unsupported(platform: string, arch: string): MillraceError {
  return new MillraceError('PLATFORM_UNSUPPORTED', {
    message: `millrace has no native side for ${platform} on ${arch}`,
    remedy:
      platform === 'win32'
        ? 'run it in WSL2 (wsl --install), where Windows lends its GPU to Linux'
        : 'run it on Linux, x64 or arm64, or in a Linux container',
  })
}

/** The folder of package.json: one above lib/ in the sources and one above dist/ in the package. */
export function packageRoot(): string {
  return dirname(dirname(fileURLToPath(import.meta.url)))
}

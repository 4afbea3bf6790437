/** A loaded model: what load() resolves to. */
import type { z } from 'zod'
import type {
  Home,
  NativeConstraint,
  NativeGenerateRequest,
  NativeMemory,
  NativeModel,
  NativeSchedule,
  NativeStats,
} from '../binding.ts'
import type { SamplingDefaults } from '../checkpoint/generation_defaults.ts'
import type { ModelSpec } from '../checkpoint/spec.ts'
import { nativeConstraint } from '../constraint/constraint.ts'
import type { Constraint, ObjectOf } from '../constraint/types.ts'
import { MillraceError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { budgetSchema, type CloseOptions, closeOptions, type PlanOptions } from '../options/model.ts'
import {
  type ChatMessage,
  type ChatOptions,
  chatOptions,
  checkLengths,
  checkMessages,
  type EmbedOptions,
  embedOptions,
  type GenerateOptions,
  generateOptions,
  type ScheduleOptions,
  type ScoreOptions,
  scoreOptions,
} from '../options/request.ts'
import { nativeSampling } from '../options/sampling.ts'
import { checkDrafts, draftsOf, type Speculation } from '../options/speculation.ts'
import { invalidArgument, validate } from '../options/validate.ts'
import { withinBudgets } from '../plan/budget.ts'
import { KV_BLOCK_TOKENS, type ModelPlan, type PlannedDevice, withExpertCache, withPlaced } from '../plan/plan.ts'
import type { Prediction } from '../plan/predict.ts'
import { budgetBytes } from '../plan/vram.ts'
import { isPlain, ParsedAnswer, tokensOf } from '../text/chat/answer.ts'
import { constrainedCalls, constrainedText } from '../text/chat/constrain.ts'
import type { Tool } from '../text/chat/types.ts'
import type { SpecialTokens, TextCodec } from '../text/tokenizer/codec.ts'
import type { ModelCache } from './cache.ts'
import { Embedding, type EmbedResult, embedAll } from './embedding.ts'
import { foreseenBy } from './foreseen.ts'
import { type AnswerReading, Generation } from './generation.ts'
import { offeredConstraint } from './offered.ts'
import { closedError, RequestQueue } from './queue.ts'
import type { PromptSource } from './request.ts'
import { awaitNative, callNative, runtime } from './runtime.ts'
import { Score, type ScoreResult } from './score.ts'

type AnswerOptions = z.output<typeof generateOptions>

/** A text, or the ids of its tokens, which then are taken as they are. */
export type Prompt = string | readonly number[] | Int32Array

/** Counted since the load. */
export interface ModelStats {
  /** Passes over the model, and milliseconds that they took. */
  steps: number
  stepMs: number
  /** Rows computed: one a token. */
  rows: { decode: number; prefill: number }
  /** Bytes of weights that linears have read, whatever the number of rows. */
  weightBytesRead: number
  /**
   * `units` counts streamed units that passes have used; no pass has used `prefetchedBytes` of the copied ones yet, and
   * none will use `droppedBytes`. `stagedBytes` of them were not pinned, and took the slower way. `fileBytes` were read
   * in the packed file, for want of RAM.
   */
  streaming: {
    copiedBytes: number
    prefetchedBytes: number
    droppedBytes: number
    stagedBytes: number
    fileBytes: number
    units: number
    /** Of the copied bytes, those over each device's link. */
    devices: { device: string; copiedBytes: number }[]
  }
  /** Bytes copied into the arena that models share, the passes that had to, and milliseconds that these took. */
  arena: { copiedBytes: number; switches: number; switchMs: number }
  /**
   * Of experts on demand that passes chose: read in the cache, in system RAM (`mapped`), and answered by the CPU (`cpu`);
   * the cache's share, 0 of none. Of the cache: bytes copied into it, how many experts it holds at most, and now.
   */
  experts: {
    hits: number
    mapped: number
    cpu: number
    hitRate: number
    promotedBytes: number
    frames: number
    usedFrames: number
  }
  /** Times that hidden rows went from the GPU to the CPU and back in the middle of a pass. */
  hops: number
  /**
   * `preemptions`: times that a sequence gave up its blocks to others; its keys and values went to system RAM, but for
   * `recomputations` of them, for which there was no room: these are computed again.
   */
  sequences: { running: number; waiting: number; preemptions: number; recomputations: number }
  /** Of tokens that were guessed ahead: those that passes have checked, and those that were right. */
  speculation: { draftedTokens: number; acceptedTokens: number; draftPasses: number; draftMs: number }
  /** In system RAM now, of `swapBytes` at most: keys and values of preempted sequences, and those of earlier texts. */
  kv: {
    blocksUsed: number
    blocksTotal: number
    blockTokens: number
    savedBytes: number
    tierBytes: number
    swapBytes: number
  }
  /**
   * Tokens of the prompts that have started, and how many of them needed no computing; their ratio, 0 of no tokens. Of
   * those that needed none `returnedTokens` came back from system RAM.
   */
  prefixCache: { promptTokens: number; reusedTokens: number; returnedTokens: number; hitRate: number }
}

/** Bytes. */
export interface ModelMemory {
  /** Weights in system RAM; models of the same files share them. */
  hostBytes: number
  /** Of those, what is pinned for the device to read: the embedding table, and slabs that are not resident; 0 on the CPU. */
  pinnedBytes: number
  /** Copies of resident weights on the device; 0 on the CPU, which reads them where they lie. */
  residentBytes: number
  /** Weights in the arena that models share, as of now. */
  sharedBytes: number
  /** What streamed weights pass through. */
  ringBytes: number
  /** The KV cache. */
  kvBytes: number
  /** System RAM for keys and values that leave the cache, pinned for a GPU; what preempted sequences take of it now. */
  kvSwapBytes: number
  savedKvBytes: number
  workspaceBytes: number
  /** Of all that, what is on the GPU; 0 on the CPU. */
  vramBytes: number
  /** Of the draft model, beside all that: its weights in system RAM, and what it has on its device. */
  draft?: { hostBytes: number; deviceBytes: number }
  /** Each device's part of what is on devices. */
  devices: {
    device: string
    residentBytes: number
    ringBytes: number
    kvBytes: number
    workspaceBytes: number
    /** Rows come straight from other GPUs' kernels, not by way of system RAM. */
    directHops: boolean
  }[]
}

/** What load() has put together. */
export interface ModelParts {
  native: NativeModel
  path: string
  architecture: string
  spec: ModelSpec
  plan: ModelPlan
  /** As the caller had it. */
  ring: PlanOptions['ring']
  /** Bytes of a GPU that shares are of. */
  gpuMemory: (device: PlannedDevice) => number
  /** How fast it is with other homes. */
  predict: (plan: Omit<ModelPlan, 'prediction'>) => Prediction
  tokenizer: TextCodec
  cache: ModelCache | undefined
  log: Logger
  samplingDefaults: SamplingDefaults
  /** As the load has named it. */
  speculation: Speculation | undefined
  /** Of embeddings, as the checkpoint says; undefined if it says nothing. */
  pooling: 'mean' | 'last' | undefined
  /** Tokens that end an answer. */
  endTokens: readonly number[]
}

export class Model implements AsyncDisposable {
  /** The checkpoint's folder, or its GGUF file. */
  readonly path: string
  /** As config.json spells it: 'LlamaForCausalLM'. */
  readonly architecture: string
  readonly spec: Readonly<ModelSpec>
  /** The file that keeps the repacked weights for the next load; undefined where none is kept. */
  readonly cache: Readonly<ModelCache> | undefined
  /** As generate() and chat() use it. */
  readonly tokenizer: Pick<TextCodec, 'encode' | 'decode' | 'idOf' | 'bytesOf' | 'applyChatTemplate' | 'encodeChat'>

  readonly #parts: ModelParts
  #plan: ModelPlan
  /** Changes of homes take turns. */
  #budgets: Promise<unknown> = Promise.resolve()
  /** What it goes back to, while it sleeps. */
  #awake: ModelPlan | undefined
  readonly #queue: RequestQueue
  #closing: Promise<void> | undefined
  #closed = false
  #tracing = false

  /** Called by load(). */
  constructor(parts: ModelParts) {
    this.#parts = parts
    this.#queue = new RequestQueue(parts.native, parts.log)
    this.path = parts.path
    this.architecture = parts.architecture
    this.spec = parts.spec
    this.#plan = parts.plan
    this.cache = parts.cache
    this.tokenizer = parts.tokenizer
  }

  /** What rests where, and what it takes: as of now, setBudget() moves it. */
  get plan(): Readonly<ModelPlan> {
    return this.#plan
  }

  /** What the checkpoint's generation_config.json has of the options of answers; a request's own rule over them. */
  get samplingDefaults(): Readonly<SamplingDefaults> {
    return this.#parts.samplingDefaults
  }

  /** The checkpoint has a chat template, so chat() can be used. */
  get hasChatTemplate(): boolean {
    return this.#parts.tokenizer.chatTemplate !== undefined
  }

  /**
   * What `head: 'q4'` or `'q8'` cost, undefined where no head was made: the root mean square of the error relative to that of the
   * values, of the head's weights and of the logits that it makes of random normed rows.
   */
  get headError(): { weights: number; logits: number } | undefined {
    return this.#parts.native.headError
  }

  /**
   * What `weights: 'q4'` or `'q8'` cost, undefined where nothing was made: the root mean square of the error relative to that of
   * the values, of all weights of the layers and of what they make of random normed rows.
   */
  get weightError(): { weights: number; results: number } | undefined {
    return this.#parts.native.weightError
  }

  get stats(): ModelStats {
    this.#requireOpen()
    const { native } = this.#parts
    return groupStats(
      callNative(() => native.stats()),
      callNative(() => native.memory()),
    )
  }

  /** Bytes taken, by purpose. */
  get memory(): ModelMemory {
    this.#requireOpen()
    const { native } = this.#parts
    return groupMemory(
      callNative(() => native.memory()),
      callNative(() => native.stats()),
      this.plan,
    )
  }

  /**
   * Continues a prompt. Starts at once. Throws INVALID_ARGUMENT; everything else rejects the iteration and the result.
   */
  generate<const Held extends Constraint>(
    prompt: Prompt,
    options: GenerateOptions & { constraint: Held },
  ): Generation<ObjectOf<Held>>
  generate(prompt: Prompt, options?: GenerateOptions): Generation
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    const checked = validate(generateOptions, options, 'options')
    const { constraint } = checked
    return this.#generate(() => this.#source(prompt, true, 'prompt'), checked, {
      hold:
        constraint && ((signal) => nativeConstraint([{ body: constraint.body }], this.#parts.tokenizer.pieces, signal)),
    })
  }

  /**
   * Answers the last of the messages, as the checkpoint's chat template has it. What the answer holds of reasoning and
   * calls of tools comes as parts, and apart from the text.
   */
  chat<const Held extends Constraint>(
    messages: readonly ChatMessage[],
    options: ChatOptions & { constraint: Held },
  ): Generation<ObjectOf<Held>>
  chat(messages: readonly ChatMessage[], options?: ChatOptions): Generation
  chat(messages: readonly ChatMessage[], options: ChatOptions = {}): Generation {
    const { tokenizer, log, native, endTokens } = this.#parts
    const checked = checkMessages(messages, tokenizer.chatTemplates)
    const { chat, answer } = chatOptionsOf(validate(chatOptions, options, 'options'))
    const { tools, parallelToolCalls, forced, ...templateOptions } = chat
    const { constraint } = answer
    let reading: AnswerReading | undefined
    let hold: Hold | undefined
    const prompt = () => async (signal: AbortSignal) => {
      const prepared = await tokenizer.prepareChat(checked, { ...templateOptions, tools, signal })
      const { tokens, format, promptEnd } = prepared
      const hasTools = tools !== undefined && tools.length > 0
      const { pieces } = tokenizer
      const parallel = parallelToolCalls
      hold = (signal) => {
        if (forced)
          return nativeConstraint(
            constrainedCalls(format, promptEnd, { tools: forced, parallel }, pieces),
            pieces,
            signal,
          )
        if (constraint)
          return nativeConstraint(constrainedText(format, promptEnd, constraint.body, pieces), pieces, signal)
        return hasTools ? offeredConstraint(format, promptEnd, { tools, parallel }, pieces, signal) : undefined
      }
      if (hasTools && !format.calls) {
        log.warn({ model: native.id }, 'how the model writes calls of tools is not known: they stay in the text')
      }
      if (hasTools || !isPlain(format)) {
        // Those that end the answer are none of it.
        const shown = [...tokensOf(format, tokenizer.pieces)].filter(([token]) => !endTokens.includes(token))
        const parsed = new ParsedAnswer(format, { tools: tools ?? [], parallelToolCalls, promptEnd })
        reading = { parsed, shown: new Map(shown), hasTools }
      }
      return this.#checkPrompt(tokens, 'prompt')
    }
    return this.#generate(prompt, answer, { reading: () => reading, hold: (signal) => hold?.(signal) })
  }

  /**
   * The log-probability of every token of a text under the model. Rejects with CONTEXT_OVERFLOW where the text is
   * longer than the context.
   */
  async score(text: Prompt, options: ScoreOptions = {}): Promise<ScoreResult> {
    const checked = validate(scoreOptions, options, 'options')
    return new Score({
      queue: this.#queue,
      prompt: () => this.#source(text, checked.specialTokens ?? true, 'text'),
      contextLength: this.plan.contextLength,
      vocab: this.spec.vocab,
      logits: checked.logits ?? false,
      schedule: scheduleOf(checked),
      signal: checked.signal,
    }).result
  }

  /**
   * A vector a text, of length 1: the model's final hidden states (behind the last norm, before the head), pooled. Texts, or
   * the ids of their tokens; one or several. Rejects with CONTEXT_OVERFLOW where a text is longer than the context.
   */
  async embed(texts: Prompt | readonly Prompt[], options: EmbedOptions = {}): Promise<EmbedResult> {
    const checked = validate(embedOptions, options, 'options')
    const { pooling = this.#parts.pooling ?? 'mean', dimensions, specialTokens = true } = checked
    const { hidden } = this.spec
    if (dimensions !== undefined && dimensions > hidden) {
      throw invalidArgument(`at most the model's ${hidden}`, 'options.dimensions', dimensions)
    }
    const prompts = promptsOf(texts)
    // Wrong ones are told before any is begun.
    const sources = prompts.map((text, index) => this.#source(text, specialTokens && 'around', `texts[${index}]`))
    return embedAll(
      sources,
      dimensions,
      (source, signal) => {
        return new Embedding({
          queue: this.#queue,
          prompt: () => source,
          contextLength: this.plan.contextLength,
          pooling,
          schedule: scheduleOf(checked),
          signal,
        })
      },
      checked.signal,
    )
  }

  /**
   * Another budget of GPU memory, as vramBudget has it, while the model serves: layers move between resident and streamed
   * before the next pass, and memory goes back to the GPU or is taken from it; no request fails and no bit changes. Of
   * a model with shared units it is the size of the arena; of a model on several GPUs, of each. Resolves to the plan as it is then. Rejects with
   * OUT_OF_MEMORY where KV cache, workspace and ring alone take more; nothing has changed then.
   */
  setBudget(budget: number | string): Promise<Readonly<ModelPlan>> {
    return this.#inTurn(() => this.#setBudget(budget))
  }

  async #setBudget(budget: number | string): Promise<Readonly<ModelPlan>> {
    const checked = validate(budgetSchema, budget, 'budget')
    this.#requireUsable()
    const { native, ring, gpuMemory } = this.#parts
    const plan = this.#awake ?? this.#plan
    const budgets = plan.devices.map((device) => budgetBytes('budget', checked, gpuMemory(device)))
    if (plan.units.some((unit) => unit.home === 'shared')) {
      const arenaBytes = budgets[0]!
      await awaitNative(() => native.setArena(arenaBytes))
      this.#plan = { ...plan, arenaBytes }
      return this.#plan
    }
    if (plan.experts) {
      const resized = withExpertCache(plan, budgets[0]!)
      const found = await awaitNative(() => native.setExpertCache(resized.expertCacheBytes))
      const held = withExpertCache(plan, budgets[0]!, found)
      this.#plan = { ...held, prediction: this.#parts.predict(held) }
      return this.#plan
    }
    if (plan.device === 'cpu') {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: 'the model is on the CPU, where weights are read where they lie: there is no GPU memory to budget',
        remedy: "load it with device: 'cuda', or with placement: 'shared' to give its arena another size",
      })
    }
    const placed = withinBudgets(plan, ring, budgets)
    await this.#move(plan, placed.homes, placed.rings, budgets)
    this.#awake = undefined
    return this.#plan
  }

  async #move(plan: ModelPlan, homes: Home[], rings: number[], budgets: readonly number[]): Promise<void> {
    const found = await awaitNative(() => this.#parts.native.setHomes({ homes, ringBytes: rings }))
    // Where the GPU had no room after all, a unit stays streamed.
    const moved = withPlaced(plan, found, rings, budgets)
    this.#plan = { ...moved, prediction: this.#parts.predict(moved) }
  }

  /** Between sleep() and wake(), or a new budget. */
  get asleep(): boolean {
    return this.#awake !== undefined
  }

  /**
   * Gives back the GPU memory of resident weights, which are in system RAM anyway, until wake(): what is asked meanwhile is
   * answered all the same, by streaming, with the same bits. KV cache and ring stay. Shared units give way by
   * themselves, and on the CPU there is nothing to give back.
   */
  sleep(): Promise<void> {
    return this.#inTurn(async () => {
      this.#requireUsable()
      if (this.#awake) return
      const plan = this.#plan
      if (plan.units.some(({ home }) => home === 'resident') && plan.device !== 'cpu' && !plan.experts) {
        const budgets = plan.devices.map(({ vramBudgetBytes }) => vramBudgetBytes)
        const { homes, rings } = withinBudgets(plan, this.#parts.ring, 'least')
        await this.#move(plan, homes, rings, budgets)
      }
      this.#awake = plan
    })
  }

  /** Brings back what sleep() gave away; as much of it as the GPU still has room for. */
  wake(): Promise<void> {
    return this.#inTurn(async () => {
      this.#requireUsable()
      const plan = this.#awake
      if (!plan) return
      if (this.#plan !== plan) {
        const homes = plan.units.map(({ home }) => home)
        const rings = plan.devices.map(({ ringBytes }) => ringBytes)
        const budgets = plan.devices.map(({ vramBudgetBytes }) => vramBudgetBytes)
        await this.#move(plan, homes, rings, budgets)
      }
      this.#awake = undefined
    })
  }

  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#budgets.then(change)
    this.#budgets = turn.catch(() => {})
    return turn
  }

  /**
   * From the next pass on, writes what copies, kernels, CPU units and waits take to a file that Perfetto
   * (ui.perfetto.dev) and chrome://tracing show; null ends it and closes the file, as close() does. Passes are launched
   * unit by unit meanwhile. Rejects with INVALID_ARGUMENT where the file cannot be opened; ending it, and close(), with
   * WRITE_FAILED where it has not all that it should have.
   */
  async trace(path: string | null): Promise<void> {
    if (path !== null && (typeof path !== 'string' || path === '' || path.includes('\0')))
      throw invalidArgument('a path or null', 'path', path)
    this.#requireUsable()
    this.#tracing = path !== null
    await awaitNative(() => this.#parts.native.trace(path ?? ''))
  }

  /**
   * From the next pass on, writes which experts every row chooses of a mixture to a file that `millrace bench experts
   * --replay` reads; null ends it and closes the file. Rejects with INVALID_ARGUMENT where the file cannot be opened, or
   * of a model without mixtures or on several devices; ending it with WRITE_FAILED where it has not all that it should.
   */
  async traceRoutes(path: string | null): Promise<void> {
    if (path !== null && (typeof path !== 'string' || path === '' || path.includes('\0')))
      throw invalidArgument('a path or null', 'path', path)
    this.#requireUsable()
    await awaitNative(() => this.#parts.native.traceRoutes(path ?? ''))
  }

  /**
   * Frees the model. Calling it again gives the same promise; with `drain: false` it aborts what still runs. Rejects with
   * WRITE_FAILED, all being freed, where a trace that it ends is not whole.
   */
  close(options: CloseOptions = {}): Promise<void> {
    const { drain = true, timeoutMs } = validate(closeOptions, options, 'options')
    if (this.#closing && !drain) this.#queue.cancel('all')
    this.#closing ??= this.#close(drain, timeoutMs)
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(drain: boolean, timeoutMs: number | undefined): Promise<void> {
    const release = runtime().hold()
    const began = performance.now()
    // The longest a timer can hold: draining ends anyway, since the context bounds every request.
    const limit = Math.min(timeoutMs ?? MAX_TIMEOUT_MS, MAX_TIMEOUT_MS)
    const left = () => Math.max(0, Math.floor(limit - (performance.now() - began)))
    this.#queue.shut()
    let trace = Promise.resolve()
    try {
      // What was asked for before runs too, though its prompt is with the tokenizer still.
      if (drain && this.#queue.anyPending) await this.#queue.handedOver(left())
      this.#queue.cancel('pending')
      if (this.#tracing) {
        if (drain) await this.#queue.ended(left())
        trace = awaitNative(() => this.#parts.native.trace(''))
        await trace.catch(() => {}) // told below
      }
      await awaitNative(() => this.#parts.native.close(drain, left()))
    } finally {
      this.#closed = true
      this.#parts.tokenizer.close()
      runtime().removeModel(this.#parts.native.id)
      this.#parts.log.info({ model: this.#parts.native.id }, 'model closed')
      release()
    }
    await trace
  }

  /** `reading` and `hold` are asked for once the prompt is known. */
  #generate(
    prompt: () => PromptSource,
    checked: AnswerOptions,
    { reading, hold }: { reading?: () => AnswerReading | undefined; hold?: Hold | undefined },
  ): Generation {
    this.#checkAnswer(checked)
    const { tokenizer } = this.#parts
    let held: NativeConstraint | undefined
    const source = (): PromptSource => {
      const given = prompt()
      if (!hold) return given
      return async (signal) => {
        const tokens = given instanceof Int32Array ? given : await given(signal)
        held = await hold(signal)
        return tokens
      }
    }
    return new Generation({
      queue: this.#queue,
      prompt: source,
      readObject: checked.constraint?.read,
      pieces: tokenizer.pieces,
      contextLength: this.plan.contextLength,
      options: () => ({ ...this.#nativeOptions(checked), constraint: held }),
      maxTokens: checked.maxTokens,
      minTokens: checked.minTokens ?? 0,
      seed: checked.seed,
      logprobs: checked.logprobs ?? false,
      topLogprobs: (checked.topLogprobs ?? 0) > 0,
      truncate: checked.truncate === 'none' ? undefined : checked.truncate,
      firstToken: tokenizer.bosId,
      stop: checked.stop === undefined ? [] : [checked.stop].flat(),
      schedule: scheduleOf(checked),
      signal: checked.signal,
      reading,
    })
  }

  #checkAnswer({ stopTokens = [], logitBias = [], minTokens, maxTokens, speculation }: AnswerOptions): void {
    const { vocab } = this.spec
    checkLengths({ minTokens, maxTokens })
    checkDrafts(speculation, this.#plan.draft !== undefined)
    this.#checkTokens(stopTokens, 'stopTokens')
    const biased = logitBias.map(([token]) => token)
    this.#checkTokens(biased, 'logitBias')
    // What filters leave of others is known only when the logits are.
    if (logitBias.filter(([, bias]) => bias === Number.NEGATIVE_INFINITY).length < vocab) return
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `logitBias forbids all ${vocab} tokens of the vocabulary`,
      remedy: 'leave at least one token to choose',
    })
  }

  #nativeOptions(checked: AnswerOptions): Omit<NativeGenerateRequest, 'kind' | 'maxTokens' | 'minTokens' | 'seed'> {
    const { stopTokens = [], logitBias = [], ignoreEos, logprobs = false, topLogprobs = 0 } = checked
    return {
      ...nativeSampling(checked, this.#parts.samplingDefaults),
      biasTokens: Int32Array.from(logitBias, ([token]) => token),
      biasValues: Float32Array.from(logitBias, ([, value]) => value),
      stopTokens: Int32Array.from(new Set([...(ignoreEos ? [] : this.#parts.endTokens), ...stopTokens])),
      ...draftsOf(checked.speculation, this.#parts.speculation),
      foreseen: foreseenBy(this),
      logprobs,
      topLogprobs: Math.min(topLogprobs, this.spec.vocab),
    }
  }

  /** `name`: of the argument, in complaints. Token ids are checked at once. */
  #source(prompt: Prompt, specialTokens: SpecialTokens, name: string): PromptSource {
    if (typeof prompt === 'string') {
      const { tokenizer } = this.#parts
      return async (signal) => this.#checkPrompt(await tokenizer.encode(prompt, { specialTokens, signal }), name)
    }
    if (!Array.isArray(prompt) && !(prompt instanceof Int32Array)) {
      throw invalidArgument('a text, an array of token ids or an Int32Array', name, prompt)
    }
    this.#checkTokens(prompt as ArrayLike<unknown>, name)
    return this.#checkPrompt(Int32Array.from(prompt), name)
  }

  /** Those of a tokenizer, too: it may know more tokens than the model has. */
  #checkPrompt(tokens: Int32Array, name: string): Int32Array {
    if (tokens.length === 0) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `expected a ${name} of at least one token but received none`,
        remedy: 'give it a token or a text that is not empty',
      })
    }
    this.#checkTokens(tokens, name)
    return tokens
  }

  #checkTokens(tokens: ArrayLike<unknown>, name: string): void {
    const { vocab } = this.spec
    for (let index = 0; index < tokens.length; index++) {
      const token = tokens[index]
      if (Number.isInteger(token) && (token as number) >= 0 && (token as number) < vocab) continue
      throw invalidArgument(`a token id from 0 to ${vocab - 1}`, `${name}[${index}]`, token)
    }
  }

  #requireOpen(): void {
    if (this.#closed) throw closedError()
  }

  #requireUsable(): void {
    if (this.#closing) throw closedError()
  }
}

function groupMemory(memory: NativeMemory, stats: NativeStats, plan: ModelPlan): ModelMemory {
  const gpu = plan.device !== 'cpu'
  const { hostBytes, residentBytes, sharedBytes, ringBytes, kvBytes, kvSwapBytes, workspaceBytes } = memory
  return {
    hostBytes,
    pinnedBytes: stats.pinnedBytes + (gpu ? plan.embeddingBytes : 0),
    residentBytes,
    sharedBytes,
    ringBytes,
    kvBytes,
    kvSwapBytes,
    savedKvBytes: stats.savedKvBytes,
    workspaceBytes,
    vramBytes: gpu ? residentBytes + sharedBytes + ringBytes + kvBytes + workspaceBytes : 0,
    ...(plan.draft && { draft: { hostBytes: memory.draftHostBytes, deviceBytes: memory.draftDeviceBytes } }),
    devices: memory.devices.map(({ copiedBytes: _, ...device }) => device),
  }
}

/** What an answer is held to, if to anything. */
type Hold = (signal: AbortSignal) => Promise<NativeConstraint | undefined> | undefined

/** Token ids are one text. */
function promptsOf(texts: Prompt | readonly Prompt[]): readonly Prompt[] {
  const one = typeof texts === 'string' || texts instanceof Int32Array
  if (!one && !Array.isArray(texts)) {
    throw invalidArgument('a text, an array of token ids, an Int32Array, or an array of these', 'texts', texts)
  }
  if (texts.length === 0) throw invalidArgument('at least one text that is not empty', 'texts', texts)
  return one || typeof texts[0] === 'number' ? [texts as Prompt] : (texts as readonly Prompt[])
}

/** Those of the chat, and those of the answer. */
function chatOptionsOf(checked: z.output<typeof chatOptions>) {
  const {
    tools,
    toolChoice,
    parallelToolCalls = true,
    continueFinalMessage,
    variables,
    templateName,
    ...answer
  } = checked
  // A model that may call none is shown none: it has no way to call what it does not know.
  const shown = toolChoice === 'none' ? undefined : (tools as readonly Tool[] | undefined)
  const forced = forcedTools(toolChoice, shown)
  if (forced && answer.constraint) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: 'an answer cannot both be held to a constraint and have to call a tool',
      remedy: "leave out constraint, or pass toolChoice: 'auto' or 'none'",
    })
  }
  return { answer, chat: { tools: shown, parallelToolCalls, forced, continueFinalMessage, variables, templateName } }
}

/** Of which one must be called; undefined: none must. */
function forcedTools(choice: ChatOptions['toolChoice'], tools: readonly Tool[] = []): readonly Tool[] | undefined {
  if (choice === undefined || choice === 'auto' || choice === 'none') return undefined
  if (tools.length === 0) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: 'toolChoice wants a call, and there are no tools',
      remedy: 'pass tools, or leave out toolChoice',
    })
  }
  if (choice === 'required') return tools
  const named = tools.filter((tool) => tool.function.name === choice.name)
  if (named.length > 0) return named
  const names = tools.map((tool) => `'${tool.function.name}'`).join(', ')
  throw invalidArgument(`the name of a tool (${names})`, 'toolChoice.name', choice.name)
}

function scheduleOf(options: ScheduleOptions): NativeSchedule {
  const { priority = 0, queueTimeoutMs = 0, deadlineMs = 0 } = options
  return { priority, queueTimeoutMs, deadlineMs }
}

const MAX_TIMEOUT_MS = 2 ** 31 - 1

function groupStats(stats: NativeStats, memory: NativeMemory): ModelStats {
  return {
    steps: stats.steps,
    stepMs: stats.stepMs,
    rows: { decode: stats.decodeRows, prefill: stats.prefillRows },
    weightBytesRead: stats.weightBytesRead,
    streaming: {
      copiedBytes: stats.copiedBytes,
      prefetchedBytes: stats.prefetchedBytes,
      droppedBytes: stats.droppedBytes,
      stagedBytes: stats.stagedBytes,
      fileBytes: stats.fileBytes,
      units: stats.streamedUnits,
      devices: memory.devices.map(({ device, copiedBytes }) => ({ device, copiedBytes })),
    },
    arena: { copiedBytes: stats.arenaCopiedBytes, switches: stats.switches, switchMs: stats.switchMs },
    experts: {
      hits: stats.expertHits,
      mapped: stats.expertMapped,
      cpu: stats.expertCpu,
      hitRate:
        stats.expertHits === 0 ? 0 : stats.expertHits / (stats.expertHits + stats.expertMapped + stats.expertCpu),
      promotedBytes: stats.promotedBytes,
      frames: stats.expertFrames,
      usedFrames: stats.usedFrames,
    },
    hops: stats.hops,
    sequences: {
      running: stats.runningSequences,
      waiting: stats.waitingSequences,
      preemptions: stats.preemptions,
      recomputations: stats.recomputations,
    },
    speculation: {
      draftedTokens: stats.draftedTokens,
      acceptedTokens: stats.acceptedTokens,
      draftPasses: stats.draftPasses,
      draftMs: stats.draftMs,
    },
    kv: {
      blocksUsed: stats.kvBlocksUsed,
      blocksTotal: stats.kvBlocksTotal,
      blockTokens: KV_BLOCK_TOKENS,
      savedBytes: stats.savedKvBytes,
      tierBytes: stats.tierKvBytes,
      swapBytes: memory.kvSwapBytes,
    },
    prefixCache: {
      promptTokens: stats.promptTokens,
      reusedTokens: stats.reusedTokens,
      returnedTokens: stats.returnedTokens,
      hitRate: stats.promptTokens === 0 ? 0 : stats.reusedTokens / stats.promptTokens,
    },
  }
}

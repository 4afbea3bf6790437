/** A loaded model: what load() resolves to. */
import { randomInt } from 'node:crypto'
import type { ModelSpec, NativeMemory, NativeModel, NativeSchedule, NativeStats } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { Logger } from '../log.ts'
import {
  budgetSchema,
  type ChatMessage,
  type CloseOptions,
  chatMessages,
  closeOptions,
  type GenerateOptions,
  generateOptions,
  invalidArgument,
  type PlanOptions,
  type ScheduleOptions,
  type ScoreOptions,
  scoreOptions,
  validate,
} from '../options.ts'
import { withinBudgets } from '../plan/budget.ts'
import { KV_BLOCK_TOKENS, type ModelPlan, type PlannedDevice, withPlaced } from '../plan/plan.ts'
import type { Prediction } from '../plan/predict.ts'
import { budgetBytes } from '../plan/vram.ts'
import { type ChatTemplate, ROLES } from '../text/chat.ts'
import type { TokenizerThread } from '../text/thread.ts'
import type { TextCodec } from '../text/tokenizer.ts'
import type { ModelCache } from './cache.ts'
import { Generation } from './generation.ts'
import { awaitNative, callNative, runtime } from './runtime.ts'
import { type ScoreResult, score } from './score.ts'

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
   * none will use `droppedBytes`. `stagedBytes` of them were not pinned, and took the slower way.
   */
  streaming: {
    copiedBytes: number
    prefetchedBytes: number
    droppedBytes: number
    stagedBytes: number
    units: number
    /** Of the copied bytes, those over each device's link. */
    devices: { device: string; copiedBytes: number }[]
  }
  /** Bytes copied into the arena that models share, the passes that had to, and milliseconds that these took. */
  arena: { copiedBytes: number; switches: number; switchMs: number }
  /** Times that hidden rows went from the GPU to the CPU and back in the middle of a pass. */
  hops: number
  /** `preemptions`: times that a sequence's keys and values went to system RAM for want of blocks. */
  sequences: { running: number; waiting: number; preemptions: number }
  /** `savedBytes`: keys and values of preempted sequences that are in system RAM now. */
  kv: { blocksUsed: number; blocksTotal: number; blockTokens: number; savedBytes: number }
  /** Tokens of the prompts that have started, and how many of them needed no computing; their ratio, 0 of no tokens. */
  prefixCache: { promptTokens: number; reusedTokens: number; hitRate: number }
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
  /** Keys and values of preempted sequences, in system RAM: as of now. */
  savedKvBytes: number
  workspaceBytes: number
  /** Of all that, what is on the GPU; 0 on the CPU. */
  vramBytes: number
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
  tokenizerThread: TokenizerThread
  chatTemplate: ChatTemplate | undefined
  cache: ModelCache | undefined
  log: Logger
  /** Tokens that end an answer. */
  endTokens: readonly number[]
}

export class Model implements AsyncDisposable {
  /** The checkpoint's folder. */
  readonly path: string
  /** As config.json spells it: 'LlamaForCausalLM'. */
  readonly architecture: string
  readonly spec: Readonly<ModelSpec>
  /** The file that keeps the repacked weights for the next load; undefined where none is kept. */
  readonly cache: Readonly<ModelCache> | undefined
  /** encode() and decode() as generate() uses them. */
  readonly tokenizer: Pick<TextCodec, 'encode' | 'decode' | 'idOf'>

  readonly #parts: ModelParts
  #plan: ModelPlan
  /** setBudget() calls take turns. */
  #budgets: Promise<unknown> = Promise.resolve()
  readonly #running = new Set<Generation>()
  #closing: Promise<void> | undefined
  /** Prompts that the tokenizer's thread has. */
  readonly #prompts = new Set<Promise<Int32Array>>()
  /** close() waits for them no more. */
  #endWait: (() => void) | undefined
  /** Nothing is submitted any more. */
  #sealed = false
  #closed = false

  /** Called by load(). */
  constructor(parts: ModelParts) {
    this.#parts = parts
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

  /** The checkpoint has a chat template, so chat() can be used. */
  get hasChatTemplate(): boolean {
    return this.#parts.chatTemplate !== undefined
  }

  /**
   * What `head: 'q4'` or `'q8'` cost, undefined where no head was made: the root mean square of the error relative to that of the
   * values, of the head's weights and of the logits that it makes of random normed rows.
   */
  get headError(): { weights: number; logits: number } | undefined {
    return this.#parts.native.headError
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
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    return this.#generate(() => this.#encode(prompt, true), options)
  }

  /** Answers the last of the messages, as the checkpoint's chat template has it. */
  chat(messages: readonly ChatMessage[], options: GenerateOptions = {}): Generation {
    const checked = validate(chatMessages, messages, 'messages')
    const { chatTemplate, tokenizer, tokenizerThread } = this.#parts
    checked.forEach(({ role }, index) => {
      if (chatTemplate && !chatTemplate.takesRole(role)) {
        throw invalidArgument(
          `one of ${ROLES.map((known) => `'${known}'`).join(', ')}, or a role that the model's chat template names,`,
          `messages[${index}].role`,
          role,
        )
      }
    })
    return this.#generate(() => {
      if (!chatTemplate) {
        throw new MillraceError('CHAT_TEMPLATE_MISSING', {
          message: `${this.path}: expected chat_template in tokenizer_config.json or chat_template.jinja, found neither`,
        })
      }
      if (tokenizerThread.canEncodeChat(checked)) {
        return this.#track(tokenizerThread.encodeChat(checked).then((ids) => this.#toTokens(ids)))
      }
      // The template writes the special tokens itself.
      return this.#encode(chatTemplate.render(checked, tokenizer), false)
    }, options)
  }

  /**
   * The log-probability of every token of a text under the model. Rejects with CONTEXT_OVERFLOW where the text is
   * longer than the context.
   */
  async score(text: Prompt, options: ScoreOptions = {}): Promise<ScoreResult> {
    const checked = validate(scoreOptions, options, 'options')
    this.#requireUsable()
    const tokens = await this.#encode(text, checked.specialTokens ?? true, 'text')
    if (this.#sealed) throw closedError()
    const logitBytes = checked.logits ? tokens.length * this.spec.vocab * Float32Array.BYTES_PER_ELEMENT : 0
    if (logitBytes > MAX_LOGIT_BYTES) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `expected logits of at most ${MAX_LOGIT_BYTES} bytes but ${tokens.length} tokens x ${this.spec.vocab} of the vocabulary take ${logitBytes}`,
        remedy: `score at most ${Math.floor(MAX_LOGIT_BYTES / 4 / this.spec.vocab)} tokens at once with logits: true`,
      })
    }
    return score({
      native: this.#parts.native,
      contextLength: this.plan.contextLength,
      tokens,
      logits: checked.logits ?? false,
      schedule: scheduleOf(checked),
      log: this.#parts.log,
      signal: checked.signal,
    })
  }

  /**
   * Another budget of GPU memory, as vramBudget has it, while the model serves: layers move between resident and streamed
   * before the next pass, and memory goes back to the GPU or is taken from it; no request fails and no bit changes. Of
   * a model with shared units it is the size of the arena; of a model on several GPUs, of each. Resolves to the plan as it is then. Rejects with
   * OUT_OF_MEMORY where KV cache, workspace and ring alone take more; nothing has changed then.
   */
  setBudget(budget: number | string): Promise<Readonly<ModelPlan>> {
    const turn = this.#budgets.then(() => this.#setBudget(budget))
    this.#budgets = turn.catch(() => {})
    return turn
  }

  async #setBudget(budget: number | string): Promise<Readonly<ModelPlan>> {
    const checked = validate(budgetSchema, budget, 'budget')
    this.#requireUsable()
    const { native, ring, gpuMemory } = this.#parts
    const plan = this.#plan
    const budgets = plan.devices.map((device) => budgetBytes('budget', checked, gpuMemory(device)))
    if (plan.units.some((unit) => unit.home === 'shared')) {
      const arenaBytes = budgets[0]!
      await awaitNative(() => native.setArena(arenaBytes))
      this.#plan = { ...plan, arenaBytes }
      return this.#plan
    }
    if (plan.device === 'cpu') {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: 'the model is on the CPU, where weights are read where they lie: there is no GPU memory to budget',
        remedy: "load it with device: 'cuda', or with placement: 'shared' to give its arena another size",
      })
    }
    const { homes, rings } = withinBudgets(plan, ring, budgets)
    const found = await awaitNative(() => native.setHomes({ homes, ringBytes: rings }))
    // Where the GPU had no room after all, a unit stays streamed.
    const moved = withPlaced(plan, found, rings, budgets)
    this.#plan = { ...moved, prediction: this.#parts.predict(moved) }
    return this.#plan
  }

  /**
   * From the next pass on, writes what copies, kernels, CPU units and waits take to a file that Perfetto
   * (ui.perfetto.dev) and chrome://tracing show; null ends it and closes the file, as close() does. Passes are launched
   * unit by unit meanwhile. Rejects with INVALID_ARGUMENT where the file cannot be opened; ending it with WRITE_FAILED
   * where it has not all that it should have.
   */
  async trace(path: string | null): Promise<void> {
    if (path !== null && (typeof path !== 'string' || path === ''))
      throw invalidArgument('a path or null', 'path', path)
    this.#requireUsable()
    await awaitNative(() => this.#parts.native.trace(path ?? ''))
  }

  /** Frees the model. Calling it again gives the same promise; with `drain: false` it aborts what still runs. */
  close(options: CloseOptions = {}): Promise<void> {
    const { drain = true, timeoutMs } = validate(closeOptions, options, 'options')
    if (this.#closing && !drain) {
      for (const generation of this.#running) generation.cancel()
      this.#endWait?.()
    }
    this.#closing ??= this.#close(drain, timeoutMs)
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(drain: boolean, timeoutMs: number | undefined): Promise<void> {
    const release = runtime().hold()
    const began = performance.now()
    try {
      // What was asked for before runs too, though its prompt is with the tokenizer still.
      let left = timeoutMs ?? MAX_TIMEOUT_MS
      if (drain && this.#prompts.size > 0) {
        await this.#awaitPrompts(left)
        left = Math.max(0, Math.floor(left - (performance.now() - began)))
      }
      this.#sealed = true
      // The longest a timer can hold: draining ends anyway, since the context bounds every request.
      await awaitNative(() => this.#parts.native.close(drain, Math.min(left, MAX_TIMEOUT_MS)))
    } finally {
      this.#closed = true
      this.#parts.tokenizerThread.close()
      runtime().removeModel(this.#parts.native.id)
      this.#parts.log.info({ model: this.#parts.native.id }, 'model closed')
      release()
    }
  }

  async #awaitPrompts(timeoutMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const cut = new Promise<void>((resolve) => {
      this.#endWait = resolve
      timer = setTimeout(resolve, Math.min(timeoutMs, MAX_TIMEOUT_MS))
    })
    await Promise.race([Promise.allSettled(this.#prompts), cut])
    clearTimeout(timer)
  }

  /** Remembers a prompt in the making, for close(). */
  #track(prompt: Promise<Int32Array>): Promise<Int32Array> {
    this.#prompts.add(prompt)
    const forget = () => this.#prompts.delete(prompt)
    prompt.then(forget, forget)
    return prompt
  }

  #generate(prompt: () => Int32Array | Promise<Int32Array>, options: GenerateOptions): Generation {
    const checked = validate(generateOptions, options, 'options')
    const stopTokens = checked.stopTokens ?? []
    this.#checkTokens(stopTokens, 'stopTokens')
    const bias = checked.logitBias ?? []
    const biasTokens = Int32Array.from(bias, ([token]) => token)
    this.#checkTokens(biasTokens, 'logitBias')
    const generation: Generation = new Generation({
      native: this.#parts.native,
      pieces: this.#parts.tokenizer.pieces,
      contextLength: this.plan.contextLength,
      prompt: () => {
        this.#requireUsable()
        return prompt()
      },
      request: {
        temperature: checked.temperature ?? 0,
        topK: checked.topK ?? 0,
        topP: checked.topP ?? 1,
        minP: checked.minP ?? 0,
        typicalP: checked.typicalP ?? 1,
        repetitionPenalty: checked.repetitionPenalty ?? 1,
        presencePenalty: checked.presencePenalty ?? 0,
        frequencyPenalty: checked.frequencyPenalty ?? 0,
        biasTokens,
        biasValues: Float32Array.from(bias, ([, value]) => value),
        seed: checked.seed ?? randomInt(MAX_RANDOM_SEED),
        stopTokens: Int32Array.from(new Set([...(checked.ignoreEos ? [] : this.#parts.endTokens), ...stopTokens])),
        logprobs: checked.logprobs ?? false,
        topLogprobs: Math.min(checked.topLogprobs ?? 0, this.spec.vocab),
        ...scheduleOf(checked),
      },
      maxTokens: checked.maxTokens,
      truncate: checked.truncate === 'none' ? undefined : checked.truncate,
      firstToken: this.#parts.tokenizer.idOf(this.#parts.tokenizer.bosToken),
      log: this.#parts.log,
      stop: checked.stop === undefined ? [] : [checked.stop].flat(),
      signal: checked.signal,
      onSettled: (settled) => this.#running.delete(settled),
    })
    // Nothing was submitted where the prompt was refused at once.
    if (!generation.settled) this.#running.add(generation)
    return generation
  }

  /** `name`: of the argument, in complaints. */
  #encode(prompt: Prompt, specialTokens: boolean, name = 'prompt'): Int32Array | Promise<Int32Array> {
    if (typeof prompt === 'string') {
      const tokens = this.#parts.tokenizerThread.encode(prompt, specialTokens)
      return Array.isArray(tokens)
        ? this.#toTokens(tokens, name)
        : this.#track(tokens.then((ids) => this.#toTokens(ids, name)))
    }
    if (!Array.isArray(prompt) && !(prompt instanceof Int32Array)) {
      throw invalidArgument('a text, an array of token ids or an Int32Array', name, prompt)
    }
    this.#checkTokens(prompt as ArrayLike<unknown>, name)
    return this.#toTokens(prompt, name)
  }

  #toTokens(tokens: ArrayLike<number>, name = 'prompt'): Int32Array {
    if (tokens.length === 0) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `expected a ${name} of at least one token but received none`,
        remedy: 'give it a token or a text that is not empty',
      })
    }
    const copy = Int32Array.from(tokens)
    this.#checkTokens(copy, name)
    return copy
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

function closedError(): MillraceError {
  return new MillraceError('MODEL_CLOSED', { message: 'the model was closed' })
}

function groupMemory(memory: NativeMemory, stats: NativeStats, plan: ModelPlan): ModelMemory {
  const gpu = plan.device !== 'cpu'
  const { hostBytes, residentBytes, sharedBytes, ringBytes, kvBytes, workspaceBytes } = memory
  return {
    hostBytes,
    pinnedBytes: stats.pinnedBytes + (gpu ? plan.embeddingBytes : 0),
    residentBytes,
    sharedBytes,
    ringBytes,
    kvBytes,
    savedKvBytes: stats.savedKvBytes,
    workspaceBytes,
    vramBytes: gpu ? residentBytes + sharedBytes + ringBytes + kvBytes + workspaceBytes : 0,
    devices: memory.devices.map(({ copiedBytes: _, ...device }) => device),
  }
}

function scheduleOf(options: ScheduleOptions): NativeSchedule {
  const { priority = 0, queueTimeoutMs = 0, deadlineMs = 0 } = options
  return { priority, queueTimeoutMs, deadlineMs }
}

/** Of score(): more is hardly meant, and can be had in parts. */
const MAX_LOGIT_BYTES = 2 ** 30
const MAX_TIMEOUT_MS = 2 ** 31 - 1
/** What node's randomInt can draw from at once. */
const MAX_RANDOM_SEED = 2 ** 48 - 1

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
      units: stats.streamedUnits,
      devices: memory.devices.map(({ device, copiedBytes }) => ({ device, copiedBytes })),
    },
    arena: { copiedBytes: stats.arenaCopiedBytes, switches: stats.switches, switchMs: stats.switchMs },
    hops: stats.hops,
    sequences: {
      running: stats.runningSequences,
      waiting: stats.waitingSequences,
      preemptions: stats.preemptions,
    },
    kv: {
      blocksUsed: stats.kvBlocksUsed,
      blocksTotal: stats.kvBlocksTotal,
      blockTokens: KV_BLOCK_TOKENS,
      savedBytes: stats.savedKvBytes,
    },
    prefixCache: {
      promptTokens: stats.promptTokens,
      reusedTokens: stats.reusedTokens,
      hitRate: stats.promptTokens === 0 ? 0 : stats.reusedTokens / stats.promptTokens,
    },
  }
}

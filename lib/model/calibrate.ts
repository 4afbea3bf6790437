/** calibrate(): measures this machine with small models of random weights, and keeps the figures for plans. */
import { channel } from 'node:diagnostics_channel'
import { setTimeout } from 'node:timers/promises'
import { z } from 'zod'
import type { NativeStepEvent, SyntheticOptions } from '../binding.ts'
import type { DecoderShape } from '../checkpoint/decoder.ts'
import { MillraceError } from '../errors.ts'
import { userCacheFolder, writeFailed } from '../files.ts'
import type { PlacementHome } from '../options/model.ts'
import { loadOptions, planOptions } from '../options/model.ts'
import { validate } from '../options/validate.ts'
import { type Calibration, calibrationPath, ROWS, writeCalibration } from '../plan/calibration.ts'
import { fitCalibration, type LayerBytes, type Observations, type PerShape } from '../plan/fit.ts'
import { spread } from '../plan/homes.ts'
import { calibrateDisk, type DiskReport } from './disk.ts'
import { calibrationKey } from './machine.ts'
import type { Model } from './model.ts'
import { runtime } from './runtime.ts'
import { SHAPES } from './shapes.ts'
import { requireNotAborted } from './signals.ts'
import { loadSynthetic } from './synthetic.ts'

const DEVICE_ERROR = "'cuda' or 'cuda:<index>': a GPU is what is calibrated"

export interface CalibrateOptions {
  /** 'cuda' or 'cuda:1'. Default: the first GPU. */
  device?: string | undefined
  threads?: number | undefined
  signal?: AbortSignal | undefined
  /** Told what is measured next. */
  onProgress?: ((done: number, total: number) => void) | undefined
}

export interface CalibrationReport {
  calibration: Calibration
  /** The passes that it was made from. */
  observations: Observations
  /** Where it is kept; undefined if the file could not be written, and why. */
  path: string | undefined
  writeError?: string
  /** Of the cache folder's disk, or why it could not be measured. */
  disk: DiskReport | { problem: string }
  seconds: number
}

const calibrateOptions = z.strictObject({
  device: z
    .string({ error: DEVICE_ERROR })
    .regex(/^cuda(:\d{1,3})?$/, { error: DEVICE_ERROR })
    .optional(),
  threads: planOptions.shape.threads,
  signal: loadOptions.shape.signal,
  onProgress: z
    .custom<NonNullable<CalibrateOptions['onProgress']>>((value) => typeof value === 'function', {
      error: 'a function',
    })
    .optional(),
})

/** Widths of a 1B and of an 8B model. The vocabulary is small: heads are measured by themselves. */
const BASE: PerShape<DecoderShape> = { small: SHAPES['tinyllama-1.1b']!, large: SHAPES['llama3-8b']! }
const LAYERS = { small: { few: 4, many: 12 }, large: { few: 2, many: 6 } }
const VOCAB = 512
const LARGE_VOCAB = 65536
const PROMPT = 16
const SHORT = 1920
const LONG = 3 * SHORT
const FAR = { rows: 8, context: 2048 }
/** As large as a model of 7B: what copies cost depends on how much memory they come from. */
const LINK_LAYERS = 28
/** More bytes than caches hold (MEASURED: 0.5 GB on the CPU were read at 133 GB/s beside a cache of 300 MB, 2 GB at 105). */
const CPU_LAYERS = { small: 48, large: 16 }
/** Of so many layers, feed-forwards on the CPU and resident ones: bound by the CPU, balanced, bound by the link. */
const MIXTURES: [shape: Shape, layers: number, cpu: number, resident: number][] = [
  ['large', 16, 16, 0],
  ['large', 16, 12, 0],
  ['large', 16, 7, 8],
  ['large', 16, 5, 8],
  ['large', 16, 8, 0],
  ['small', 48, 48, 0],
  ['small', 48, 24, 24],
]
/** Rows whose products take the CPU longer than reading their weights. */
const MANY_ROWS = 8
const MIXED_TOKENS = 18
const MODELS = 20

type Shape = 'small' | 'large'
type HomeOf = (kind: 'attention' | 'feedForward' | 'head', layer: number) => PlacementHome

/**
 * Takes a GPU, about 2 GB of its memory and 20 seconds. Rejects with INVALID_ARGUMENT, DEVICE_UNAVAILABLE,
 * OUT_OF_MEMORY or ABORTED. That the file cannot be written is told, not thrown.
 */
export async function calibrate(options: CalibrateOptions = {}): Promise<CalibrationReport> {
  const began = performance.now()
  const checked = validate(calibrateOptions, options, 'options')
  requireNotAborted(checked.signal, 'the calibration')
  const { native } = runtime()
  const { gpus, reason } = native.probeGpus()
  const device = checked.device ?? 'cuda'
  const gpu = gpus[Number(/^cuda:(\d+)$/.exec(device)?.[1] ?? 0)]
  if (!gpu) {
    throw new MillraceError('DEVICE_UNAVAILABLE', {
      message:
        gpus.length === 0
          ? `there is no GPU to calibrate: ${reason}`
          : `device '${device}' cannot be calibrated: there are ${gpus.length} GPUs, counted from 0`,
      remedy:
        gpus.length === 0
          ? 'without a GPU there is nothing to calibrate: plans for the CPU need none of it; probe() says what was found'
          : 'name one of the GPUs that probe() lists',
    })
  }
  const cpu = native.probeCpu()
  const threads = checked.threads ?? cpu.cores
  const observations = await new Observer({ ...checked, device, threads }).observe()
  const calibration = fitCalibration(observations)
  const disk = await diskOf(checked.signal)
  const report = { calibration, observations, disk, seconds: (performance.now() - began) / 1000 }
  const path = calibrationPath()
  if (path === undefined) return { ...report, path, writeError: userCacheFolder().reason! }
  try {
    await writeCalibration(calibrationKey(native.version, gpu.name, cpu), calibration, path)
    return { ...report, path }
  } catch (error) {
    const { message, remedy } = writeFailed('the calibration', path, error)
    return { ...report, path: undefined, writeError: `${message}; ${remedy}, by XDG_CACHE_HOME` }
  }
}

/** A disk without room, or a folder that cannot be written, is no reason to lose what the GPU took its time for. */
async function diskOf(signal: AbortSignal | undefined): Promise<CalibrationReport['disk']> {
  try {
    return await calibrateDisk({ signal })
  } catch (error) {
    if (!MillraceError.isInstance(error) || error.code === 'ABORTED') throw error
    return { problem: error.message }
  }
}

class Observer {
  readonly #options: CalibrateOptions & { device: string; threads: number }
  #loaded = 0
  /** No prompt begins as another one did: the prefix cache finds nothing. */
  #salt = 1

  constructor(options: CalibrateOptions & { device: string; threads: number }) {
    this.#options = options
  }

  async observe(): Promise<Observations> {
    const resident: HomeOf = () => 'resident'
    const launched: HomeOf = (kind) => (kind === 'head' ? 'streamed' : 'resident')
    const curves = async (shape: Shape, homes: HomeOf) => ({
      few: await this.#curve(shape, LAYERS[shape].few, homes),
      many: await this.#curve(shape, LAYERS[shape].many, homes),
    })
    const bytes: Partial<PerShape<LayerBytes & { head: number }>> = {}
    const large = await this.#with('large', LAYERS.large.many, resident, {}, async (model) => {
      bytes.large = bytesOf(model)
      return { many: await this.#rows(model), ...(await this.#prompts(model)) }
    })
    const small = await this.#with('small', LAYERS.small.many, resident, {}, async (model) => {
      bytes.small = bytesOf(model)
      return this.#rows(model)
    })
    const mixed: Observations['mixed'] = []
    for (const mixture of MIXTURES) mixed.push(...(await this.#mixture(...mixture)))
    return {
      threads: this.#options.threads,
      layers: LAYERS,
      bytes: bytes as PerShape<LayerBytes & { head: number }>,
      replayed: {
        small: { few: await this.#curve('small', LAYERS.small.few, resident), many: small },
        large: { few: await this.#curve('large', LAYERS.large.few, resident), many: large.many },
      },
      launched: { small: await curves('small', launched), large: await curves('large', launched) },
      heads: { float: await this.#head('f16'), q4: await this.#head('q4') },
      cpu: {
        small: await this.#onCpu('small'),
        large: await this.#onCpu('large'),
      },
      streamed: await this.#streamed(),
      mixed,
      kv: large.kv,
      prompts: large.prompts,
    }
  }

  async #with<T>(
    shape: Shape,
    layers: number,
    homeOf: HomeOf,
    more: { vocab?: number; head?: SyntheticOptions['head'] },
    measure: (model: Model) => Promise<T>,
  ): Promise<T> {
    const { device, threads, signal, onProgress } = this.#options
    requireNotAborted(signal, 'the calibration')
    onProgress?.(this.#loaded++, MODELS)
    const spec = { ...BASE[shape], layers, vocab: more.vocab ?? VOCAB, maxPosition: 2 * LONG }
    const placement: PlacementHome[] = []
    for (let layer = 0; layer < layers; layer++) {
      placement.push(homeOf('attention', layer), homeOf('feedForward', layer))
    }
    placement.push(homeOf('head', -1))
    await using model = await loadSynthetic(
      'calibration',
      spec,
      { device, threads, placement, contextLength: LONG + 64, kvTokens: 96 * 256, kvSwap: 0, signal },
      { head: more.head ?? 'f16' },
    )
    await settle(model, () => model.generate(this.#prompt(1), { maxTokens: 1, ignoreEos: true }).result)
    return await measure(model)
  }

  #streamed() {
    const homeOf: HomeOf = (kind) => (kind === 'head' ? 'resident' : 'streamed')
    return this.#with('large', LINK_LAYERS, homeOf, {}, async (model) => ({
      bytes: model.plan.streamedBytesPerPass,
      seconds: await this.#passSeconds(model, 1),
    }))
  }

  /** So many feed-forwards on the CPU and on the GPU for good; all else is streamed. */
  #mixture(shape: Shape, layers: number, cpu: number, resident: number) {
    const feedForwards = spread({ cpu, resident, streamed: layers - cpu - resident })
    const homeOf: HomeOf = (kind, layer) =>
      kind === 'head' ? 'resident' : kind === 'attention' ? 'streamed' : feedForwards[layer]!
    return this.#with(shape, layers, homeOf, {}, async (model) => {
      const passes: Observations['mixed'] = []
      for (const rows of shape === 'large' ? [1, MANY_ROWS] : [1]) {
        const { units, ringBytes } = model.plan
        passes.push({ units, ringBytes, rows, seconds: await this.#passSeconds(model, rows, PROMPT, MIXED_TOKENS) })
      }
      return passes
    })
  }

  #curve(shape: Shape, layers: number, homeOf: HomeOf): Promise<number[]> {
    return this.#with(shape, layers, homeOf, {}, (model) => this.#rows(model))
  }

  async #rows(model: Model, tokens?: number): Promise<number[]> {
    const seconds: number[] = []
    for (const rows of ROWS) seconds.push(await this.#passSeconds(model, rows, PROMPT, tokens))
    return seconds
  }

  /** All feed-forwards on the CPU. Slow passes: a few are enough. */
  #onCpu(shape: Shape) {
    const layers = CPU_LAYERS[shape]
    const homeOf: HomeOf = (kind) => (kind === 'feedForward' ? 'cpu' : 'resident')
    return this.#with(shape, layers, homeOf, {}, async (model) => ({ layers, seconds: await this.#rows(model, 14) }))
  }

  #head(head: 'f16' | 'q4') {
    const more = { vocab: LARGE_VOCAB, head }
    return this.#with(
      'large',
      LAYERS.large.few,
      () => 'resident',
      more,
      async (model) => ({
        bytes: model.plan.units.at(-1)!.bytes,
        seconds: await this.#rows(model),
      }),
    )
  }

  async #prompts(model: Model): Promise<Pick<Observations, 'kv' | 'prompts'>> {
    const { hidden, heads, kvHeads, headDim, intermediate, layers } = model.spec
    const weights = layers * (hidden * headDim * 2 * (heads + kvHeads) + 3 * hidden * intermediate)
    const prompt = async (tokens: number) => ({
      seconds: await this.#firstTokenSeconds(model, tokens),
      flops: 2 * tokens * weights,
      attentionFlops: 4 * layers * heads * headDim * ((tokens * tokens) / 2),
    })
    const near = await this.#passSeconds(model, FAR.rows)
    const far = await this.#passSeconds(model, FAR.rows, FAR.context)
    const kvBytes = FAR.rows * (FAR.context - PROMPT) * model.plan.kvBytesPerToken
    return { kv: { bytes: kvBytes, near, far }, prompts: { short: await prompt(SHORT), long: await prompt(LONG) } }
  }

  async #firstTokenSeconds(model: Model, tokens: number): Promise<number> {
    let best = Number.POSITIVE_INFINITY
    for (let run = 0; run < 3; run++) {
      const { timings } = await model.generate(this.#prompt(tokens), { maxTokens: 1, ignoreEos: true }).result
      best = Math.min(best, timings.firstTokenMs! / 1000)
    }
    return best
  }

  /** The median pass in which so many sequences decode together. */
  async #passSeconds(model: Model, rows: number, context = PROMPT, tokens = rows > 8 ? 20 : 24): Promise<number> {
    requireNotAborted(this.#options.signal, 'the calibration')
    const seconds: number[] = []
    let skipped = 0
    const listen = (message: unknown) => {
      const step = message as NativeStepEvent
      // The first passes bring the units that the prompt's pass has pushed out of the ring.
      if (step.rows === rows && step.decodeRows === rows && step.sequences === rows && skipped++ >= 3) {
        seconds.push(step.ms / 1000)
      }
    }
    const steps = channel('millrace:step')
    steps.subscribe(listen)
    try {
      // Requests do not arrive at one moment: some decode a little longer than others.
      const options = { maxTokens: tokens, ignoreEos: true }
      const all = Array.from({ length: rows }, () => model.generate(this.#prompt(context), options).result)
      await Promise.all(all)
    } finally {
      steps.unsubscribe(listen)
    }
    if (seconds.length === 0) {
      throw new MillraceError('INTERNAL', { message: `no pass of ${rows} rows was seen while calibrating` })
    }
    return seconds.sort((a, b) => a - b)[seconds.length >> 1]!
  }

  #prompt(tokens: number): Int32Array {
    const salt = this.#salt++
    return Int32Array.from({ length: tokens }, (_, index) => (salt * 7919 + index * (salt % 89) + index * 31) % VOCAB)
  }
}

/**
 * Waits until what passes will copy is pinned, which goes on behind the load: until then copies take a detour. `step`
 * makes one pass, after which the model's figures are new.
 */
export async function settle(model: Model, step: () => Promise<unknown>): Promise<void> {
  let pinned = -1
  for (;;) {
    await step()
    const { pinnedBytes } = model.memory
    // Where the system allows no more, no more comes.
    if (pinnedBytes >= model.plan.pinnedBytes || pinnedBytes === pinned) return
    pinned = pinnedBytes
    await setTimeout(PINNING_WAIT_MS)
  }
}

const PINNING_WAIT_MS = 250

function bytesOf({ plan }: Model): LayerBytes & { head: number } {
  const of = (kind: string) => plan.units.find((unit) => unit.kind === kind)!.bytes
  return { attention: of('attention'), feedForward: of('feedForward'), head: of('head') }
}

/** Models of random weights in real shapes: for benches at sizes that nobody wants to fetch. */
import type { ModelSpec, SyntheticOptions } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { makeLog } from '../log.ts'
import type { PlanOptions } from '../options.ts'
import { checkMemory } from '../plan/memory.ts'
import { makePlan } from '../plan/plan.ts'
import { TokenizerThread } from '../text/thread.ts'
import type { TextCodec } from '../text/tokenizer.ts'
import { readMachine, readMemory } from './machine.ts'
import { Model } from './model.ts'
import { callNative, runtime } from './runtime.ts'
import { loadWeights } from './weights.ts'

const shape = (
  vocab: number,
  hidden: number,
  layers: number,
  heads: number,
  kvHeads: number,
  intermediate: number,
  maxPosition: number,
  theta: number,
): ModelSpec => ({
  vocab,
  hidden,
  layers,
  heads,
  kvHeads,
  headDim: hidden / heads,
  intermediate,
  maxPosition,
  rmsEpsilon: 1e-5,
  rope: {
    theta,
    scaling: 'none',
    factor: 1,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalMaxPosition: 0,
    attentionFactor: 1,
    betaFast: 32,
    betaSlow: 1,
    truncate: true,
  },
  slidingWindow: 0,
  qkNorm: false,
})

/** Shapes of published models, by name: as their config.json has them. */
export const SHAPES: Readonly<Record<string, ModelSpec>> = {
  'smollm2-135m': shape(49152, 576, 30, 9, 3, 1536, 8192, 1e5),
  'tinyllama-1.1b': shape(32000, 2048, 22, 32, 4, 5632, 2048, 1e4),
  'llama-3.2-1b': shape(128256, 2048, 16, 32, 8, 8192, 131072, 5e5),
  'llama-2-7b': shape(32000, 4096, 32, 32, 32, 11008, 4096, 1e4),
  'llama-3-8b': shape(128256, 4096, 32, 32, 8, 14336, 8192, 5e5),
  'llama-2-13b': shape(32000, 5120, 40, 40, 40, 13824, 4096, 1e4),
  'llama-3-70b': shape(128256, 8192, 80, 64, 8, 28672, 8192, 5e5),
}

const DEFAULTS: SyntheticOptions = { group: 128, zeros: false, head: 'f16', embedding: 'f16', seed: 1 }

const noTokenizer: TextCodec = {
  pieces: { bytes: [], strippedSpaces: 0 },
  bosToken: '',
  eosToken: '',
  encode: () => {
    throw new MillraceError('TOKENIZER_INVALID', {
      message: 'a model of random weights has no tokenizer',
      remedy: 'pass token ids',
    })
  },
  decode: () => '',
  idOf: () => undefined,
}

/**
 * A model of random weights: the layers in 4 bits, the head in `weights.head`. Takes token ids; its answers have no
 * text. Rejects as load() does.
 */
export async function loadSynthetic(
  name: string,
  spec: ModelSpec,
  options: PlanOptions & { signal?: AbortSignal | undefined } = {},
  weights: Partial<SyntheticOptions> = {},
): Promise<Model> {
  const release = runtime().hold()
  try {
    const { native } = runtime()
    const all = { ...DEFAULTS, ...weights }
    const slabs = callNative(() => native.planSynthetic(spec, all))
    const plan = makePlan(spec, slabs, options, readMachine(native))
    if (options.ramBudget === undefined) checkMemory(plan, readMemory(native), false)
    const source = { synthetic: { spec, options: all } }
    const { signal } = options
    const settings = { prefixReuse: true, deterministic: false, maxQueue: 0, poison: false }
    const model = await loadWeights(source, plan, { ...settings, signal, onProgress: () => {} })
    return new Model({
      native: model,
      path: name,
      architecture: 'LlamaForCausalLM',
      spec,
      plan,
      tokenizer: noTokenizer,
      tokenizerThread: new TokenizerThread(noTokenizer, ''),
      chatTemplate: undefined,
      log: makeLog(undefined),
      endTokens: [],
    })
  } finally {
    release()
  }
}

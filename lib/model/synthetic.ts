/** Models of random weights in real shapes: for benches at sizes that nobody wants to fetch. */
import type { NativeKernelImage, NativeLoadSettings, SyntheticOptions } from '../binding.ts'
import { buildDecoder, type DecoderShape } from '../checkpoint/decoder.ts'
import { specOf } from '../checkpoint/spec.ts'
import { MillraceError } from '../errors.ts'
import { makeLog } from '../log.ts'
import type { PlanOptions } from '../options/model.ts'
import type { Speculation } from '../options/speculation.ts'
import { planBeside } from '../plan/draft_model.ts'
import { checkMemory } from '../plan/memory.ts'
import { type ModelPlan, makePlan, passCosts, predictionOf } from '../plan/plan.ts'
import type { TextCodec } from '../text/tokenizer/codec.ts'
import { Pieces } from '../text/tokenizer/pieces.ts'
import { nativeDraft } from './draft_model.ts'
import { gpuMemoryFor, readMachine, readMemory } from './machine.ts'
import { Model } from './model.ts'
import { callNative, runtime } from './runtime.ts'
import { loadWeights } from './weights.ts'

export const SYNTHETIC_DEFAULTS: SyntheticOptions = {
  layers: 'q4',
  group: 128,
  zeros: false,
  head: 'f16',
  embedding: 'f16',
  seed: 1,
}

const refuse = async (): Promise<never> => {
  throw new MillraceError('TOKENIZER_INVALID', {
    message: 'a model of random weights has no tokenizer',
    remedy: 'pass token ids',
  })
}

const noTokenizer: TextCodec = {
  pieces: Pieces.none(),
  bosToken: '',
  eosToken: '',
  bosId: undefined,
  chatTemplate: undefined,
  chatTemplates: undefined,
  encode: refuse,
  applyChatTemplate: refuse,
  encodeChat: refuse,
  prepareChat: refuse,
  decode: () => '',
  idOf: () => undefined,
  bytesOf: () => undefined,
  close: () => {},
}

/** What loadSynthetic() would make of a shape. Throws as it rejects. */
export function planSynthetic(shape: DecoderShape, options: PlanOptions = {}): ModelPlan {
  const { native } = runtime()
  const { program } = buildDecoder(shape)
  const slabs = callNative(() => native.planSynthetic(program, SYNTHETIC_DEFAULTS))
  return makePlan(program, slabs, { ...options, kvSwap: options.kvSwap ?? 0 }, readMachine(native))
}

/**
 * A model of random weights: the layers in `weights.layers` (default: 4 bits), the head in `weights.head`. Takes token ids; its answers have no
 * text. Rejects as load() does.
 */
export async function loadSynthetic(
  name: string,
  shape: DecoderShape,
  options: PlanOptions & {
    signal?: AbortSignal | undefined
    prefixReuse?: boolean | undefined
    kernels?: readonly NativeKernelImage[] | undefined
    /** Default: none, so that a bench's passes have the rows that it asks for. */
    speculation?: Speculation | undefined
    /** A model of random weights that drafts for it: of this shape, and of the large one's vocabulary. */
    draft?:
      | { shape: DecoderShape; device?: string | undefined; placement?: 'resident' | 'streamed' | undefined }
      | undefined
    /** Its answers then have texts. */
    tokenizer?: TextCodec | undefined
    /** What rows choose of its mixtures, in the place of random routers. */
    drawnRoutes?: NativeLoadSettings['drawnRoutes']
  } = {},
  weights: Partial<SyntheticOptions> = {},
): Promise<Model> {
  const release = runtime().hold()
  try {
    const { native } = runtime()
    const { tokenizer = noTokenizer, draft, drawnRoutes, ...planned } = options
    const all = { ...SYNTHETIC_DEFAULTS, ...weights }
    const { program } = buildDecoder(shape)
    const slabs = callNative(() => native.planSynthetic(program, all))
    const machine = readMachine(native)
    // Nothing is preempted in a bench, and pinning memory beside it would be measured too.
    const copies = options.prefixReuse === false ? { stateCopies: 0 } : {}
    const own = { ...copies, ...planned, kvSwap: options.kvSwap ?? 0 }
    const drafting = draft && { ...draft, model: name }
    const draftProgram = draft && buildDecoder({ ...draft.shape, vocab: shape.vocab }).program
    const draftSlabs = draftProgram && callNative(() => native.planSynthetic(draftProgram, all))
    const beside = draftProgram && { program: draftProgram, slabs: draftSlabs!, options: drafting! }
    const plan = planBeside(program, slabs, own, machine, beside)
    const draftPlan = plan.draft
    if (options.ramBudget === undefined) checkMemory(plan, readMemory(native), false)
    const source = { synthetic: { program, options: all } }
    const { signal, prefixReuse = true, kernels = [] } = options
    const costs = {
      passCosts: passCosts(plan, machine),
      draft: draftPlan && nativeDraft({ synthetic: { program: draftProgram!, options: all } }, draftPlan, machine),
      maxQueue: 0,
    }
    const settings = { ...costs, prefixReuse, deterministic: false, poison: false, kernels: [...kernels], drawnRoutes }
    const model = await loadWeights(source, plan, { ...settings, signal, onProgress: () => {} })
    return new Model({
      native: model,
      path: name,
      architecture: 'LlamaForCausalLM',
      spec: specOf(shape),
      plan,
      ring: options.ring,
      gpuMemory: (now) => gpuMemoryFor(native, now),
      predict: (moved) => predictionOf(program, moved, readMachine(native)),
      tokenizer,
      cache: undefined,
      log: makeLog(undefined),
      endTokens: [],
      samplingDefaults: {},
      speculation: options.speculation ?? { method: 'off' },
      pooling: undefined,
    })
  } finally {
    release()
  }
}

/** load() with a draft model: its checkpoint beside the large one's, checked to speak the same tokens. */
import type { NativeAddon, NativeDraftModel, NativeWeightsSource } from '../binding.ts'
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.ts'
import { MillraceError } from '../errors.ts'
import { locate } from '../hub/locate.ts'
import type { DraftOptions, LoadOptions } from '../options/model.ts'
import { KV_BLOCK_TOKENS, type Machine, type ModelPlan, passCosts } from '../plan/plan.ts'
import type { TextCodec } from '../text/tokenizer/codec.ts'
import { loadTokenizer } from '../text/tokenizer/load.ts'

export async function openDraft(
  { model }: DraftOptions,
  native: NativeAddon,
  { revision: _, ...options }: LoadOptions,
): Promise<Checkpoint> {
  const place = await locate(model, options)
  return openCheckpoint(place.path, native, {})
}

export function nativeDraft(source: NativeWeightsSource, plan: ModelPlan, machine: Machine): NativeDraftModel {
  return {
    ...source,
    device: plan.device,
    homes: plan.units.map(({ home }) => home),
    ringBytes: plan.ringBytes,
    contextLength: plan.contextLength,
    kvBlocks: Math.max(...plan.kv.map(({ tokens }) => tokens)) / KV_BLOCK_TOKENS,
    kvType: plan.kvType,
    maxRows: plan.maxRows,
    maxSequences: plan.maxLogitRows,
    passCosts: passCosts(plan, machine),
  }
}

/** Throws INVALID_ARGUMENT where a token of the draft model stands for other bytes than the model's own. */
export async function checkVocabulary(
  path: string,
  own: TextCodec,
  tokens: number,
  signal?: AbortSignal,
): Promise<void> {
  const draft = await loadTokenizer(path, signal && { signal })
  try {
    for (let token = 0; token < tokens; token++) {
      const [here, there] = [own.bytesOf(token), draft.bytesOf(token)]
      if (here === there || (here && there && Buffer.compare(here, there) === 0)) continue
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `the draft model has another vocabulary: token ${token} is ${nameOf(there)} there and ${nameOf(here)} here`,
        remedy: 'take a smaller model of the same family and version',
      })
    }
  } finally {
    draft.close()
  }
}

const nameOf = (bytes: Uint8Array | undefined) => (bytes ? JSON.stringify(Buffer.from(bytes).toString()) : 'none')

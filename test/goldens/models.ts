/** The tiny models of test/goldens/models: what they are. make_models.mjs writes them. */
import type { CheckpointOptions, ModelShape } from '../reference/checkpoint.ts'

const small: ModelShape = {
  vocab: 272,
  hidden: 64,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  intermediate: 128,
  maxPosition: 256,
}

/** Zero points are 1 or more where version 1 stores them, so that every reading of the format agrees. */
export const GOLDEN_MODELS: Record<string, CheckpointOptions> = {
  'gptq-v1-sym-g128': {
    seed: 101,
    shape: { ...small, hidden: 128, heads: 2, kvHeads: 1, headDim: 64, intermediate: 256 },
    gptq: { version: 1, groupSize: 128, symmetric: true, order: 'sequential' },
    tied: true,
  },
  'gptq-v1-asym-g32-act-order': {
    seed: 102,
    shape: { ...small, layers: 3, hidden: 96, heads: 6, kvHeads: 3, intermediate: 160 },
    gptq: { version: 1, groupSize: 32, symmetric: false, order: 'shared', leastZero: 1 },
  },
  'gptq-v2-asym-g64': {
    seed: 103,
    // 96 and 160 input features are no multiples of 64: the last group is short.
    shape: { ...small, hidden: 96, heads: 1, kvHeads: 1, headDim: 80, intermediate: 160, ropeTheta: 500000 },
    gptq: { version: 2, groupSize: 64, symmetric: false, order: 'separate' },
    tied: true,
    attentionBias: true,
    shards: 2,
  },
  'gptq-v1-sym-one-group': {
    seed: 104,
    shape: { ...small, vocab: 301, headDim: 8, heads: 8, kvHeads: 8 },
    gptq: { version: 1, groupSize: -1, symmetric: true, order: 'absent' },
  },
  'f16-untied': {
    seed: 105,
    shape: { ...small, vocab: 259, intermediate: 172, ropeScaling: { rope_type: 'linear', factor: 4 } },
    dtype: 'F16',
    mlpBias: true,
  },
  'bf16-tied': { seed: 106, shape: { ...small, heads: 8, kvHeads: 1, headDim: 8 }, dtype: 'BF16', tied: true },
  'f32-llama3-rope': {
    seed: 107,
    shape: {
      ...small,
      hidden: 48,
      heads: 3,
      kvHeads: 1,
      headDim: 32,
      intermediate: 96,
      ropeTheta: 500000,
      ropeScaling: {
        rope_type: 'llama3',
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        // Short, so that all three ranges of wavelengths occur.
        original_max_position_embeddings: 64,
      },
    },
    dtype: 'F32',
    tied: true,
  },
}

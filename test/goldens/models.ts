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
  // One of each pair of architecture and format that people publish.
  'mistral-bf16-window': {
    seed: 201,
    shape: { ...small, heads: 4, kvHeads: 2, ropeTheta: 1e6 },
    architecture: 'mistral',
    dtype: 'BF16',
    slidingWindow: 40,
  },
  'mistral-awq-g32-window': {
    seed: 202,
    shape: { ...small, hidden: 96, heads: 3, kvHeads: 1, headDim: 32, intermediate: 160 },
    architecture: 'mistral',
    slidingWindow: 17,
    awq: { groupSize: 32, zeroPoint: true },
  },
  'mistral-gptq-v1-sym-g64': {
    seed: 303,
    shape: { ...small, intermediate: 192 },
    architecture: 'mistral',
    gptq: { version: 1, groupSize: 64, symmetric: true, order: 'shared' },
  },
  'mistral-ct-sym-channel': {
    seed: 204,
    shape: small,
    architecture: 'mistral',
    compressed: { groupSize: -1, symmetric: true },
  },
  'qwen2-f16-tied': { seed: 205, shape: { ...small, ropeTheta: 1e6 }, architecture: 'qwen2', tied: true },
  'qwen2-gptq-v1-sym-g32': {
    seed: 206,
    shape: { ...small, hidden: 96, heads: 6, kvHeads: 2 },
    architecture: 'qwen2',
    gptq: { version: 1, groupSize: 32, symmetric: true, order: 'sequential' },
  },
  'qwen2-awq-g64-yarn': {
    seed: 207,
    shape: {
      ...small,
      maxPosition: 64,
      ropeScaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 64 },
    },
    architecture: 'qwen2',
    awq: { groupSize: 64, zeroPoint: true, plain: ['mlp.down_proj'] },
    tied: true,
  },
  'qwen2-ct-asym-g32-group-order': {
    seed: 208,
    shape: small,
    architecture: 'qwen2',
    dtype: 'BF16',
    compressed: { groupSize: 32, symmetric: false, actOrder: 'group', scaleDtype: 'BF16' },
  },
  'qwen3-bf16-tied': {
    seed: 209,
    shape: { ...small, headDim: 32, ropeTheta: 1e6 },
    architecture: 'qwen3',
    dtype: 'BF16',
    tied: true,
  },
  'qwen3-gptq-v2-asym-g32-rules': {
    seed: 210,
    shape: { ...small, headDim: 32, layers: 3 },
    architecture: 'qwen3',
    gptq: {
      version: 2,
      groupSize: 32,
      symmetric: false,
      order: 'sequential',
      dynamic: {
        '-:.*\\.0\\.mlp\\.down_proj': {},
        '+:.*\\.1\\..*gate.*': { group_size: 16 },
        '.*\\.2\\..*v_proj': { group_size: 64, sym: true },
      },
    },
  },
  'qwen3-awq-g128': {
    seed: 211,
    shape: { ...small, hidden: 128, heads: 4, kvHeads: 1, headDim: 32 },
    architecture: 'qwen3',
    awq: { groupSize: 128, zeroPoint: true },
    tied: true,
  },
  'qwen3-ct-sym-g32-weight-order': {
    seed: 212,
    shape: { ...small, headDim: 24 },
    architecture: 'qwen3',
    dtype: 'BF16',
    slidingWindow: 50,
    compressed: { groupSize: 32, symmetric: true, actOrder: 'weight', ignore: ['re:.*layers.1.*down'] },
  },
  'llama-awq-g32-quantised-head': {
    seed: 213,
    shape: small,
    awq: { groupSize: 32, zeroPoint: true, head: true },
    attentionBias: true,
  },
  'llama-ct-asym-g16': {
    seed: 214,
    shape: { ...small, vocab: 277 },
    compressed: { groupSize: 16, symmetric: false },
    shards: 2,
  },
  'llama-ct-sym-g32-group-order': {
    seed: 215,
    shape: small,
    compressed: { groupSize: 32, symmetric: true, actOrder: 'group' },
    tied: true,
  },
  'llama-gptq-v1-sym-g32-quantised-head': {
    seed: 216,
    shape: small,
    gptq: { version: 1, groupSize: 32, symmetric: true, order: 'shared', head: true },
  },
  'llama-f16-yarn-scales': {
    seed: 217,
    shape: {
      ...small,
      headDim: 32,
      ropeTheta: 50000,
      maxPosition: 256,
      ropeScaling: {
        rope_type: 'yarn',
        factor: 8,
        original_max_position_embeddings: 32,
        mscale: 0.7,
        mscale_all_dim: 1.2,
        beta_fast: 16,
        beta_slow: 2,
      },
    },
  },
  'llama-f16-dynamic-rope': {
    seed: 218,
    shape: { ...small, maxPosition: 64, ropeScaling: { rope_type: 'dynamic', factor: 3.5 } },
  },
}

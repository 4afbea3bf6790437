/** Architectures of one model or two that differ from Llama by little. */
import { fieldBoolean } from '../json.ts'
import { type Architecture, ATTENTION, FEED_FORWARD, ownFields, QKV, withBiases, withLayers } from './architecture.ts'
import { POST_NORMS } from './olmo.ts'
import { byPattern, readWindows } from './windows.ts'

const readSeed = ownFields({ attention_out_bias: fieldBoolean().nullish() })

export const seedOss: Architecture = {
  modelType: 'seed_oss',
  defaults: { maxPosition: 524288, kvHeads: 8, headDim: 128 },
  decoder: (config, shape) =>
    withBiases(shape, [
      ...((config.attention_bias ?? true) ? QKV : []),
      ...(readSeed(config).attention_out_bias ? (['output'] as const) : []),
      ...(config.mlp_bias ? FEED_FORWARD : []),
    ]),
  fields: ['attention_out_bias', 'residual_dropout'],
}

export const exaone4: Architecture = {
  modelType: 'exaone4',
  defaults: { maxPosition: 2048, kvHeads: 32, epsilon: 1e-5 },
  windows: (config) => readWindows(config, 4096, byPattern(config, 4)),
  // Of models with windows, layers without one do not rotate.
  decoder: (config, shape) => {
    const hybrid = config.sliding_window !== null
    return {
      ...withLayers(shape, ({ rope, window }) => ({
        headNorms: 'heads',
        rope: hybrid && window === 0 ? { ...rope, rotary: 0 } : rope,
      })),
      norms: POST_NORMS,
    }
  },
  fields: ['sliding_window', 'sliding_window_pattern'],
}

const readErnie = ownFields({ use_bias: fieldBoolean().nullish() })

export const ernie45: Architecture = {
  modelType: 'ernie4_5',
  defaults: { maxPosition: 131072, kvHeads: 2, headDim: 128, epsilon: 1e-5, tied: true, theta: 5e5 },
  decoder: (config, shape) =>
    withLayers(shape, () => ({
      interleaved: true,
      biases: readErnie(config).use_bias ? [...ATTENTION, ...FEED_FORWARD] : [],
    })),
  fields: ['use_bias', 'compression_ratio'],
}

/** GLM-4: the 0414 models have norms of what each half adds. */
import { type Architecture, QKV, withLayers } from './architecture.ts'

const glmOf = (modelType: string): Architecture => ({
  modelType,
  defaults: { maxPosition: 131072, kvHeads: 2, headDim: 128, epsilon: 1.5625e-7, partialRotary: 0.5 },
  decoder: (config, shape) =>
    withLayers(shape, () => ({
      interleaved: true,
      biases: (config.attention_bias ?? true) ? QKV : [],
      fused: { gateUp: 'mlp.gate_up_proj' },
    })),
  fields: [],
})

export const glm = glmOf('glm')

const base = glmOf('glm4')
export const glm4: Architecture = {
  ...base,
  decoder: (config, shape) => ({
    ...base.decoder!(config, shape),
    norms: {
      ...shape.norms,
      afterAttention: 'post_self_attn_layernorm',
      afterFeedForward: 'post_mlp_layernorm',
    },
  }),
}

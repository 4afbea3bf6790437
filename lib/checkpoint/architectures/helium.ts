/** Helium: a Llama whose rotation pairs neighbours. */
import { type Architecture, FEED_FORWARD, QKV, withLayers } from './architecture.ts'

export const helium: Architecture = {
  modelType: 'helium',
  defaults: { maxPosition: 4096, kvHeads: 20, headDim: 128, epsilon: 1e-8, theta: 1e5 },
  decoder: (config, shape) =>
    withLayers(shape, () => ({
      interleaved: true,
      biases: [...(config.attention_bias ? QKV : []), ...(config.mlp_bias ? FEED_FORWARD : [])],
    })),
  fields: [],
}

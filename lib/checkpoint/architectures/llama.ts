import { type Architecture, ATTENTION, FEED_FORWARD, withBiases } from './architecture.ts'

export const llama: Architecture = {
  modelType: 'llama',
  defaults: { maxPosition: 2048 },
  decoder: (config, shape) =>
    withBiases(shape, [...(config.attention_bias ? ATTENTION : []), ...(config.mlp_bias ? FEED_FORWARD : [])]),
  fields: [],
}

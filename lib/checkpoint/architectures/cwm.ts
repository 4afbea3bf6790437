/** Code World Model: a Llama 3 with windows on all layers but the first of four. */
import { type Architecture, FEED_FORWARD, withBiases } from './architecture.ts'
import { readWindows } from './windows.ts'

export const cwm: Architecture = {
  modelType: 'cwm',
  defaults: { maxPosition: 131072, kvHeads: 8, headDim: 128, epsilon: 1e-5 },
  absent: {
    rope_parameters: {
      rope_type: 'llama3',
      rope_theta: 1e6,
      factor: 16,
      high_freq_factor: 4,
      low_freq_factor: 1,
      original_max_position_embeddings: 8192,
    },
  },
  decoder: (config, shape) => withBiases(shape, config.mlp_bias ? FEED_FORWARD : []),
  windows: (config) => readWindows(config, 8192, (layer) => layer % 4 !== 0),
  fields: ['sliding_window'],
}

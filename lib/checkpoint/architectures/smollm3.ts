import { z } from 'zod'
import { fieldInteger } from '../json.ts'
import { type Architecture, ATTENTION, FEED_FORWARD, ownFields, withLayers } from './architecture.ts'
import { readWindows } from './windows.ts'

const read = ownFields({
  no_rope_layers: z.array(fieldInteger(0, 1), { error: 'an array of 0 and 1' }).nullish(),
  no_rope_layer_interval: fieldInteger(1).nullish(),
})

export const smollm3: Architecture = {
  modelType: 'smollm3',
  defaults: { maxPosition: 32768, kvHeads: 4, tied: true, theta: 2e6 },
  // Layers without a rotation see everything.
  windows: (config) => (config.use_sliding_window ? readWindows(config, 0) : Array(config.num_hidden_layers).fill(0)),
  decoder: (config, shape) => {
    const { no_rope_layers: rotated, no_rope_layer_interval: interval } = read(config)
    const biases = [...(config.attention_bias ? ATTENTION : []), ...(config.mlp_bias ? FEED_FORWARD : [])]
    return withLayers(shape, ({ rope }, layer) => {
      const turns = rotated ? rotated[layer] === 1 : (layer + 1) % (interval ?? 4) !== 0
      return { biases, rope: turns ? rope : { ...rope, rotary: 0 } }
    })
  },
  fields: ['sliding_window', 'use_sliding_window', 'max_window_layers', 'no_rope_layers', 'no_rope_layer_interval'],
}

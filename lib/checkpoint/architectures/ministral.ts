/** Ministral: windows by layer (8B), and version 3, whose queries grow with their position. */
import { fieldInteger, fieldNumber, isObject } from '../json.ts'
import { type Architecture, ownFields, withLayers } from './architecture.ts'
import { readWindows } from './windows.ts'

export const ministral: Architecture = {
  modelType: 'ministral',
  defaults: { maxPosition: 131072, kvHeads: 8 },
  windows: (config) => readWindows(config, 4096),
  fields: ['sliding_window'],
}

const read = ownFields({
  llama_4_scaling_beta: fieldNumber(0).nullish(),
  original_max_position_embeddings: fieldInteger(1).nullish(),
})

export const ministral3: Architecture = {
  modelType: 'ministral3',
  defaults: { maxPosition: 262144, kvHeads: 8, headDim: 128, epsilon: 1e-5 },
  windows: (config) => readWindows(config, 0),
  ropeFields: ['llama_4_scaling_beta', 'max_position_embeddings'],
  decoder: (config, shape) => {
    const parameters = [config.rope_scaling, config.rope_parameters].find((object) => isObject(object)) ?? {}
    const { llama_4_scaling_beta: growth, original_max_position_embeddings: period } = read(parameters as typeof config)
    if (growth == null || period == null) return shape
    return withLayers(shape, () => ({ queryGrowth: { growth, period } }))
  },
  fields: ['sliding_window'],
}

import { type Architecture, ATTENTION, withLayers } from './architecture.ts'
import { QWEN_WINDOW_FIELDS, readQwenWindows } from './windows.ts'

export const qwen3: Architecture = {
  modelType: 'qwen3',
  defaults: { maxPosition: 32768, kvHeads: 32, headDim: 128 },
  windows: readQwenWindows,
  decoder: (config, shape) =>
    withLayers(shape, () => ({ headNorms: 'heads', biases: config.attention_bias ? ATTENTION : [] })),
  fields: QWEN_WINDOW_FIELDS,
}

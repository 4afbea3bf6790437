import { type Architecture, QKV, withBiases } from './architecture.ts'
import { QWEN_WINDOW_FIELDS, readQwenWindows } from './windows.ts'

export const qwen2: Architecture = {
  modelType: 'qwen2',
  defaults: { maxPosition: 32768, kvHeads: 32 },
  windows: readQwenWindows,
  decoder: (_, shape) => withBiases(shape, QKV),
  fields: QWEN_WINDOW_FIELDS,
}

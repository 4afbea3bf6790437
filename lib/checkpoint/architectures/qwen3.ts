import type { Architecture } from './architecture.ts'
import { QWEN_WINDOW_FIELDS, readQwenWindow } from './windows.ts'

export const qwen3: Architecture = {
  modelType: 'qwen3',
  defaults: { maxPosition: 32768, kvHeads: 32, headDim: 128 },
  attentionBias: (config) => (config.attention_bias ? 'all' : 'none'),
  slidingWindow: readQwenWindow,
  qkNorm: true,
  fields: QWEN_WINDOW_FIELDS,
}

import type { Architecture } from './architecture.ts'
import { QWEN_WINDOW_FIELDS, readQwenWindow } from './windows.ts'

export const qwen2: Architecture = {
  modelType: 'qwen2',
  defaults: { maxPosition: 32768, kvHeads: 32 },
  attentionBias: () => 'qkv',
  slidingWindow: readQwenWindow,
  fields: QWEN_WINDOW_FIELDS,
}

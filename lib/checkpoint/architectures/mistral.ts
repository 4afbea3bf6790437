import type { Architecture } from './architecture.ts'
import { readMistralWindow } from './windows.ts'

export const mistral: Architecture = {
  modelType: 'mistral',
  defaults: { maxPosition: 131072, kvHeads: 8 },
  attentionBias: () => 'none',
  slidingWindow: readMistralWindow,
  fields: ['sliding_window'],
}

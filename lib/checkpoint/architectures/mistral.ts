import type { Architecture } from './architecture.ts'
import { readWindow } from './windows.ts'

export const mistral: Architecture = {
  modelType: 'mistral',
  defaults: { maxPosition: 131072, kvHeads: 8 },
  attentionBias: () => 'none',
  slidingWindow: (config) => readWindow(config, 0),
  fields: ['sliding_window'],
}

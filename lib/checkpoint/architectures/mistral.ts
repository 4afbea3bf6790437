import type { Architecture } from './architecture.ts'
import { readWindows } from './windows.ts'

export const mistral: Architecture = {
  modelType: 'mistral',
  defaults: { maxPosition: 131072, kvHeads: 8 },
  windows: (config) => readWindows(config, 4096),
  fields: ['sliding_window'],
}

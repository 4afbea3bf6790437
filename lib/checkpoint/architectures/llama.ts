import type { Architecture } from './architecture.ts'

export const llama: Architecture = {
  modelType: 'llama',
  defaults: { maxPosition: 2048 },
  attentionBias: (config) => (config.attention_bias ? 'all' : 'none'),
  feedForwardBias: (config) => config.mlp_bias ?? false,
  fields: [],
}

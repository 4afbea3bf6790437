/** Phi-3 and Phi-4. */
import { type Architecture, withLayers } from './architecture.ts'
import { readWindows } from './windows.ts'

export const phi3: Architecture = {
  modelType: 'phi3',
  defaults: { maxPosition: 4096, epsilon: 1e-5, partialRotary: 1, originalMaxPosition: 4096 },
  ropeTypes: ['longrope'],
  windows: (config) => readWindows(config, 0),
  decoder: (_, shape) =>
    withLayers(shape, () => ({ fused: { qkv: 'self_attn.qkv_proj', gateUp: 'mlp.gate_up_proj' } })),
  fields: ['sliding_window', 'embd_pdrop', 'resid_pdrop'],
}

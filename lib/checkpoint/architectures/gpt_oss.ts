/** gpt-oss: attention with sinks and biases, windows on every other layer, mixtures of clamped experts. */
import { invalidField } from '../fields.ts'
import { fieldInteger, fieldNumber } from '../json.ts'
import { EXPERTS, type MixtureShape } from '../mixture.ts'
import { type Architecture, ATTENTION, ownFields, withLayers } from './architecture.ts'
import { everyButEach, readWindows } from './windows.ts'

const read = ownFields({
  num_local_experts: fieldInteger(1).nullish(),
  num_experts_per_tok: fieldInteger(1).nullish(),
  experts_per_token: fieldInteger(1).nullish(),
  swiglu_limit: fieldNumber(0).nullish(),
})

export const gptOss: Architecture = {
  modelType: 'gpt_oss',
  defaults: { maxPosition: 131072, kvHeads: 8, headDim: 64, epsilon: 1e-5, theta: 150000 },
  windows: (config) => readWindows(config, 128, everyButEach(2)),
  decoder: (config, shape) => {
    // Without, its class has a scaling that nobody leaves out.
    if (!config.rope_scaling && !config.rope_parameters) throw invalidField('rope_parameters', 'an object', undefined)
    const own = read(config)
    return withLayers(shape, ({ intermediate: width }) => {
      const mixture: MixtureShape = {
        experts: own.num_local_experts ?? 128,
        chosen: own.num_experts_per_tok ?? own.experts_per_token ?? 4,
        width,
        // A softmax over the chosen ones alone is what one over all is after it is divided by their sum.
        score: 'softmax',
        renormalise: true,
        clamped: { alpha: 1.702, limit: own.swiglu_limit || 7 },
        routerBias: true,
        expertBiases: true,
        names: {
          ...EXPERTS,
          router: 'mlp.router',
          fused: { gateUp: 'gate_up_proj', interleaved: true, transposed: true },
        },
      }
      return { mixture, sinks: 'self_attn.sinks', biases: (config.attention_bias ?? true) ? ATTENTION : [] }
    })
  },
  fields: [
    'sliding_window',
    'num_local_experts',
    'num_experts_per_tok',
    'experts_per_token',
    'swiglu_limit',
    'initial_context_length',
  ],
}

/** Mixtral: every layer is a mixture, as wide as intermediate_size says. */
import { fieldInteger } from '../json.ts'
import { EXPERTS, type MixtureNames } from '../mixture.ts'
import { type Architecture, ownFields, withLayers } from './architecture.ts'
import { readWindows } from './windows.ts'

/** Names of the weights in Mixtral's own code, which files have kept. */
export const MIXTRAL_NAMES: MixtureNames = {
  ...EXPERTS,
  router: 'block_sparse_moe.gate',
  experts: 'block_sparse_moe.experts',
  gate: 'w1',
  up: 'w3',
  down: 'w2',
}

const read = ownFields({
  num_local_experts: fieldInteger(1).nullish(),
  num_experts_per_tok: fieldInteger(1).nullish(),
})

export const mixtral: Architecture = {
  modelType: 'mixtral',
  defaults: { maxPosition: 131072, kvHeads: 8, epsilon: 1e-5, theta: 1e6 },
  windows: (config) => readWindows(config, 0),
  decoder: (config, shape) => {
    const { num_local_experts: experts, num_experts_per_tok: chosen } = read(config)
    return withLayers(shape, ({ intermediate: width }) => ({
      mixture: {
        experts: experts ?? 8,
        chosen: chosen ?? 2,
        width,
        score: 'softmax',
        renormalise: true,
        names: MIXTRAL_NAMES,
      },
    }))
  },
  fields: ['sliding_window', 'num_local_experts', 'num_experts_per_tok', 'router_jitter_noise'],
}

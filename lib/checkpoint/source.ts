/** Tensor names -> which tensors make up which linear. Shapes and types are the native side's to check. */
import type { LayerSource, LinearSource, ModelSource, NativeTensor } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { ModelConfig } from './config.ts'
import type { Quantisation } from './quantisation.ts'

/** Throws CHECKPOINT_INVALID naming the first tensor that is missing. */
export function makeSource(
  config: ModelConfig,
  quantisation: Quantisation,
  tensors: readonly Pick<NativeTensor, 'name'>[],
): ModelSource {
  const names = new Set(tensors.map((tensor) => tensor.name))
  const present = (name: string) => (names.has(name) ? name : '')
  const require = (name: string) => {
    if (!names.has(name)) throw missing(name)
    return name
  }

  const linear = (name: string, bias: boolean): LinearSource => {
    const biasName = bias ? present(`${name}.bias`) : ''
    if (names.has(`${name}.qweight`)) {
      if (quantisation.method === 'none') {
        throw new MillraceError('CHECKPOINT_INVALID', {
          message: `tensor '${name}.qweight': expected settings of the quantisation in config.json or quantize_config.json, found none`,
          remedy: 'fetch the file with the settings from where the checkpoint came from',
        })
      }
      return {
        format: 'gptq',
        weight: `${name}.qweight`,
        zeros: require(`${name}.qzeros`),
        scales: require(`${name}.scales`),
        gIdx: present(`${name}.g_idx`),
        bias: biasName,
        bits: quantisation.bits,
        groupSize: quantisation.groupSize,
        symmetric: quantisation.symmetric,
        zerosMinusOne: quantisation.format === 'gptq',
      }
    }
    if (names.has(`${name}.weight`)) return plain(`${name}.weight`, biasName)
    throw missing(quantisation.method === 'none' ? `${name}.weight` : `${name}.qweight' or '${name}.weight`)
  }

  const layer = (index: number): LayerSource => {
    const prefix = `model.layers.${index}`
    const attention = (part: string) => linear(`${prefix}.self_attn.${part}_proj`, config.attentionBias)
    const feedForward = (part: string) => linear(`${prefix}.mlp.${part}_proj`, config.feedForwardBias)
    return {
      attentionNorm: require(`${prefix}.input_layernorm.weight`),
      feedForwardNorm: require(`${prefix}.post_attention_layernorm.weight`),
      query: attention('q'),
      key: attention('k'),
      value: attention('v'),
      output: attention('o'),
      gate: feedForward('gate'),
      up: feedForward('up'),
      down: feedForward('down'),
    }
  }

  const embedding = require('model.embed_tokens.weight')
  return {
    spec: config.spec,
    layers: Array.from({ length: config.spec.layers }, (_, index) => layer(index)),
    embedding,
    finalNorm: require('model.norm.weight'),
    head: config.tiedEmbeddings ? plain(embedding, '') : linear('lm_head', false),
  }
}

function plain(weight: string, bias: string): LinearSource {
  return {
    format: 'plain',
    weight,
    zeros: '',
    scales: '',
    gIdx: '',
    bias,
    bits: 0,
    groupSize: 0,
    symmetric: false,
    zerosMinusOne: false,
  }
}

function missing(name: string): MillraceError {
  return new MillraceError('CHECKPOINT_INVALID', {
    message: `expected tensor '${name}' in the safetensors files, found none`,
  })
}

/** The parts of a Hugging Face config.json that the tests' models use. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

export type RopeScaling =
  | { rope_type: 'linear'; factor: number }
  | { rope_type: 'dynamic'; factor: number }
  | {
      rope_type: 'yarn'
      factor: number
      original_max_position_embeddings: number
      attention_factor?: number
      mscale?: number
      mscale_all_dim?: number
      beta_fast?: number
      beta_slow?: number
    }
  | {
      rope_type: 'llama3'
      factor: number
      low_freq_factor: number
      high_freq_factor: number
      original_max_position_embeddings: number
    }

export interface GptqConfig {
  quant_method?: 'gptq'
  bits: number
  /** -1 is one group of all input features. */
  group_size: number
  sym: boolean
  desc_act: boolean
  checkpoint_format?: 'gptq' | 'gptq_v2'
  lm_head?: boolean
  /** The names, within a layer, of the linears that are quantised; absent: all. */
  modules_in_block_to_quantize?: string[][]
  /** GPTQModel's rules: a pattern of module names with a sign, and what holds for them. */
  dynamic?: Record<string, { bits?: number; group_size?: number; sym?: boolean }>
}

export interface AwqConfig {
  quant_method: 'awq'
  bits: number
  group_size: number
  zero_point: boolean
  version: string
  modules_to_not_convert?: string[] | null
}

export interface CompressedTensorsConfig {
  quant_method: 'compressed-tensors'
  format: 'pack-quantized'
  config_groups: {
    group_0: {
      targets: string[]
      weights: {
        num_bits: number
        type: 'int'
        symmetric: boolean
        strategy: 'group' | 'channel'
        group_size: number | null
        actorder: 'group' | 'weight' | null
      }
    }
  }
  ignore: string[]
}

export type QuantisationConfig = GptqConfig | AwqConfig | CompressedTensorsConfig

export interface Config {
  architectures?: string[]
  model_type: string
  vocab_size: number
  hidden_size: number
  intermediate_size: number
  num_hidden_layers: number
  num_attention_heads: number
  num_key_value_heads: number
  head_dim?: number
  max_position_embeddings: number
  rms_norm_eps: number
  rope_theta: number
  rope_scaling?: RopeScaling | null
  tie_word_embeddings: boolean
  attention_bias?: boolean
  mlp_bias?: boolean
  sliding_window?: number | null
  use_sliding_window?: boolean
  bos_token_id: number
  eos_token_id: number
  quantization_config?: QuantisationConfig
}

/** config.json, with what quantize_config.json or quant_config.json say as its quantization_config. */
export function readConfig(dir: string): Config {
  const json = (name: string) => JSON.parse(readFileSync(join(dir, name), 'utf8'))
  const config = json('config.json') as Config
  if (!config.quantization_config && existsSync(join(dir, 'quantize_config.json'))) {
    config.quantization_config = json('quantize_config.json') as GptqConfig
  }
  if (!config.quantization_config && existsSync(join(dir, 'quant_config.json'))) {
    const said = json('quant_config.json')
    config.quantization_config = { quant_method: 'awq', ...said, bits: said.w_bit, group_size: said.q_group_size }
  }
  return config
}

/** What holds for one module, by the first rule of `dynamic` that matches its name as Python's re.match does. */
export function gptqSettingsOf(
  config: GptqConfig,
  module: string,
): { groupSize: number; symmetric: boolean } | 'plain' {
  for (const [key, rule] of Object.entries(config.dynamic ?? {})) {
    if (!new RegExp(`^(?:${key.replace(/^[+-]:/, '')})`).test(module)) continue
    if (key.startsWith('-:')) return 'plain'
    return { groupSize: rule.group_size ?? config.group_size, symmetric: rule.sym ?? config.sym }
  }
  return { groupSize: config.group_size, symmetric: config.sym }
}

/** Positions that a row sees, its own counted; Infinity: all before it. */
export function windowOf(config: Config): number {
  const slides = config.model_type === 'mistral' || config.use_sliding_window
  return (slides && config.sliding_window) || Infinity
}

/** The parts of a Hugging Face config.json that the tests' models use. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

export type RopeScaling =
  | { rope_type: 'linear'; factor: number }
  | {
      rope_type: 'llama3'
      factor: number
      low_freq_factor: number
      high_freq_factor: number
      original_max_position_embeddings: number
    }

export interface QuantisationConfig {
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
}

export interface Config {
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
  bos_token_id: number
  eos_token_id: number
  quantization_config?: QuantisationConfig
}

/** config.json, with quantize_config.json as its quantization_config where that is how the folder says it. */
export function readConfig(dir: string): Config {
  const json = (name: string) => JSON.parse(readFileSync(join(dir, name), 'utf8'))
  const config = json('config.json') as Config
  if (!config.quantization_config && existsSync(join(dir, 'quantize_config.json'))) {
    config.quantization_config = json('quantize_config.json') as QuantisationConfig
  }
  return config
}

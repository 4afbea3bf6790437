/** The supported architectures, as config.json spells them: a small file each, or each kind. */
import type { Architecture } from './architecture.ts'
import { cohere, cohere2 } from './cohere.ts'
import { cwm } from './cwm.ts'
import { deepseekV2, deepseekV3, glm4MoeLite } from './deepseek.ts'
import { gemma, gemma2, gemma3 } from './gemma.ts'
import { gemma4 } from './gemma4.ts'
import { glm, glm4 } from './glm.ts'
import { glm4Moe } from './glm4_moe.ts'
import { gptOss } from './gpt_oss.ts'
import { granite, graniteHybrid, hyperClovaX } from './granite.ts'
import { helium } from './helium.ts'
import { llama } from './llama.ts'
import { ministral, ministral3 } from './ministral.ts'
import { mistral } from './mistral.ts'
import { mixtral } from './mixtral.ts'
import { olmo, olmo2, olmo3 } from './olmo.ts'
import { olmoe } from './olmoe.ts'
import { ernie45, exaone4, seedOss } from './others.ts'
import { phi3 } from './phi3.ts'
import { qwen2 } from './qwen2.ts'
import { qwen3 } from './qwen3.ts'
import { qwen3Moe } from './qwen3_moe.ts'
import { qwen3Next, qwen35, qwen35Moe } from './qwen3_next.ts'
import { smollm3 } from './smollm3.ts'

export const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  LlamaForCausalLM: llama,
  MistralForCausalLM: mistral,
  Qwen2ForCausalLM: qwen2,
  Qwen3ForCausalLM: qwen3,
  Qwen3MoeForCausalLM: qwen3Moe,
  Qwen3NextForCausalLM: qwen3Next,
  Qwen3_5ForCausalLM: qwen35,
  Qwen3_5MoeForCausalLM: qwen35Moe,
  MixtralForCausalLM: mixtral,
  GptOssForCausalLM: gptOss,
  Glm4MoeForCausalLM: glm4Moe,
  Glm4MoeLiteForCausalLM: glm4MoeLite,
  DeepseekV2ForCausalLM: deepseekV2,
  DeepseekV3ForCausalLM: deepseekV3,
  OlmoeForCausalLM: olmoe,
  GemmaForCausalLM: gemma,
  Gemma2ForCausalLM: gemma2,
  Gemma3ForCausalLM: gemma3,
  Gemma4ForCausalLM: gemma4,
  Phi3ForCausalLM: phi3,
  GlmForCausalLM: glm,
  Glm4ForCausalLM: glm4,
  GraniteForCausalLM: granite,
  GraniteMoeHybridForCausalLM: graniteHybrid,
  OlmoForCausalLM: olmo,
  Olmo2ForCausalLM: olmo2,
  Olmo3ForCausalLM: olmo3,
  SmolLM3ForCausalLM: smollm3,
  CohereForCausalLM: cohere,
  Cohere2ForCausalLM: cohere2,
  MinistralForCausalLM: ministral,
  Ministral3ForCausalLM: ministral3,
  SeedOssForCausalLM: seedOss,
  Exaone4ForCausalLM: exaone4,
  Ernie4_5ForCausalLM: ernie45,
  HeliumForCausalLM: helium,
  HyperCLOVAXForCausalLM: hyperClovaX,
  CwmForCausalLM: cwm,
}

/** Models of several parts, of which the text's is read: it says in `text_config` which of the above it is. */
export const WITH_TEXT_CONFIG = [
  'Gemma3ForConditionalGeneration',
  'Gemma4ForConditionalGeneration',
  'Mistral3ForConditionalGeneration',
  'Qwen3_5ForConditionalGeneration',
  'Qwen3_5MoeForConditionalGeneration',
] as const

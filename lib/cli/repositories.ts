/** Repositories of the hub with the shapes that plans know, in 4 bits where somebody has published them so. */
export const REPOSITORIES: Readonly<Record<string, string>> = {
  'smollm2-135m': 'HuggingFaceTB/SmolLM2-135M-Instruct',
  'tinyllama-1.1b': 'TheBloke/TinyLlama-1.1B-Chat-v1.0-AWQ',
  'llama3.2-1b': 'bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M',
  'llama2-7b': 'TheBloke/Llama-2-7B-Chat-AWQ',
  'llama3-8b': 'hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4',
  'llama2-13b': 'TheBloke/Llama-2-13B-chat-AWQ',
  'llama2-70b': 'TheBloke/Llama-2-70B-Chat-AWQ',
  'llama3-70b': 'hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4',
  'qwen3-30b-a3b': 'Qwen/Qwen3-30B-A3B-GPTQ-Int4',
  'gpt-oss-20b': 'openai/gpt-oss-20b',
  'gpt-oss-120b': 'openai/gpt-oss-120b',
  'mixtral-8x7b': 'casperhansen/mixtral-instruct-awq',
  'glm-4.5-air': 'cyankiwi/GLM-4.5-Air-AWQ-4bit',
}

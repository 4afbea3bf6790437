/** Models of text and images: the text's part is read, under either prefix, and the rest is told. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { inspect, load } from '../../lib/index.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { MODELS } from '../models.ts'
import { readFolder, tensor, writeSafetensors } from '../reference/safetensors.ts'

const families = fileURLToPath(new URL('families', import.meta.url))

const WRAPPED = [
  ['Gemma3ForConditionalGeneration', 'gemma3', 'gemma3-bf16'],
  ['Gemma4ForConditionalGeneration', 'gemma4', 'gemma4-bf16'],
  ['Mistral3ForConditionalGeneration', 'mistral3', 'ministral3-bf16'],
  ['Mistral3ForConditionalGeneration', 'mistral3', 'mistral-small-bf16'],
  ['Qwen3_5ForConditionalGeneration', 'qwen3_5', 'qwen35-bf16'],
  ['Qwen3_5MoeForConditionalGeneration', 'qwen3_5_moe', 'qwen35-moe-bf16'],
] as const
const PREFIXES = ['model.language_model.', 'language_model.model.'] as const

const cases = WRAPPED.flatMap((model) => PREFIXES.map((prefix) => [...model, prefix] as const))
test.each(cases)('%s of %s: %s, %s', async (architecture, modelType, family, prefix) => {
  const json = (name: string) => JSON.parse(readFileSync(join(families, family, name), 'utf8'))
  const tokenizer = readFileSync(join(MODELS, 'stories260k', 'tokenizer.json'), 'utf8')
  const { architectures: _, tie_word_embeddings, eos_token_id, ...text } = json('config.json')
  const config = {
    architectures: [architecture],
    model_type: modelType,
    tie_word_embeddings,
    eos_token_id,
    text_config: text,
    vision_config: { hidden_size: 32, model_type: 'siglip_vision_model' },
  }
  const folder = await temporaryFolder({ 'config.json': config, 'tokenizer.json': tokenizer })
  const renamed = [...readFolder(join(families, family))].map(([name, value]) => {
    const head = prefix.startsWith('language') ? 'language_model.lm_head.' : 'lm_head.'
    return [name.replace(/^model\./, prefix).replace(/^lm_head\./, head), value] as const
  })
  const vision = tensor('F32', [4, 4], Array(16).fill(0.5))
  writeSafetensors(join(folder, 'model.safetensors'), new Map([...renamed, ['vision_tower.patch.weight', vision]]))
  writeFileSync(join(folder, 'tokenizer_config.json'), '{}')

  const { warnings } = await inspect(folder)
  expect(warnings).toEqual([`of ${architecture} the text's part is read; 1 tensors of other parts are not`])
  const golden = json('golden.json')
  await using model = await load(folder, { device: 'cpu', contextLength: 160, cache: false })
  const { logprobs } = await model.score(golden.ids)
  const errors: number[] = golden.logprobs.map((value: number, at: number) => Math.abs(logprobs[at]! - value))
  expect(errors.reduce((sum, error) => sum + error, 0) / errors.length).toBeLessThan(2e-3)
})

/** The config.json of published models, as published: every one is read, and nothing is said against it. */

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type ModelConfig, readConfig } from '../../../lib/checkpoint/config.ts'
import { countParameters } from '../../../lib/checkpoint/count.ts'
import { readQuantisation } from '../../../lib/checkpoint/quantisation/index.ts'

const FOLDER = join(import.meta.dirname, 'published')
const PUBLISHED = readdirSync(FOLDER).map((file) => file.replace(/\.json$/, ''))
const configOf = (name: string) => JSON.parse(readFileSync(join(FOLDER, `${name}.json`), 'utf8'))

/**
 * Where those come from that were typed and not fetched, field by field: `defaults` are those of the class in transformers
 * 5.18, whose checkpoint the model is.
 */
const TYPED: Record<string, string> = {
  cwm: 'CwmConfig, defaults of facebook/cwm: every field the same, llama3 rope and every fourth layer full',
  'olmo-7b': 'OlmoConfig, defaults of allenai/OLMo-7B-hf: every field the same',
  'olmo-1b': 'card of allenai/OLMo-1B-hf (16 layers of 2,048, 16 heads, context 2,048), its count of weights (1.18 B)',
  'gemma-4-e4b-it': "card of google/gemma-4-E4B-it, and the same fields in two other engines' tests of that file",
  'granite-3b-code-base': 'Granite Code Models, arXiv 2405.04324, table of configurations',
}

/** Weights, as the model's page gives them. */
const PARAMETERS: Record<string, number> = {
  'llama-7b': 6_738_415_616,
  'llama-13b': 13_015_864_320,
  'vicuna-7b-v1.5': 6_738_415_616,
  'llama-2-7b': 6_738_415_616,
  'llama-2-7b-chat-gptq': 6_738_415_616,
  'llama-2-13b': 13_015_864_320,
  'llama-2-70b': 68_976_648_192,
  'code-llama-7b': 6_738_546_688,
  'llama-3-8b': 8_030_261_248,
  'llama-3-70b-instruct': 70_553_706_496,
  'llama-3.1-8b-instruct': 8_030_261_248,
  'llama-3.1-405b-instruct': 405_853_388_800,
  'llama-3.2-1b-instruct': 1_235_814_400,
  'llama-3.2-1b-transformers-5': 1_235_814_400,
  'llama-3.2-3b-instruct': 3_212_749_824,
  'llama-3.3-70b-instruct': 70_553_706_496,
  'tinyllama-1.1b-chat': 1_100_048_384,
  'smollm2-135m-instruct': 134_515_008,
  'smollm2-360m-instruct': 361_821_120,
  'smollm2-1.7b-instruct': 1_711_376_384,
  'falcon3-7b-instruct': 7_455_550_464,
  'yi-34b': 34_388_917_248,
  'deepseek-r1-distill-llama-8b': 8_030_261_248,
  'mistral-7b-v0.1': 7_241_732_096,
  'mistral-7b-instruct-v0.2': 7_241_732_096,
  'mistral-7b-instruct-v0.3': 7_248_023_552,
  'mistral-7b-instruct-v0.3-transformers-5': 7_248_023_552,
  'mistral-nemo-instruct-2407': 12_247_782_400,
  'mistral-small-24b-instruct-2501': 23_572_403_200,
  'qwen2-0.5b-instruct': 494_032_768,
  'qwen2-7b-instruct': 7_615_616_512,
  'qwen2.5-0.5b-instruct': 494_032_768,
  'qwen2.5-0.5b-instruct-transformers-5': 494_032_768,
  'qwen2.5-1.5b-instruct': 1_543_714_304,
  'qwen2.5-3b-instruct': 3_085_938_688,
  'qwen2.5-7b-instruct': 7_615_616_512,
  'qwen2.5-14b-instruct': 14_770_033_664,
  'qwen2.5-32b-instruct': 32_763_876_352,
  'qwen2.5-72b-instruct': 72_706_203_648,
  'deepseek-r1-distill-qwen-1.5b': 1_777_088_000,
  'deepseek-r1-distill-qwen-32b': 32_763_876_352,
  'qwen3-0.6b': 596_049_920,
  'qwen3-0.6b-transformers-5': 596_049_920,
  'qwen3-1.7b': 1_720_574_976,
  'qwen3-4b': 4_022_468_096,
  'qwen3-8b': 8_190_735_360,
  'qwen3-14b': 14_768_307_200,
  'qwen3-32b': 32_762_123_264,
  'gemma-2-2b-it': 2_614_341_888,
  'gemma-2-9b-it': 9_241_705_984,
  'gemma-2-27b-it': 27_227_128_320,
  'gemma-3-270m-it': 268_098_176,
  'gemma-3-1b-it': 999_885_952,
  'gemma-3-4b-it': 3_880_263_168,
  'gemma-3-12b-it': 11_766_034_176,
  'gemma-3-27b-it': 27_009_346_304,
  'phi-3-mini-4k-instruct': 3_821_079_552,
  'phi-3.5-mini-instruct': 3_821_079_552,
  'phi-3-medium-4k-instruct': 13_960_238_080,
  'phi-4': 14_659_507_200,
  'phi-4-mini-instruct': 3_836_021_760,
  'glm-4-9b-0414': 9_400_279_040,
  'glm-4-32b-0414': 32_566_081_536,
  'glm-4-9b-chat-hf': 9_399_951_360,
  'olmo-1b': 1_176_764_416,
  'olmo-7b': 6_888_095_744,
  'olmo-2-0425-1b': 1_484_916_736,
  'olmo-2-1124-7b': 7_298_617_344,
  'olmo-2-1124-13b': 13_716_198_400,
  'olmo-2-0325-32b': 32_234_279_936,
  'olmo-3-7b-instruct': 7_298_011_136,
  'olmo-3-32b-think': 32_233_522_176,
  'granite-3.1-8b-instruct': 8_170_848_256,
  'granite-3.3-2b-instruct': 2_533_539_840,
  'granite-3.3-8b-instruct': 8_170_864_640,
  'smollm3-3b': 3_075_098_624,
  'qwen3-30b-a3b': 30_532_122_624,
  'qwen3-235b-a22b': 235_093_634_560,
  'mixtral-8x7b-instruct-v0.1': 46_702_792_704,
  'command-r-v01': 34_980_831_232,
  'ministral-8b-instruct-2410': 8_019_808_256,
  'mistral-small-3.1-24b-instruct-2503': 23_572_403_200,
  'seed-oss-36b-instruct': 36_151_104_512,
  'exaone-4.0-1.2b': 1_279_391_488,
  'ernie-4.5-0.3b-pt': 360_748_032,
  'deepseek-v3': 671_026_419_200,
  'deepseek-v2-lite-chat': 15_706_484_224,
}

/** Of those of whose text's part only a rounded count is published, in billions: within its last digit. */
const ROUNDED: Record<string, number> = {
  'command-r7b-12-2024': 8.0,
  cwm: 32.6,
  'exaone-4.0-32b': 32.0,
  'gemma-4-31b-it': 30.7,
  'gemma-4-e4b-it': 7.5, // 8 with images and sound
  'granite-3b-code-base': 3.5,
  'granite-4.0-micro': 3.4,
  'ministral-3-3b-instruct-2512': 3.4,
  'ministral-3-8b-instruct-2512': 8.4,
  'ministral-3-14b-instruct-2512': 13.5,
}

/** Of the same ones, exactly: what transformers 5 builds of the file has so many. */
const BUILT: Record<string, number> = {
  'command-r7b-12-2024': 8_028_033_024,
  cwm: 32_581_097_472,
  'exaone-4.0-32b': 32_003_216_384,
  'gemma-4-31b-it': 30_697_345_280 + 60, // a number a layer, a buffer there
  'gemma-4-e4b-it': 7_463_013_376 + 42,
  'granite-3b-code-base': 3_482_503_680,
  'granite-4.0-micro': 3_402_836_480,
  'ministral-3-3b-instruct-2512': 3_429_006_336,
  'ministral-3-8b-instruct-2512': 8_489_553_920,
  'ministral-3-14b-instruct-2512': 13_506_073_600,
}

/** Of mixtures, in billions: the weights that a token is computed with, as their pages have them. */
const ACTIVE: Record<string, number> = {
  'qwen3-30b-a3b': 3.3,
  'qwen3-235b-a22b': 22,
  'mixtral-8x7b-instruct-v0.1': 12.9,
  'deepseek-v2-lite-chat': 2.7,
}

const parameters = ({ named, tiedEmbeddings }: ModelConfig) => countParameters(named, tiedEmbeddings).all

describe('published models', () => {
  test.each(PUBLISHED)('%s: no refusal, no warning', async (name) => {
    const warnings: string[] = []
    const config = configOf(name)
    const read = readConfig(config, (message) => warnings.push(message))
    expect(warnings).toEqual([])
    if (name in PARAMETERS) expect(parameters(read)).toBe(PARAMETERS[name])
    if (name in BUILT) expect(parameters(read)).toBe(BUILT[name])
    if (name in ACTIVE) {
      const { active } = countParameters(read.named, read.tiedEmbeddings)
      expect(Math.abs(active / 1e9 / ACTIVE[name]! - 1)).toBeLessThan(0.02)
    }
    if (name in ROUNDED) expect(Math.abs(parameters(read) / 1e9 - ROUNDED[name]!)).toBeLessThan(0.1)
    const { quantization_config: said } = config
    const quantisation = await readQuantisation({ path: FOLDER, files: [], config } as never)
    expect(quantisation.method).toBe(said ? said.quant_method : 'none')
    if (quantisation.method === 'fp8') expect(quantisation).toMatchObject({ bits: 8 })
    else if (quantisation.method !== 'none') expect(quantisation).toMatchObject({ bits: 4, groupSize: 128 })
  })

  test('there is a count of weights, and a source, for no other file', () => {
    const named = [PARAMETERS, ROUNDED, BUILT, ACTIVE, TYPED].flatMap((table) => Object.keys(table))
    expect(named.filter((name) => !PUBLISHED.includes(name))).toEqual([])
  })

  test('the numbers of rope, window and context', () => {
    const spec = (name: string) => readConfig(configOf(name)).spec
    const llama3 = { theta: 500000, scaling: 'llama3', factor: 32, originalMaxPosition: 8192 }
    for (const name of ['llama-3.2-1b-instruct', 'llama-3.2-1b-transformers-5']) {
      expect(spec(name)).toMatchObject({ rope: llama3, maxPosition: 131072 })
    }
    expect(spec('vicuna-7b-v1.5-16k').rope).toMatchObject({ theta: 10000, scaling: 'linear', factor: 4 })
    expect(spec('code-llama-7b').rope).toMatchObject({ theta: 1e6, scaling: 'none' })
    expect(spec('yarn-llama-2-7b-64k')).toMatchObject({
      rope: { scaling: 'yarn', factor: 16, originalMaxPosition: 4096 },
      maxPosition: 65536,
    })
    expect(spec('qwen2.5-coder-7b-instruct-128k')).toMatchObject({
      rope: { theta: 1e6, scaling: 'yarn', factor: 4, originalMaxPosition: 32768 },
      maxPosition: 131072,
    })
    expect(spec('mistral-7b-v0.1')).toMatchObject({ rope: { theta: 10000 }, slidingWindow: 4096 })
    for (const name of ['mistral-7b-instruct-v0.3', 'mistral-7b-instruct-v0.3-transformers-5']) {
      expect(spec(name)).toMatchObject({ rope: { theta: 1e6 }, slidingWindow: 0, headDim: 128 })
    }
    expect(spec('mistral-nemo-instruct-2407').headDim).toBe(128)
    for (const name of ['qwen2.5-0.5b-instruct', 'qwen2.5-0.5b-instruct-transformers-5', 'qwen3-0.6b-transformers-5']) {
      expect(spec(name)).toMatchObject({ rope: { theta: 1e6, scaling: 'none' }, slidingWindow: 0 })
    }
    expect(spec('qwen3-4b-instruct-2507')).toMatchObject({ rope: { theta: 5e6 }, maxPosition: 262144 })
  })

  test('both spellings of one model are one model', () => {
    for (const [four, five] of [
      ['llama-3.2-1b-instruct', 'llama-3.2-1b-transformers-5'],
      ['mistral-7b-instruct-v0.3', 'mistral-7b-instruct-v0.3-transformers-5'],
      ['qwen2.5-0.5b-instruct', 'qwen2.5-0.5b-instruct-transformers-5'],
      ['qwen3-0.6b', 'qwen3-0.6b-transformers-5'],
    ]) {
      expect(readConfig(configOf(five!))).toEqual(readConfig(configOf(four!)))
    }
  })
})

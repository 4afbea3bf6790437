import { cpSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { inspect, type LoadProgress, load } from '../../lib/index.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')

async function copyOfDemo(): Promise<string> {
  const folder = await temporaryFolder({})
  cpSync(demo, folder, { recursive: true })
  return folder
}

describe('load', () => {
  test('progress rises to its end', async () => {
    const seen: LoadProgress[] = []
    await using _ = await load(demo, { onProgress: (progress) => seen.push(progress) })
    const weights = seen.filter(({ stage }) => stage === 'weights')
    expect(weights.length).toBeGreaterThan(0)
    expect(weights.map(({ done }) => done)).toEqual(weights.map(({ done }) => done).sort((a, b) => a - b))
    expect(weights.at(-1)!.done).toBe(weights.at(-1)!.total)
  })

  test('can be aborted, and loaded again', async () => {
    const controller = new AbortController()
    const loading = load(demo, {
      signal: controller.signal,
      onProgress: ({ stage }) => stage === 'weights' && controller.abort(),
    })
    await expect(loading).rejects.toMatchObject({ code: 'ABORTED' })
    await using model = await load(demo)
    expect((await model.generate('The', { maxTokens: 2 }).result).tokens).toHaveLength(2)
  })

  test('a checkpoint that changed on disk is loaded anew', async () => {
    const folder = await copyOfDemo()
    await using first = await load(folder)
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, rms_norm_eps: 0.5 }))
    await using second = await load(folder)
    const ask = (model: typeof first) => model.score('Once upon a time')
    expect((await ask(first)).perplexity).not.toBeCloseTo((await ask(second)).perplexity, 3)
  })
})

describe('checkpoints that are not what they say', () => {
  test('a truncated file', async () => {
    const folder = await copyOfDemo()
    truncateSync(join(folder, 'model.safetensors'), 8_000_000)
    await expect(load(folder)).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringContaining('model.safetensors'),
    })
  })

  test.each([
    [{ hidden_size: 512 }, /512/],
    [{ num_key_value_heads: 3 }, /k_proj|v_proj|q_proj/],
    [{ num_hidden_layers: 9 }, /model\.layers\.8\./],
    [{ vocab_size: 4096 }, /embed_tokens/],
    [{ tie_word_embeddings: false }, /lm_head/],
  ])('a config.json of another shape: %j', async (change, message) => {
    const folder = await copyOfDemo()
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...change }))
    for (const open of [load, inspect]) {
      await expect(open(folder)).rejects.toMatchObject({
        code: 'CHECKPOINT_INVALID',
        message: expect.stringMatching(message),
        remedy: expect.stringMatching(/./),
      })
    }
  })
})

test('inspect shows what a model takes without loading it', async () => {
  expect(await inspect(demo)).toMatchObject({
    architecture: 'LlamaForCausalLM',
    parameters: 13_375_872,
    tiedEmbeddings: true,
    quantisation: { method: 'gptq', bits: 4, groupSize: 128, symmetric: true, actOrder: false },
    spec: { layers: 8, hidden: 384, heads: 6, kvHeads: 2, headDim: 64 },
    kvBytesPerToken: 8 * 2 * 2 * 64 * 2,
    embeddingBytes: 2048 * 384 * 2,
    files: [{ name: 'model.safetensors', bytes: 8_254_864 }],
  })
  const { units, slabBytes } = await inspect(demo)
  expect(units.filter(({ kind }) => kind === 'attention')).toHaveLength(8)
  expect(units.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(slabBytes)
})

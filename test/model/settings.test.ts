/** What the files of a checkpoint hold is read or told: models whose files were changed, loaded and scored. */
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { inspect, load } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { type CheckpointOptions, type ModelShape, writeRandomCheckpoint } from '../reference/checkpoint.ts'
import { readFolder, type Tensors, tensor, writeFolder } from '../reference/safetensors.ts'

afterAll(removeFolders)

const SHAPE: ModelShape = {
  vocab: 300,
  hidden: 64,
  layers: 2,
  heads: 2,
  kvHeads: 1,
  headDim: 32,
  intermediate: 96,
  maxPosition: 128,
}
const GPTQ: CheckpointOptions['gptq'] = { version: 1, groupSize: 32, symmetric: true, order: 'sequential' }
const OUTPUTS = {
  'self_attn.q_proj': 64,
  'self_attn.k_proj': 32,
  'self_attn.v_proj': 32,
  'self_attn.o_proj': 64,
  'mlp.gate_proj': 96,
  'mlp.up_proj': 96,
  'mlp.down_proj': 64,
}

interface Change {
  config?: (config: Record<string, unknown>) => object
  generation?: object
  tensors?: (tensors: Tensors) => void
  files?: Record<string, string>
}

async function make(options: Partial<CheckpointOptions>, change: Change = {}): Promise<string> {
  const folder = await temporaryFolder({})
  writeRandomCheckpoint(folder, { seed: 7, shape: SHAPE, ...options })
  const edit = (name: string, by: (value: Record<string, unknown>) => object) => {
    const path = join(folder, name)
    writeFileSync(path, JSON.stringify({ ...by(JSON.parse(readFileSync(path, 'utf8'))) }))
  }
  if (change.config) edit('config.json', (config) => ({ ...config, ...change.config!(config) }))
  if (change.generation) edit('generation_config.json', (config) => ({ ...config, ...change.generation }))
  if (change.tensors) {
    const tensors = readFolder(folder)
    change.tensors(tensors)
    writeFolder(folder, tensors)
  }
  for (const [name, text] of Object.entries(change.files ?? {})) writeFileSync(join(folder, name), text)
  return folder
}

/** Perplexity of a text, and what the logger was told. */
async function score(folder: string): Promise<{ perplexity: number; warnings: string[] }> {
  const warnings: string[] = []
  const logger = {
    debug() {},
    info() {},
    error() {},
    warn: (_: object, message: string) => void warnings.push(message),
  }
  await using model = await load(folder, { device: 'cpu', logger })
  const { perplexity } = await model.score('a text to be scored')
  return { perplexity, warnings }
}

const zeros = (length: number) => tensor('F16', [length], new Float64Array(length))
const each = (length: number, value: number) => tensor('F16', [length], new Float64Array(length).fill(value))

function addBiases(tensors: Tensors, value: number): void {
  for (const layer of [0, 1]) {
    for (const [linear, length] of Object.entries(OUTPUTS)) {
      tensors.set(`model.layers.${layer}.${linear}.bias`, each(length, value))
    }
  }
}

describe('biases', () => {
  test.each([
    ['plain', {}],
    ['GPTQ', { gptq: GPTQ }],
    ['Mistral', { architecture: 'mistral' as const }],
  ])('of zeros that no setting names change nothing, nor is anything said: %s', async (_, options) => {
    const plain = await score(await make(options))
    const zero = await score(await make(options, { tensors: (all) => addBiases(all, -0) }))
    expect(zero).toEqual({ perplexity: plain.perplexity, warnings: [] })
  })
  test('that settings name are read', async () => {
    const named = { config: () => ({ attention_bias: true, mlp_bias: true }) }
    const tensors = (all: Tensors) => addBiases(all, 0.25)
    const plain = await score(await make({}))
    const read = await score(await make({}, { ...named, tensors }))
    expect(read.perplexity).not.toBe(plain.perplexity)
    expect(read.warnings).toEqual([])
  })
  test.each([
    ['self_attn.o_proj', 'attention_bias'],
    ['mlp.down_proj', 'mlp_bias'],
  ])('of other numbers that no setting names are refused by name: %s', async (linear, setting) => {
    const name = `model.layers.1.${linear}.bias`
    const values = new Float64Array(64)
    values[63] = 2 ** -14
    const folder = await make({}, { tensors: (all) => void all.set(name, tensor('F16', [64], values)) })
    await expect(load(folder)).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringContaining(name),
      remedy: expect.stringContaining(setting),
    })
  })
  test('of norms and head: zeros or refused', async () => {
    const names = ['model.norm.bias', 'model.layers.0.input_layernorm.bias']
    const zero = await make({}, { tensors: (all) => names.forEach((name) => void all.set(name, zeros(64))) })
    expect((await inspect(zero)).warnings).toEqual([])
    const head = await make({}, { tensors: (all) => void all.set('lm_head.bias', each(300, 1)) })
    await expect(inspect(head)).rejects.toMatchObject({ message: expect.stringContaining("'lm_head.bias'") })
  })
})

describe('tensors that nobody reads', () => {
  const with_ = (name: string, value = each(32, 1), options: Partial<CheckpointOptions> = {}) =>
    make(options, { tensors: (all) => void all.set(name, value) })

  test('leftovers that change nothing are passed over in silence', async () => {
    for (const name of ['model.layers.0.self_attn.rotary_emb.inv_freq', 'model.layers.1.self_attn.k_proj.k_scale']) {
      expect((await inspect(await with_(name))).warnings).toEqual([])
    }
    expect((await inspect(await make({ awq: { groupSize: 32, zeroPoint: false } }))).warnings).toEqual([])
  })
  test.each(['score.weight', 'v_head.summary.weight', 'model.layers.2.mlp.up_proj.weight', 'extra'])(
    'what transformers leaves out too is told by name, and changes nothing: %s',
    async (name) => {
      const plain = await score(await make({}))
      const { perplexity, warnings } = await score(await with_(name))
      expect(perplexity).toBe(plain.perplexity)
      expect(warnings).toEqual([expect.stringContaining(`"${name}"`)])
    },
  )
  test('many are told in one sentence', async () => {
    const folder = await make({}, { config: () => ({ num_hidden_layers: 1 }) })
    const { warnings } = await inspect(folder)
    expect(warnings).toHaveLength(1)
    expect(warnings[0]).toMatch(/beyond num_hidden_layers \(1\).*"model\.layers\.1\..* and 1 more/)
  })
  test.each([
    'self_attn.q_norm.weight',
    'post_feedforward_layernorm.weight',
    'mlp.experts.0.up_proj.weight',
    'self_attn.sinks',
  ])('a part of a layer that the architecture does not have is refused: %s', async (part) => {
    await expect(inspect(await with_(`model.layers.0.${part}`))).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringContaining(part),
    })
  })
  test("keys and values of layers that read another layer's, as published files of Gemma 4 have them", async () => {
    const golden = familyFolder('gemma4-shared-kv-bf16')
    const tensors = readFolder(golden)
    const at = (layer: number, part: string) => `model.layers.${layer}.self_attn.${part}.weight`
    for (const layer of [3, 4, 5]) {
      for (const part of ['k_proj', 'v_proj', 'k_norm']) {
        expect(tensors.has(at(layer, part))).toBe(false)
        // A layer of the same size and kind.
        tensors.set(at(layer, part), tensors.get(at(layer - 3, part))!)
      }
    }
    const folder = await temporaryFolder({})
    cpSync(golden, folder, { recursive: true, dereference: true })
    writeFolder(folder, tensors)
    const ids = Array.from({ length: 40 }, (_, i) => (i * 37) % 250)
    const found: Float32Array[] = []
    for (const path of [golden, folder]) {
      expect((await inspect(path)).warnings).toEqual([])
      await using model = await load(path, { device: 'cpu' })
      found.push((await model.score(ids)).logprobs)
    }
    expect(found[1]).toEqual(found[0])
    tensors.set(at(2, 'sinks'), tensors.get(at(2, 'k_norm'))!)
    writeFolder(folder, tensors)
    await expect(inspect(folder)).rejects.toMatchObject({ code: 'CHECKPOINT_INVALID' })
  })
  test('of a type that is not known: nothing is refused, unless it is read', async () => {
    const strange = { ...each(32, 1), dtype: 'F8_E8M0' as never }
    const plain = await score(await make({}))
    for (const name of ['extra.weight', 'model.layers.0.self_attn.q_proj.weight_scale_2']) {
      const { perplexity, warnings } = await score(await with_(name, strange))
      expect([perplexity, warnings.length]).toEqual([plain.perplexity, 1])
    }
    await expect(inspect(await with_('model.norm.weight', strange))).rejects.toMatchObject({
      code: 'CHECKPOINT_UNSUPPORTED',
      message: expect.stringMatching(/model.norm.weight.*F8_E8M0/),
    })
  })
})

describe('ties', () => {
  const HEAD = 'lm_head.weight'
  const EMBEDDING = 'model.embed_tokens.weight'
  const tied = { tied: true }

  test('a head beside the table it is tied to: the same is no news, another is read and told', async () => {
    const plain = await score(await make(tied))
    const same = await make(tied, { tensors: (all) => void all.set(HEAD, all.get(EMBEDDING)!) })
    expect(await score(same)).toEqual({ perplexity: plain.perplexity, warnings: [] })
    expect((await inspect(same)).tiedEmbeddings).toBe(true)

    const untied = await make({})
    const reference = await score(untied)
    const head = readFolder(untied).get(HEAD)!
    const other = await make({}, { config: () => ({ tie_word_embeddings: true }) })
    expect(head).toBeDefined()
    const found = await score(other)
    expect(found.perplexity).toBe(reference.perplexity)
    expect(found.warnings).toEqual([expect.stringMatching(/'lm_head.weight' is not 'model.embed_tokens.weight'/)])
    expect((await inspect(other)).tiedEmbeddings).toBe(false)
  })
  test('tied, and the table is there by the name of the head alone', async () => {
    const plain = await score(await make(tied))
    const renamed = await make(tied, {
      tensors: (all) => {
        all.set(HEAD, all.get(EMBEDDING)!)
        all.delete(EMBEDDING)
      },
    })
    expect(await score(renamed)).toEqual({ perplexity: plain.perplexity, warnings: [] })
  })
  test.each([false, undefined, null])('not tied (%s), and no head: refused, with what to do', async (said) => {
    const folder = await make(tied, { config: () => ({ tie_word_embeddings: said }) })
    await expect(inspect(folder)).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringContaining("'lm_head.weight'"),
      remedy: expect.stringContaining('tie_word_embeddings'),
    })
  })
})

describe('tables of tokens', () => {
  test.each([299, 301])('a vocabulary of another size than the table is refused: %i', async (vocab_size) => {
    await expect(inspect(await make({}, { config: () => ({ vocab_size }) }))).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringMatching(/model.embed_tokens.weight.*expected shape \[(299|301), 64\], found \[300, 64\]/),
    })
  })
  test('end tokens that are none are told, and others kept', async () => {
    const folder = await make(
      {},
      { config: () => ({ eos_token_id: [257, -1] }), generation: { eos_token_id: [5, 300] } },
    )
    expect((await inspect(folder)).warnings).toEqual(['eos_token_id: no tokens of the vocabulary of 300: 300, -1'])
  })
})

test('config.json as Python writes it, with NaN and Infinity', async () => {
  const plain = await score(await make({}))
  const folder = await make({})
  const path = join(folder, 'config.json')
  const text = readFileSync(path, 'utf8')
    .trim()
    .replace(
      /\}$/,
      ', "initializer_range": NaN, "attention_dropout": -Infinity, "initializer_factor": {"__float__": "Infinity"}}',
    )
  writeFileSync(path, text)
  expect(await score(folder)).toEqual({ perplexity: plain.perplexity, warnings: [] })
  writeFileSync(path, text.replace(/"rms_norm_eps": [^,}]*/, '"rms_norm_eps": NaN'))
  await expect(inspect(folder)).rejects.toMatchObject({
    code: 'CHECKPOINT_INVALID',
    message: expect.stringMatching(/'rms_norm_eps': .*found NaN/),
  })
})

test('shards without their index are the same model, as long as all are there', async () => {
  const whole = await score(await make({}))
  const folder = await make({ shards: 3 })
  rmSync(join(folder, 'model.safetensors.index.json'))
  expect(await score(folder)).toEqual({ perplexity: whole.perplexity, warnings: [] })
  rmSync(join(folder, 'model-00002-of-00003.safetensors'))
  await expect(inspect(folder)).rejects.toMatchObject({
    code: 'CHECKPOINT_INVALID',
    message: expect.stringContaining('model-00002-of-00003.safetensors'),
  })
})

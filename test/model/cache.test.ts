/** Weights that are kept on disk between loads: through the real addon. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { inspect, type LoadOptions, load, type Model } from '../../lib/index.ts'
import { build, DIST } from '../built.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { MODELS } from '../models.ts'
import { type Tensors, tensor, writeSafetensors } from '../reference/safetensors.ts'

const VOCAB = 70_000
const HIDDEN = 512
const demo = join(MODELS, 'demo')

/** A model of one layer whose embedding alone is large enough to be kept. */
function writeModel(folder: string): void {
  mkdirSync(folder, { recursive: true })
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) copyFileSync(join(demo, file), join(folder, file))
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: VOCAB,
    hidden_size: HIDDEN,
    intermediate_size: 64,
    num_hidden_layers: 1,
    num_attention_heads: 8,
    num_key_value_heads: 8,
    hidden_act: 'silu',
    max_position_embeddings: 128,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: true,
    torch_dtype: 'float16',
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  const tensors: Tensors = new Map()
  // Halves of every sign and of exponents about one hundredth: random enough for different logits, and quickly made.
  let state = 1
  const words = (count: number) => {
    const values = new Uint16Array(count)
    for (let i = 0; i < count; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      values[i] = ((state >>> 16) & 0x83ff) | 0x2000
    }
    return new Uint8Array(values.buffer)
  }
  const add = (name: string, ...shape: number[]) =>
    tensors.set(name, { dtype: 'F16', shape, data: words(shape.reduce((a, b) => a * b)) })
  const norm = (name: string) => tensors.set(name, tensor('F16', [HIDDEN], new Float32Array(HIDDEN).fill(1)))
  add('model.embed_tokens.weight', VOCAB, HIDDEN)
  for (const name of ['q', 'k', 'v', 'o']) add(`model.layers.0.self_attn.${name}_proj.weight`, HIDDEN, HIDDEN)
  for (const name of ['gate', 'up']) add(`model.layers.0.mlp.${name}_proj.weight`, 64, HIDDEN)
  add('model.layers.0.mlp.down_proj.weight', HIDDEN, 64)
  for (const name of ['model.norm', 'model.layers.0.input_layernorm', 'model.layers.0.post_attention_layernorm']) {
    norm(`${name}.weight`)
  }
  writeSafetensors(join(folder, 'model.safetensors'), tensors)
}

let root = ''
let folder = ''
let cache = ''
beforeAll(async () => {
  root = await temporaryFolder({})
  folder = join(root, 'model')
  writeModel(folder)
  await build()
})
let run = 0
beforeEach(() => {
  cache = join(root, `cache${run++}`)
})

const prompt = [5, 6, 7, 8]
const options = (more: LoadOptions = {}): LoadOptions => ({ device: 'cpu', threads: 2, cache, ...more })

async function written(model: Model): Promise<void> {
  await expect.poll(() => model.cache!.state, { timeout: 30_000, interval: 20 }).not.toBe('writing')
}

async function answer(model: Model): Promise<number[]> {
  return [...(await model.generate(prompt, { maxTokens: 8, ignoreEos: true }).result).tokens]
}

/** Loads, waits until the file is written, closes. */
async function fill(more: LoadOptions = {}): Promise<{ path: string; tokens: number[] }> {
  await using model = await load(folder, options(more))
  const tokens = await answer(model)
  await written(model)
  expect(model.cache).toMatchObject({ state: 'written' })
  return { path: model.cache!.path, tokens }
}

/** Log lines of a load of its own, and what the model says. */
async function reload(more: LoadOptions = {}) {
  const lines: [string, string][] = []
  const line = (level: string) => (_: object, message: string) => lines.push([level, message])
  const logger = { debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error') }
  await using model = await load(folder, options({ logger, ...more }))
  const tokens = await answer(model)
  await written(model)
  return { lines, tokens, state: model.cache!.state }
}

test('the second load reads what the first has kept, and answers the same', async () => {
  const { path, tokens } = await fill()
  expect(readdirSync(cache)).toEqual([path.slice(cache.length + 1)])
  const seen: number[] = []
  const again = await reload({
    onProgress: ({ stage, done, total }) => {
      if (stage === 'weights') seen.push(done / total)
    },
  })
  expect(again).toMatchObject({ tokens, state: 'read' })
  expect(seen.at(-1)).toBe(1)
  // Whatever the homes are.
  expect(await reload({ placement: 'streamed' })).toMatchObject({ tokens, state: 'read' })
})

test('a head made 4 bits is kept with what it cost, beside the other', async () => {
  await fill()
  const { path } = await fill({ head: 'q4' })
  expect(readdirSync(cache)).toHaveLength(2)
  await using model = await load(folder, options({ head: 'q4' }))
  expect(model.cache).toMatchObject({ state: 'read', path })
  expect(model.headError!.weights).toBeGreaterThan(0)
})

test('a model in memory is shared, and not read', async () => {
  await fill()
  await using first = await load(folder, options())
  await using second = await load(folder, options())
  expect([first.cache!.state, second.cache!.state]).toEqual(['read', 'shared'])
})

test('a changed checkpoint is repacked', async () => {
  const { path, tokens } = await fill()
  utimesSync(join(folder, 'model.safetensors'), 1000, 1000)
  const { lines, ...rest } = await reload()
  expect(rest).toEqual({ tokens, state: 'written' })
  expect(lines).toContainEqual(['info', expect.stringContaining("checkpoint's files have changed")])
  expect(readdirSync(cache)).toEqual([path.slice(cache.length + 1)])
  expect(await reload()).toMatchObject({ state: 'read' })
})

test('a damaged file is told, and made anew', async () => {
  const { path, tokens } = await fill()
  const whole = readFileSync(path)
  const file = openSync(path, 'r+')
  writeSync(file, Buffer.from([whole[5_000_000]! ^ 16]), 0, 1, 5_000_000)
  closeSync(file)
  const { lines, ...rest } = await reload()
  expect(rest).toEqual({ tokens, state: 'written' })
  expect(lines).toContainEqual(['warn', expect.stringContaining('was damaged: its bytes from')])
  expect(readFileSync(path).equals(whole)).toBe(true)
})

test('a folder that cannot be made fails no load', async () => {
  writeFileSync(cache, '')
  const { lines, state } = await reload({ cache: join(cache, 'below') })
  expect(state).toBe('failed')
  expect(lines).toContainEqual(['warn', expect.stringContaining('was not written')])
})

test('an abort while the file is read', async () => {
  await fill()
  const controller = new AbortController()
  const loading = load(
    folder,
    options({
      signal: controller.signal,
      onProgress: ({ stage }) => {
        if (stage === 'weights') controller.abort()
      },
    }),
  )
  await expect(loading).rejects.toMatchObject({ code: 'ABORTED' })
  expect(await reload()).toMatchObject({ state: 'read' })
})

test('cache: false keeps nothing; a small model is not kept', async () => {
  await using off = await load(folder, options({ cache: false }))
  expect(off.cache).toBeUndefined()
  await using small = await load(demo, options())
  expect(small.cache).toBeUndefined()
})

test('inspect tells place and size', async () => {
  process.env.MILLRACE_CACHE = cache
  try {
    const before = await inspect(folder)
    expect(before.cache).toMatchObject({ bytes: before.slabBytes + before.embeddingBytes, present: false })
    const { path } = await fill()
    expect((await inspect(folder)).cache).toMatchObject({ path, present: true })
  } finally {
    process.env.MILLRACE_CACHE = 'off'
  }
})

test('two processes at once both answer; a process ends when its file is written', async () => {
  const source = `import { load } from ${JSON.stringify(pathToFileURL(join(DIST, 'index.js')).href)}
const model = await load(${JSON.stringify(folder)}, { device: 'cpu', threads: 1, cache: ${JSON.stringify(cache)} })
const { tokens } = await model.generate(${JSON.stringify(prompt)}, { maxTokens: 8, ignoreEos: true }).result
await model.close()
console.log(JSON.stringify([...tokens]))`
  const run = async () => {
    const child = spawn(process.execPath, ['--input-type=module', '--eval', source], { stdio: ['ignore', 'pipe', 2] })
    let stdout = ''
    child.stdout!.setEncoding('utf8').on('data', (text) => {
      stdout += text
    })
    const [code] = await once(child, 'close')
    expect(code).toBe(0)
    return JSON.parse(stdout) as number[]
  }
  const [a, b] = await Promise.all([run(), run()])
  expect(a).toEqual(b)
  expect(readdirSync(cache)).toHaveLength(1)
  expect(await reload()).toMatchObject({ tokens: a, state: 'read' })
})

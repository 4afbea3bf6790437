/** load(), inspect(), plan(), loadTokenizer() and the cache's list, by name. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  inspect,
  listModels,
  load,
  loadTokenizer,
  type MillraceError,
  plan,
  pull,
  removeModel,
} from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'
import { commitOf, filesOf, LocalHub } from './server.ts'

const demo = join(MODELS, 'demo')
const gguf = join(import.meta.dirname, '..', '..', 'goldens', 'gguf')
const ggufFile = readdirSync(gguf).find((name) => name.endsWith('.gguf'))!

let hub: LocalHub
let folder: string
const before = { ...process.env }
beforeAll(async () => {
  hub = await LocalHub.start()
  hub.repos.set('millrace/demo', { files: { ...filesOf(demo), 'pytorch_model.bin': Buffer.alloc(100_000) } })
  const file = readFileSync(join(gguf, ggufFile))
  hub.repos.set('millrace/one-GGUF', { files: { 'model-Q4_0.gguf': file, 'mmproj-F16.gguf': file.subarray(1) } })
  hub.repos.set('millrace/demo-GGUF', {
    files: {
      'demo-Q4_0.gguf': file,
      'demo-Q8_0.gguf': Buffer.concat([file, Buffer.alloc(64)]),
      'sub/demo-F16.gguf': Buffer.concat([file, Buffer.alloc(32)]),
    },
  })
})
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-hub-'))
  delete process.env.HF_HUB_OFFLINE
  Object.assign(process.env, { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: folder, HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' })
  return () => rmSync(folder, { recursive: true, force: true })
})
afterAll(() => {
  hub.close()
  for (const name of ['HF_HUB_OFFLINE', 'HF_ENDPOINT', 'HF_HUB_CACHE', 'HF_HUB_DISABLE_IMPLICIT_TOKEN']) {
    if (before[name] === undefined) delete process.env[name]
    else process.env[name] = before[name]
  }
})

const refused = async (promise: Promise<unknown>) =>
  promise.then(
    () => expect.fail('expected an error'),
    (error) => error as MillraceError,
  )

test('a model by name answers as its folder does', async () => {
  const options = { maxTokens: 12 }
  await using local = await load(demo, { device: 'cpu' })
  const stages = new Set<string>()
  await using named = await load('millrace/demo', { device: 'cpu', onProgress: ({ stage }) => stages.add(stage) })
  const [one, two] = await Promise.all(
    [local, named].map((model) => model.generate('Once upon a time', options).result),
  )
  expect([...two!.tokens]).toEqual([...one!.tokens])
  expect(stages).toContain('download')
  expect(named.path).toBe(join(folder, 'models--millrace--demo', 'snapshots', commitOf('millrace/demo')))
  expect(hub.bytesOf('pytorch_model.bin')).toBe(0)
  await using again = await load('millrace/demo', { device: 'cpu', offline: true })
  expect(again.path).toBe(named.path)
})

test('inspect() and plan() fetch no weights', async () => {
  const file = readdirSync(demo).find((name) => name.endsWith('.safetensors'))!
  const before = hub.bytesOf(file)
  const seen = await inspect('millrace/demo')
  const { cache: _, path, ...expected } = await inspect(demo)
  expect(seen).toMatchObject(expected)
  expect(seen.path).toBe('millrace/demo')
  const made = await plan('millrace/demo', { device: 'cpu' })
  expect(made.hostBytes).toBe((await plan(demo, { device: 'cpu' })).hostBytes)
  expect(hub.bytesOf(file) - before).toBeLessThan(500_000)
  expect(readdirSync(tmpdir()).filter((name) => name.startsWith('millrace-headers-'))).toEqual([])
})

const goldens = join(import.meta.dirname, '..', '..', 'goldens', 'models')
test.each(readdirSync(goldens).filter((name) => existsSync(join(goldens, name, 'config.json'))))(
  'a plan without the weights is that of the weights: %s',
  async (name) => {
    hub.repos.set('millrace/golden', { files: filesOf(join(goldens, name)) })
    const seen = await inspect('millrace/golden')
    const { cache: _, path, units, slabBytes, ...expected } = await inspect(join(goldens, name))
    expect(seen).toMatchObject(expected)
    // Matrices of one order are one.
    const types = (all: typeof units) => all.map((unit) => [...new Set(unit.types)])
    expect(types(seen.units)).toEqual(types(units))
    // Tables of an act-order are not known: of models so small they are a part that shows.
    expect(Math.abs(seen.slabBytes / slabBytes - 1)).toBeLessThan(0.12)
  },
)

test('inspect() and plan() of a model with settings in a folder of their own', async () => {
  const pooling = Buffer.from('{"pooling_mode_lasttoken":true}')
  hub.repos.set('millrace/embedding', { files: { ...filesOf(demo), '1_Pooling/config.json': pooling } })
  const made = await plan('millrace/embedding', { device: 'cpu' })
  expect(made.hostBytes).toBe((await plan(demo, { device: 'cpu' })).hostBytes)
  expect((await inspect('millrace/embedding')).architecture).toBe('LlamaForCausalLM')
})

test('loadTokenizer() fetches no weights', async () => {
  const names = hub.served.length
  await using tokenizer = await loadTokenizer('millrace/demo')
  expect(tokenizer.decode(await tokenizer.encode('Once upon', { specialTokens: false }))).toBe('Once upon')
  expect(hub.served.slice(names).some(({ path }) => path.endsWith('.safetensors'))).toBe(false)
})

test('the model that examples name is told where it is, and asked of no hub', async () => {
  const asked = hub.asked.length
  const here = process.cwd()
  process.chdir(folder)
  try {
    const error: MillraceError = await load('models/demo').catch((caught) => caught)
    expect(error.code).toBe('CHECKPOINT_NOT_FOUND')
    const [, path] = / is at (.+)$/.exec(error.remedy)!
    expect((await inspect(path!)).architecture).toBe('LlamaForCausalLM')
  } finally {
    process.chdir(here)
  }
  expect(hub.asked.length).toBe(asked)
})

describe('of GGUF', () => {
  test('the only model needs no file', async () => {
    const { path } = await pull('millrace/one-GGUF')
    expect(path.endsWith('/model-Q4_0.gguf')).toBe(true)
    await using model = await load('millrace/one-GGUF', { device: 'cpu' })
    expect(model.path).toBe(path)
    expect(hub.bytesOf('mmproj-F16.gguf')).toBe(0)
  })

  test('several are listed with their sizes, and one is suggested', async () => {
    const error = await refused(load('millrace/demo-GGUF'))
    expect(error.code).toBe('INVALID_ARGUMENT')
    for (const name of ['demo-Q4_0.gguf', 'demo-Q8_0.gguf', 'sub/demo-F16.gguf']) expect(error.message).toContain(name)
    expect(error.remedy).toMatch(/^'millrace\/demo-GGUF:demo-Q4_0.gguf' fits this machine, at about [\d.e+]+ tok\/s$/)
  })

  test.each([
    ['demo-Q8_0.gguf', 'demo-Q8_0.gguf'],
    ['Q8_0', 'demo-Q8_0.gguf'],
    ['q4_0', 'demo-Q4_0.gguf'],
    ['sub/demo-F16.gguf', 'sub/demo-F16.gguf'],
    ['demo-F16.gguf', 'sub/demo-F16.gguf'],
  ])("':%s' means %s", async (word, file) => {
    expect((await pull(`millrace/demo-GGUF:${word}`)).path.endsWith(`/${file}`)).toBe(true)
  })

  test('a file that is not there is told with those that are', async () => {
    const error = await refused(pull('millrace/demo-GGUF:Q2_K'))
    expect(error).toMatchObject({ code: 'CHECKPOINT_NOT_FOUND', message: expect.stringContaining('demo-Q8_0.gguf') })
  })

  test('offline, the one that the cache has is meant', async () => {
    await pull('millrace/demo-GGUF:Q8_0')
    expect((await pull('millrace/demo-GGUF', { offline: true })).path).toMatch(/demo-Q8_0\.gguf$/)
    await pull('millrace/demo-GGUF:Q4_0')
    expect((await refused(pull('millrace/demo-GGUF', { offline: true }))).code).toBe('INVALID_ARGUMENT')
  })
})

describe('the cache', () => {
  test('lists models, and removes one or a file of one', async () => {
    expect(await listModels()).toEqual([])
    await pull('millrace/demo')
    await pull('millrace/demo-GGUF:Q8_0')
    await pull('millrace/demo-GGUF:F16')
    const models = await listModels()
    expect(models.map(({ name }) => name)).toEqual(['millrace/demo', 'millrace/demo-GGUF'])
    expect(models[0]!.revisions[0]).toMatchObject({ commit: commitOf('millrace/demo'), refs: ['main'] })
    const size = hub.repos.get('millrace/demo-GGUF')!.files['sub/demo-F16.gguf']!.length
    expect(await removeModel('millrace/demo-GGUF:F16')).toMatchObject({ bytes: size })
    expect((await listModels())[1]!.revisions[0]!.files.map(({ name }) => name)).toEqual(['demo-Q8_0.gguf'])
    await removeModel('millrace/demo')
    expect((await listModels()).map(({ name }) => name)).toEqual(['millrace/demo-GGUF'])
    expect((await refused(removeModel('millrace/demo'))).code).toBe('CHECKPOINT_NOT_FOUND')
    expect((await refused(pull('millrace/demo', { offline: true }))).code).toBe('CHECKPOINT_NOT_FOUND')
  })
})

test('what is neither path nor name is told as a path', async () => {
  expect((await refused(load('./no/such'))).code).toBe('CHECKPOINT_NOT_FOUND')
  expect((await refused(load('no/such'))).message).toMatch(/^'no\/such': found no such folder here, and no repository/)
  expect((await refused(load(demo, { revision: 'main' }))).code).toBe('INVALID_ARGUMENT')
  expect((await refused(pull('demo'))).code).toBe('INVALID_ARGUMENT')
})

import { mkdir, symlink, utimes } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { NativeTensor } from '../../../lib/binding.ts'
import { checkIndex, openFolder } from '../../../lib/checkpoint/folder.ts'
import { safetensors, temporaryFolder } from '../folder.ts'

const config = { model_type: 'llama' }
const weights = safetensors(['a'])
const index = (map: object) => ({ 'config.json': config, 'model.safetensors.index.json': { weight_map: map } })

async function refused(files: Record<string, unknown>, code: string, message: RegExp) {
  await expect(openFolder(await temporaryFolder(files))).rejects.toThrowError(
    expect.objectContaining({ code, message: expect.stringMatching(message) }),
  )
}

describe('a folder', () => {
  test('with one file, by its usual name or the only one there is', async () => {
    for (const name of ['model.safetensors', 'gptq_model-4bit-128g.safetensors']) {
      const folder = await openFolder(await temporaryFolder({ 'config.json': config, [name]: weights }))
      expect(folder.weightFiles.map((file) => basename(file))).toEqual([name])
      expect(folder).toMatchObject({ shardOf: undefined, config, generationConfig: {} })
    }
  })

  test('with shards: each once, in order, and which tensor is in which', async () => {
    const folder = await openFolder(
      await temporaryFolder({
        ...index({ a: 'two.safetensors', b: 'one.safetensors', c: 'two.safetensors' }),
        'one.safetensors': weights,
        'two.safetensors': weights,
      }),
    )
    expect(folder.weightFiles.map((file) => basename(file))).toEqual(['one.safetensors', 'two.safetensors'])
    expect([...folder.shardOf!]).toEqual([
      ['a', 1],
      ['b', 0],
      ['c', 1],
    ])
  })

  test('whose files are links out of it, as in the cache of Hugging Face', async () => {
    const blobs = await temporaryFolder({ blob: weights })
    const path = await temporaryFolder(index({ a: 'one.safetensors' }))
    await symlink(join(blobs, 'blob'), join(path, 'one.safetensors'))
    expect((await openFolder(path)).weightFiles).toEqual([join(path, 'one.safetensors')])
  })
})

describe('refusals', () => {
  test.each(['model.safetensors', 'only.safetensors', 'shard'])(
    'a link to nothing, as a download that was cut off leaves it: %s',
    async (kind) => {
      const [files, name] =
        kind === 'shard' ? [index({ a: 'one.safetensors' }), 'one.safetensors'] : [{ 'config.json': config }, kind]
      const path = await temporaryFolder(files)
      await symlink('../blobs/0123', join(path, name))
      await expect(openFolder(path)).rejects.toMatchObject({
        code: 'CHECKPOINT_NOT_FOUND',
        message: `${join(path, name)}: expected a file, found a link to ${resolve(path, '../blobs/0123')}, where there is none`,
        remedy: expect.stringContaining('fetch the model again'),
      })
    },
  )

  test('a folder in the place of the weights', async () => {
    const path = await temporaryFolder({ 'config.json': config })
    await mkdir(join(path, 'model.safetensors'))
    await expect(openFolder(path)).rejects.toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
  })

  test('what is not there, or no folder', async () => {
    await expect(openFolder('/nowhere/at/all')).rejects.toMatchObject({
      code: 'CHECKPOINT_NOT_FOUND',
      message: '/nowhere/at/all: expected a folder, found nothing',
    })
    const path = await temporaryFolder({ file: '' })
    await expect(openFolder(join(path, 'file'))).rejects.toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
    await expect(openFolder(7 as never)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('received 7 of type number'),
    })
    await expect(openFolder('')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
  test('no config.json, or a broken one', async () => {
    await refused({}, 'CHECKPOINT_NOT_FOUND', /expected config.json, found an empty folder/)
    await refused({ 'model.safetensors': weights }, 'CHECKPOINT_NOT_FOUND', /expected config.json, found none/)
    await refused({ 'config.json': '{"a":' }, 'CHECKPOINT_INVALID', /config.json: expected JSON/)
    await refused({ 'config.json': '[]' }, 'CHECKPOINT_INVALID', /config.json: expected a JSON object, found an array/)
  })
  test('no weights, weights of another kind, or weights without an index', async () => {
    await refused({ 'config.json': config }, 'CHECKPOINT_NOT_FOUND', /found neither/)
    await refused({ 'config.json': config, 'pytorch_model.bin': '' }, 'CHECKPOINT_UNSUPPORTED', /pytorch_model.bin/)
    await refused(
      { 'config.json': config, 'a.safetensors': weights, 'b.safetensors': weights },
      'CHECKPOINT_INVALID',
      /index.json beside 2/,
    )
  })
  test.each(['../x.safetensors', '/etc/passwd', 'a/../../x', '..', '.', 'a\0b'])(
    'a shard that leaves the folder: %j',
    async (path) => {
      await refused(index({ a: path }), 'CHECKPOINT_INVALID', /expected shards inside the folder, found the path/)
    },
  )
  test('a missing shard, a folder as a shard, an empty or wrong index', async () => {
    await refused(index({ a: 'gone.safetensors' }), 'CHECKPOINT_INVALID', /expected the shard gone.safetensors/)
    const path = await temporaryFolder(index({ a: 'folder' }))
    await mkdir(join(path, 'folder'))
    await expect(openFolder(path)).rejects.toMatchObject({ code: 'CHECKPOINT_INVALID' })
    await refused(index({}), 'CHECKPOINT_INVALID', /expected tensors in weight_map, found none/)
    await refused(index({ a: 5 }), 'CHECKPOINT_INVALID', /weight_map.a': expected a text, found 5/)
    await refused(
      { 'config.json': config, 'model.safetensors.index.json': {} },
      'CHECKPOINT_INVALID',
      /'weight_map': expected an object/,
    )
  })
})

describe('names that tools give their files', () => {
  const open = async (files: Record<string, unknown>, config_: object = config) => {
    const folder = await openFolder(await temporaryFolder({ 'config.json': config_, ...files }))
    return { names: folder.weightFiles.map((file) => basename(file)), warnings: folder.warnings, index: folder.index }
  }
  const map = (...names: string[]) => ({ weight_map: Object.fromEntries(names.map((name, at) => [`t${at}`, name])) })
  const files = (...names: string[]) => Object.fromEntries(names.map((name) => [name, weights]))
  const quiet = (...names: string[]) => expect.objectContaining({ names, warnings: [] })

  test.each([
    'gptq_model-4bit-128g.safetensors.index.json',
    'model.safetensors.index.fp16.json',
    'model.fp16.safetensors.index.json',
    'pytorch_model.safetensors.index.json',
  ])('an index of another name: %s', async (index) => {
    const shards = ['a-1.safetensors', 'b-2.safetensors']
    expect(await open({ [index]: map(...shards), ...files(...shards) })).toMatchObject({
      names: shards,
      index,
      warnings: [],
    })
  })
  test.each([
    [['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']],
    [['model-00000-of-00002.safetensors', 'model-00001-of-00002.safetensors']],
    [['gptq_model-4bit-128g-00001-of-00002.safetensors', 'gptq_model-4bit-128g-00002-of-00002.safetensors']],
    [['model.fp16-00001-of-00002.safetensors', 'model.fp16-00002-of-00002.safetensors']],
    [['model-00001-of-00001.safetensors']],
    [['model.fp16.safetensors']],
  ])('without an index, all of %j', async (names) => expect(await open(files(...names))).toEqual(quiet(...names)))
  test('shards without an index of which some are missing, by name', async () => {
    await refused(
      { 'config.json': config, ...files('model-00001-of-00003.safetensors', 'model-00003-of-00003.safetensors') },
      'CHECKPOINT_INVALID',
      /found no "model-00002-of-00003.safetensors"/,
    )
  })
  test('the same weights once more, as their authors have them, are passed over', async () => {
    const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    const beside = files(...shards, 'consolidated.safetensors')
    expect(await open({ 'model.safetensors.index.json': map(...shards), ...beside })).toEqual(quiet(...shards))
    expect(await open(beside)).toEqual(quiet(...shards))
    expect(await open(files('consolidated.safetensors'))).toEqual(quiet('consolidated.safetensors'))
  })
  test('adapters and other files beside the weights are told, and never read for them', async () => {
    const found = await open(files('model.safetensors', 'adapter_model.safetensors'))
    expect(found).toMatchObject({ names: ['model.safetensors'], warnings: [expect.stringMatching(/adapter_model/)] })
    const other = await open(files('gptq.safetensors', 'adapter_model.safetensors', 'pytorch_lora_weights.safetensors'))
    expect(other).toMatchObject({ names: ['gptq.safetensors'], warnings: [expect.stringMatching(/adapter.*lora/)] })
    const tokenizer = await open(files('model.safetensors', 'tokenizer.safetensors', 'model.fp16.safetensors'))
    expect(tokenizer.warnings).toEqual([expect.stringMatching(/not read.*: "tokenizer.safetensors"$/)])
    await refused(
      { 'config.json': config, ...files('adapter_model.safetensors') },
      'CHECKPOINT_UNSUPPORTED',
      /only an adapter \(adapter_model.safetensors\)/,
    )
  })
  test('model.safetensors holds beside an index that names others', async () => {
    const index = { 'model.safetensors.index.json': map('model-00001-of-00001.safetensors') }
    expect(await open({ ...index, ...files('model.safetensors') })).toEqual(quiet('model.safetensors'))
    const both = await open({ ...index, ...files('model.safetensors', 'model-00001-of-00001.safetensors') })
    expect(both).toMatchObject({
      names: ['model.safetensors'],
      warnings: [expect.stringMatching(/is read.*00001-of-00001/)],
    })
  })
  test('an index left over from another model, beside the one file there is', async () => {
    const index = {
      'model.safetensors.index.json': map('model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'),
    }
    const found = await open({ ...index, ...files('gptq_model-4bit-128g.safetensors') })
    expect(found.names).toEqual(['gptq_model-4bit-128g.safetensors'])
    expect(found.warnings).toEqual([expect.stringMatching(/names shards that are not there; read instead/)])
    await refused(
      { 'config.json': config, ...index, ...files('model-00001-of-00002.safetensors') },
      'CHECKPOINT_INVALID',
      /model-00002/,
    )
  })
  test('what config.json names', async () => {
    const both = files('a.safetensors', 'b.safetensors')
    const named = (name: unknown) => ({ ...config, transformers_weights: name })
    expect((await open(both, named('b.safetensors'))).names).toEqual(['b.safetensors'])
    const index = { 'c.safetensors.index.json': map('a.safetensors') }
    expect((await open({ ...both, ...index }, named('c.safetensors.index.json'))).names).toEqual(['a.safetensors'])
    for (const [name, code] of [
      ['../x.safetensors', 'CHECKPOINT_INVALID'],
      ['gone.safetensors', 'CHECKPOINT_INVALID'],
      ['gone.safetensors.index.json', 'CHECKPOINT_INVALID'],
      ['a.bin', 'CHECKPOINT_UNSUPPORTED'],
    ]) {
      await expect(open(both, named(name))).rejects.toMatchObject({ code, message: expect.stringContaining(name!) })
    }
  })
  test('an index as Python writes it, and without metadata', async () => {
    const text = '{"metadata": {"total_size": NaN}, "weight_map": {"a": "one.safetensors"}}'
    expect((await open({ 'model.safetensors.index.json': text, ...files('one.safetensors') })).names).toEqual([
      'one.safetensors',
    ])
  })
})

test('checkIndex names a tensor that is not where the index says', async () => {
  const folder = await openFolder(
    await temporaryFolder({
      ...index({ a: 'one.safetensors', b: 'two.safetensors' }),
      'one.safetensors': weights,
      'two.safetensors': weights,
    }),
  )
  const tensor = (name: string, file: number): NativeTensor => ({
    name,
    file,
    dtype: 'F32',
    known: true,
    shape: [1],
    offset: 0,
    bytes: 4,
  })
  expect(() => checkIndex(folder, [tensor('a', 0), tensor('b', 1), tensor('extra', 0)])).not.toThrow()
  const leftover = 'model.layers.0.self_attn.rotary_emb.inv_freq'
  const shardOf = new Map([...folder.shardOf!, [leftover, 0]])
  expect(() => checkIndex({ ...folder, shardOf }, [tensor('a', 0), tensor('b', 1)])).not.toThrow()
  expect(() => checkIndex(folder, [tensor('a', 0)])).toThrow(/expected tensor 'b' in two.safetensors, found none/)
  expect(() => checkIndex(folder, [tensor('a', 0), tensor('b', 0)])).toThrow(
    /expected tensor 'b' in two.safetensors, found it in one.safetensors/,
  )
})

test('the identity changes with the files, and only with them', async () => {
  const path = await temporaryFolder({ 'config.json': config, 'model.safetensors': weights })
  const { identity } = await openFolder(path)
  expect((await openFolder(path)).identity).toBe(identity)
  await utimes(join(path, 'model.safetensors'), 1, 1)
  expect((await openFolder(path)).identity).not.toBe(identity)
})

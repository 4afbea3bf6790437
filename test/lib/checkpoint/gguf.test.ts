/** Which files make up a GGUF model, and what its metadata says. Models themselves: test/model/gguf.test.ts. */
import { symlink, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { addon } from '../../../lib/binding.ts'
import { openCheckpoint } from '../../../lib/checkpoint/checkpoint.ts'
import { findGguf } from '../../../lib/checkpoint/gguf/files.ts'
import { readGgufHeader } from '../../../lib/checkpoint/gguf/metadata.ts'
import { f32, type GgufMetadata, type GgufTensor, ggufBytes, text, texts, u32 } from '../../reference/gguf.ts'
import { safetensors, temporaryFolder } from '../folder.ts'

const empty = ggufBytes({ 'general.architecture': text('llama') }, [])

describe('files', () => {
  test('one file, under any name', async () => {
    const folder = await temporaryFolder({ 'model.Q4_K_M.gguf': empty, 'sha256-0123': empty, 'OTHER.GGUF': empty })
    for (const name of ['model.Q4_K_M.gguf', 'sha256-0123', 'OTHER.GGUF']) {
      const path = join(folder, name)
      expect(await findGguf(path)).toEqual({ path, parts: [path], warnings: [] })
    }
  })

  test('a folder that holds one, beside what is none', async () => {
    const folder = await temporaryFolder({
      'a.gguf': empty,
      'mmproj-a.gguf': empty,
      'a.imatrix.gguf': empty,
      'config.json': {},
      'README.md': '',
    })
    const found = await findGguf(folder)
    expect(found?.parts).toEqual([join(folder, 'a.gguf')])
    expect(found?.warnings).toEqual([expect.stringMatching(/not read.*mmproj-a\.gguf/)])
  })

  test('all parts, by any of them and by the folder', async () => {
    const names = [1, 2, 3].map((part) => `big-0000${part}-of-00003.gguf`)
    const folder = await temporaryFolder(Object.fromEntries(names.map((name) => [name, empty])))
    const parts = names.map((name) => join(folder, name))
    for (const path of [folder, ...parts]) expect(await findGguf(path)).toMatchObject({ path: parts[0], parts })
  })

  test('a missing part is told by name', async () => {
    const folder = await temporaryFolder({ 'big-00001-of-00003.gguf': empty, 'big-00003-of-00003.gguf': empty })
    for (const path of [folder, join(folder, 'big-00003-of-00003.gguf')]) {
      await expect(findGguf(path)).rejects.toMatchObject({
        code: 'CHECKPOINT_INVALID',
        message: expect.stringContaining('"big-00002-of-00003.gguf"'),
      })
    }
  })

  test('several models in a folder are told apart by the caller', async () => {
    const folder = await temporaryFolder({ 'a.gguf': empty, 'b-00001-of-00001.gguf': empty })
    await expect(findGguf(folder)).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringMatching(/one GGUF model.*a\.gguf.*b-00001-of-00001\.gguf/),
      remedy: expect.stringContaining('a.gguf'),
    })
  })

  test('an adapter or a projector alone is no model', async () => {
    const folder = await temporaryFolder({ 'mmproj-a.gguf': empty })
    await expect(findGguf(folder)).rejects.toMatchObject({ code: 'CHECKPOINT_UNSUPPORTED' })
  })

  test('safetensors of a folder come first, other files are none', async () => {
    const folder = await temporaryFolder({
      'a.gguf': empty,
      'model.safetensors': safetensors(['x']),
      'notes.txt': 'hello',
    })
    expect(await findGguf(folder)).toBeUndefined()
    expect(await findGguf(join(folder, 'notes.txt'))).toBeUndefined()
    expect(await findGguf(join(folder, 'nothing'))).toBeUndefined()
    expect(await findGguf('')).toBeUndefined()
  })

  test('a link to nothing, as downloads that were cut off leave', async () => {
    const folder = await temporaryFolder({})
    await symlink(join(folder, 'blob'), join(folder, 'a.gguf'))
    for (const path of [folder, join(folder, 'a.gguf')]) {
      await expect(openCheckpoint(path, addon())).rejects.toMatchObject({
        code: 'CHECKPOINT_NOT_FOUND',
        message: expect.stringContaining('blob'),
      })
    }
  })
})

describe('headers', () => {
  const read = async (metadata: GgufMetadata) => {
    const folder = await temporaryFolder({ 'm.gguf': ggufBytes(metadata, []) })
    return readGgufHeader(addon(), join(folder, 'm.gguf'), 'm.gguf').metadata
  }

  test('every type comes as what it is', async () => {
    const numbers = {
      u8: 200,
      i8: -100,
      u16: 60_000,
      i16: -30_000,
      u32: 4e9,
      i32: -2e9,
      f32: 0.5,
      f64: 1e-300,
    } as const
    const metadata = await read({
      ...Object.fromEntries(
        Object.entries(numbers).map(([type, value]) => [type, { type: type as keyof typeof numbers, value }]),
      ),
      u64: { type: 'u64', value: 2n ** 53n },
      huge: { type: 'u64', value: 2n ** 64n - 1n },
      i64: { type: 'i64', value: -5 },
      deep: { type: 'i64', value: -(2n ** 63n) },
      yes: { type: 'bool', value: true },
      word: text('\u00e9\u{1f600}'),
      words: texts(['one', '', '\u00e9\u{1f600}']),
      bytes: { type: 'array', of: 'u8', value: [1, 255] },
      singles: { type: 'array', of: 'f32', value: [0.5, -2] },
      longs: { type: 'array', of: 'i64', value: [-1, 2] },
      flags: { type: 'array', of: 'bool', value: [true, false] },
      __proto__x: u32(1),
    })
    for (const [type, value] of Object.entries(numbers)) expect(metadata.get(type)).toBe(value)
    expect(metadata.get('u64')).toBe(2 ** 53)
    expect(metadata.get('huge')).toBe(2n ** 64n - 1n)
    expect(metadata.get('i64')).toBe(-5)
    expect(metadata.get('deep')).toBe(-(2n ** 63n))
    expect(metadata.get('yes')).toBe(true)
    expect(metadata.text('word')).toBe('\u00e9\u{1f600}')
    const words = metadata.texts('words')!
    expect([words.length, words.at(0), words.at(1), words.at(2)]).toEqual([3, 'one', '', '\u00e9\u{1f600}'])
    expect(words.toArray()).toEqual(['one', '', '\u00e9\u{1f600}'])
    expect(metadata.get('bytes')).toEqual(Uint8Array.of(1, 255))
    expect(metadata.get('singles')).toEqual(Float32Array.of(0.5, -2))
    expect(metadata.integers('longs')).toEqual([-1, 2])
    expect(metadata.get('flags')).toEqual(Uint8Array.of(1, 0))
    expect(metadata.keys).toHaveLength(20)
  })

  test('a value of another type is told with file and key', async () => {
    const metadata = await read({ a: text('x'), b: f32(1.5), c: texts(['x']) })
    for (const [ask, key] of [
      [() => metadata.integer('a'), 'a'],
      [() => metadata.integer('b'), 'b'],
      [() => metadata.number('c'), 'c'],
      [() => metadata.text('b'), 'b'],
      [() => metadata.texts('a'), 'a'],
      [() => metadata.boolean('b'), 'b'],
    ] as const) {
      expect(ask).toThrowError(
        expect.objectContaining({
          code: 'CHECKPOINT_INVALID',
          message: expect.stringMatching(`m\\.gguf: metadata key '${key}'`),
        }),
      )
    }
    expect(() => metadata.require('d', metadata.text('d'))).toThrowError(/m\.gguf.*'d'.*none/)
  })

  test('a file that is cut short', async () => {
    const folder = await temporaryFolder({ 'm.gguf': ggufBytes({ words: texts(['one', 'two']) }, []) })
    await truncate(join(folder, 'm.gguf'), 60)
    await expect(openCheckpoint(folder, addon())).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringMatching(/m\.gguf.*cut short/),
    })
  })
})

describe('split files', () => {
  const tensor: GgufTensor = { name: 't', type: 'F32', shape: [1], data: new Uint8Array(4) }
  const part = (no: number, count: number, tensors: number, own: GgufTensor[] = [tensor]) =>
    ggufBytes(
      {
        'general.architecture': text('llama'),
        'split.no': { type: 'u16', value: no },
        'split.count': { type: 'u16', value: count },
        'split.tensors.count': { type: 'i32', value: tensors },
      },
      own,
    )
  const other = { ...tensor, name: 'u' }

  test.each([
    ['the wrong number of parts', [part(0, 3, 2), part(1, 3, 2, [other])], /split\.count.*2.*3/],
    ['parts that changed places', [part(1, 2, 2), part(0, 2, 2, [other])], /split\.no.*0.*1/],
    ['a tensor too few', [part(0, 2, 3), part(1, 2, 3, [other])], /split\.tensors\.count.*2.*3/],
    ['the same tensor twice', [part(0, 2, 2), part(1, 2, 2)], /tensor t occurs/],
  ])('%s', async (_, [one, two], message) => {
    const folder = await temporaryFolder({ 'a-00001-of-00002.gguf': one, 'a-00002-of-00002.gguf': two })
    await expect(openCheckpoint(folder, addon())).rejects.toMatchObject({
      code: 'CHECKPOINT_INVALID',
      message: expect.stringMatching(message),
    })
  })

  test('a first part whose name is none of a part', async () => {
    const folder = await temporaryFolder({ 'renamed.gguf': part(0, 2, 2) })
    await expect(openCheckpoint(folder, addon())).rejects.toThrowError(/renamed\.gguf.*split\.count/)
  })

  test('a vocabulary alone is no model', async () => {
    const folder = await temporaryFolder({ 'v.gguf': empty })
    await expect(openCheckpoint(folder, addon())).rejects.toThrowError(/v\.gguf.*vocabulary/)
  })
})

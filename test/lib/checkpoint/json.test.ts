import { describe, expect, test } from 'vitest'
import { parseJson, readJson, show } from '../../../lib/checkpoint/json.ts'
import { temporaryFolder } from '../folder.ts'

describe('JSON as Python writes it', () => {
  test.each([
    ['{"a": NaN, "b": Infinity, "c": -Infinity}', { a: NaN, b: Infinity, c: -Infinity }],
    ['[NaN,[-Infinity],{"x":{"y":Infinity}}]', [NaN, [-Infinity], { x: { y: Infinity } }]],
    ['NaN', NaN],
    // In a text they are a text, whatever else is in it.
    [
      String.raw`{"NaN": "NaN", "Infinity": "a \"Infinity\" \\", "b": NaN, "c": "-Infinity,NaN"}`,
      { NaN: 'NaN', Infinity: 'a "Infinity" \\', b: NaN, c: '-Infinity,NaN' },
    ],
    // As transformers 5 writes them.
    ['{"a": {"__float__": "NaN"}, "b": [{"__float__": "-Infinity"}], "c": NaN}', { a: NaN, b: [-Infinity], c: NaN }],
    [
      '{"a": {"__float__": "x"}, "b": {"__float__": "NaN", "c": 1}}',
      { a: { __float__: 'x' }, b: { __float__: 'NaN', c: 1 } },
    ],
    // Of two of a name the last holds, as in Python.
    ['{"a": 1, "a": 2}', { a: 2 }],
  ])('%s', (text, value) => expect(parseJson(text)).toEqual(value))

  test.each([
    '{"a": NAN}',
    '{"a": nan}',
    '{"a": --Infinity}',
    '{"a": +Infinity}',
    '{"a": NaNa}',
    '{NaN: 1}',
    '{"a": "NaN}',
    '["a" NaN]',
  ])('what Python does not read either is refused: %s', (text) => expect(() => parseJson(text)).toThrow(SyntaxError))

  test('a file, with and without a byte order mark', async () => {
    const folder = await temporaryFolder({
      'one.json': '{"a": NaN}',
      'two.json': '\uFEFF{"a": Infinity}',
      'three.json': '{"a": NaN,}',
    })
    expect(await readJson(`${folder}/one.json`)).toEqual({ a: NaN })
    expect(await readJson(`${folder}/two.json`)).toEqual({ a: Infinity })
    await expect(readJson(`${folder}/three.json`)).rejects.toMatchObject({ code: 'CHECKPOINT_INVALID' })
  })

  test('a sentence names them', () => expect([NaN, -Infinity, 1e21].map(show)).toEqual(['NaN', '-Infinity', '1e+21']))
})

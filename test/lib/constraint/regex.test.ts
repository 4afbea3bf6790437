/** Regular expressions, choices and grammars: against the engine's own, and texts that they are known to have. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { accepts, compiled } from './compiled.ts'
import { ARITHMETIC, CHESS, JSON_GRAMMAR } from './grammars.ts'

const regex = (source: string, flags = '') => compiled({ type: 'regex', source, flags })

const atom = fc.constantFrom(
  'a',
  'b',
  'é',
  '😀',
  '.',
  '[ab]',
  '[^a]',
  '\\d',
  '\\w',
  '\\s',
  '\\b',
  '-',
  '(?=a)',
  '(?!b)',
  '(?<=a)',
  '(?<!b)',
  '^',
  '$',
  '\\n',
)
const quantifier = fc.constantFrom('', '', '', '*', '+', '?', '{2}', '{1,3}', '{2,}', '*?')
const tree = fc.letrec<{ node: string }>((tie) => ({
  node: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    atom,
    fc
      .tuple(fc.array(tie('node'), { minLength: 1, maxLength: 3 }), quantifier)
      .map(([items, bounds]) => `(?:${items.join('')})${bounds}`),
    fc.tuple(tie('node'), tie('node')).map(([a, b]) => `(?:${a}|${b})`),
  ),
})).node
const text = fc
  .array(fc.constantFrom('a', 'b', 'é', '😀', '1', ' ', '-', '\n', '_'), { maxLength: 7 })
  .map((list) => list.join(''))

test("random expressions match what the engine's match", async () => {
  await fc.assert(
    fc.asyncProperty(tree, fc.array(text, { minLength: 8, maxLength: 8 }), async (source, texts) => {
      const own = new RegExp(`^(?:${source})$`, 'u')
      const constraint = await regex(source)
      for (const one of texts)
        expect(accepts(constraint, one), `/${source}/ of ${JSON.stringify(one)}`).toBe(own.test(one))
    }),
    { numRuns: 300, seed: 11 },
  )
}, 120_000)

test('flags, classes and escapes', async () => {
  for (const [source, flags, yes, no] of [
    ['straße', 'i', ['STRASSE'.replace('SS', 'ß'), 'Straße'], ['strasse']],
    ['a.b', 's', ['a\nb', 'axb'], ['ab']],
    ['a.b', '', ['axb', 'a😀b'], ['a\nb', 'a\u2028b']],
    ['\\p{Lu}\\p{L}+', '', ['Österreich'], ['österreich']],
    ['[\\w.-]+@[^@\\s]{2,}', '', ['a.b@cd'], ['a b@cd', 'a@b']],
    ['\\u{1F600}\\x41\\u0042', '', ['😀AB'], ['😀ab']],
    ['(?<year>\\d{4})|(x)', '', ['2024', 'x'], ['202']],
    ['[]', '', [], ['', 'a']],
    ['', '', [''], ['a']],
  ] as const) {
    const constraint = await regex(source, flags)
    for (const one of yes) expect(accepts(constraint, one), `/${source}/ of ${one}`).toBe(true)
    for (const one of no) expect(accepts(constraint, one), `/${source}/ of ${one}`).toBe(false)
  }
  for (const source of ['(', 'a**', '[b-a]', 'a{3,1}', '\\']) {
    await expect(regex(source)).rejects.toMatchObject({ code: 'CONSTRAINT_INVALID' })
  }
})

test('where the case does not matter, letters are equal as the engine has it', async () => {
  const letters = [...'aAkKsSſßẞΣσςµμΜiİıIΩωΩꭰᎠＡａ𐐀𐐨ǅǆǄθϴაᲐⓐⒶⱠⱡ1_ é\u212a\u0390\u1fd3']
  const sources = ['k', '\u212a', 's', 'ſ', 'ß', 'σ', 'µ', 'i', 'İ', 'ꭰ', 'ａ', 'ǆ', 'θ', 'ა', 'Ⱡ', 'ω', 'ΐ']
  const sets = ['[a-z]', '[^a-z]', '\\w', '\\W', '\\p{Lu}', '\\P{Lu}', '[^\\P{Lu}]', '[^\\p{Ll}]', '\\bk']
  for (const flags of ['i', 'iu']) {
    for (const source of flags === 'iu'
      ? [...sources, ...sets, '𐐀', '[\\u{10400}-\\u{1044f}]']
      : [...sources, '[a-z]', '\\w']) {
      const constraint = await regex(source, flags)
      const own = new RegExp(`^(?:${source})$`, flags)
      for (const one of letters) expect(accepts(constraint, one), `/${source}/${flags} of ${one}`).toBe(own.test(one))
    }
  }
})

test('what other dialects mean by a letter, and what JavaScript has and we do not, is refused by name', async () => {
  for (const [source, flags, code, word] of [
    ['\\Aa\\Z', '', 'CONSTRAINT_INVALID', '\\A'],
    ['\\h+', '', 'CONSTRAINT_INVALID', '\\h'],
    ['\\pL', '', 'CONSTRAINT_INVALID', '\\p'],
    ['(?i)a', '', 'CONSTRAINT_UNSUPPORTED', '(?i'],
    ['(?P<n>a)', '', 'CONSTRAINT_UNSUPPORTED', '(?P'],
    ['^a', 'm', 'CONSTRAINT_UNSUPPORTED', "'m'"],
    ['[[a-z]&&[aeiou]]', 'v', 'CONSTRAINT_UNSUPPORTED', 'class within a class'],
    ['[\\w--_]', 'v', 'CONSTRAINT_UNSUPPORTED', 'class within a class'],
  ] as const) {
    await expect(regex(source, flags), source).rejects.toMatchObject({ code, message: expect.stringContaining(word) })
  }
  // Where no anchor stands the flag says nothing.
  const inClass = await regex('[^a]', 'm')
  expect([accepts(inClass, 'b'), accepts(inClass, 'a')]).toEqual([true, false])
})

test('what reads nothing may be repeated any number of times, at once', async () => {
  for (const source of ['(?:){1000000000}', '(a{0}){1000000000}']) {
    const constraint = await regex(source)
    expect([accepts(constraint, ''), accepts(constraint, 'a')], source).toEqual([true, false])
  }
  await expect(regex('((a{100}){100}){100}')).rejects.toMatchObject({ code: 'CONSTRAINT_TOO_LARGE' })
})

test('a choice is one of its texts', async () => {
  const constraint = await compiled({ type: 'choice', texts: ['red', 'redder', '', 'grün', '"q"'] })
  for (const one of ['red', 'redder', '', 'grün', '"q"']) expect(accepts(constraint, one)).toBe(true)
  for (const one of ['re', 'redd', 'gr', 'q', 'redred']) expect(accepts(constraint, one)).toBe(false)
})

const grammar = (source: string) => compiled({ type: 'grammar', source })

test('grammars: arithmetic, JSON, moves of chess', async () => {
  for (const [source, yes, no] of [
    [ARITHMETIC, ['1', '1 + 2*3', '((4.25)-1)/-7\n', '--1'], ['', '1 +', '(1', '1  + 2', '4.1234', '1\n\n']],
    [JSON_GRAMMAR, ['{"a": [1, -2.5e3, "\\u00e9\\n"], "b": {}}', 'null', '[ ]'], ['{a: 1}', '[1,]', '01', '"\n"']],
    [
      CHESS,
      ['1. e4 e5\n', '1. e4 c5\n2. Nf3 d6\n10. O-O-O exd5+\n11. e8=Q# Rxa1\n'],
      ['1. e4\n', '1. e9 e5\n', '2. e4 e5\n'],
    ],
  ] as const) {
    const constraint = await grammar(source)
    for (const one of yes) expect(accepts(constraint, one), one).toBe(true)
    for (const one of no) expect(accepts(constraint, one), one).toBe(false)
  }
})

test('grammars that are none are told why', async () => {
  for (const [source, word] of [
    ['root ::= "a', 'line 1'],
    ['root ::= x', "'x'"],
    ['start ::= "a"', "'root'"],
    ['root ::= root "a" | "b"', 'left recursion'],
    ['root ::= "a" root', 'never comes to an end'],
    ['root ::= "a"\nroot ::= "b"', 'two rules'],
  ] as const) {
    await expect(grammar(source)).rejects.toMatchObject({
      code: 'CONSTRAINT_INVALID',
      message: expect.stringContaining(word),
    })
  }
})

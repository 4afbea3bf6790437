/**
 * Schemas against validators and labels of others: what is accepted is valid, what is valid is accepted. Of MaskBench
 * every MILLRACE_SCHEMAS-th schema, the eighth where nothing is said.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Ajv } from 'ajv'
import { describe, expect, test } from 'vitest'
import { compileTask } from '../../../lib/constraint/compile.ts'
import type { Json } from '../../../lib/constraint/schema/nodes.ts'
import { accepts, acceptsJson, ofAnswers, ofSchema } from './compiled.ts'

const require = createRequire(import.meta.url)

interface SuiteFile {
  name: string
  schemas: { description: string; schema: object; tests: { data: unknown; valid: boolean; description: string }[] }[]
}

test('json-schema-test-suite, drafts 3 and 4: as ajv has it, and most groups', async () => {
  const suite = require('json-schema-test-suite') as Record<'draft3' | 'draft4', () => SuiteFile[]>
  const wrong: string[] = []
  const refused: string[] = []
  let groups = 0
  for (const draft of ['draft3', 'draft4'] as const) {
    for (const { name, schemas } of suite[draft]()) {
      for (const { description, schema, tests } of schemas) {
        groups++
        const where = `${draft} ${name}: ${description}`
        let constraint: Awaited<ReturnType<typeof ofSchema>>
        try {
          constraint = await ofSchema(schema)
        } catch (error) {
          expect((error as { code: string }).code, where).toBe('CONSTRAINT_UNSUPPORTED')
          refused.push(`${where}: ${(error as Error).message}`)
          continue
        }
        let validate: ((data: unknown) => boolean) | undefined
        try {
          validate = new Ajv({ strict: false, logger: false, validateSchema: false }).compile(schema)
        } catch {
          // Of other drafts: the suite's own word counts.
        }
        for (const { data, valid, description } of tests) {
          // ajv by itself knows no formats, and the suite's of draft 3 are not today's.
          if (name === 'format') continue
          const expected = validate ? validate(data) : valid
          if (acceptsJson(constraint, data) !== expected) wrong.push(`${where}: ${description}`)
        }
      }
    }
  }
  expect(wrong).toEqual([])
  expect(refused.length / groups, refused.join('\n')).toBeLessThanOrEqual(0.15)
})

const root = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))))
const bench = [
  process.env.MILLRACE_MODELS && join(process.env.MILLRACE_MODELS, '..', 'maskbench'),
  join(root, '..', 'shared', 'maskbench'),
].find((folder): folder is string => folder !== undefined && existsSync(folder))
if (!bench) process.stderr.write('tests of MaskBench are skipped: set MILLRACE_MODELS to a folder beside maskbench\n')

test.skipIf(!bench)(
  "MaskBench's schemas: no invalid instance accepted, no valid one refused, nearly all compile",
  async () => {
    const step = Number(process.env.MILLRACE_SCHEMAS ?? 8)
    const names = readdirSync(bench!).filter((name, index) => name.endsWith('.json') && index % step === 0)
    const wrong: string[] = []
    let passed = 0
    for (const name of names) {
      const { schema, tests } = JSON.parse(readFileSync(join(bench!, name), 'utf8')) as {
        schema: object
        tests: { data: unknown; valid: boolean }[]
      }
      let constraint: Awaited<ReturnType<typeof ofSchema>>
      try {
        constraint = await ofSchema(schema)
      } catch {
        continue
      }
      const bad = tests.filter(({ data, valid }) => acceptsJson(constraint, data) !== valid)
      if (bad.length === 0) passed++
      else wrong.push(name)
    }
    expect(wrong).toEqual([])
    expect(passed / names.length).toBeGreaterThan(0.95)
  },
  600_000,
)

describe('one schema at a time', () => {
  const cases: [string, unknown, unknown[], unknown[]][] = [
    [
      'members in any order, each once',
      { properties: { a: { type: 'integer' }, b: {} }, required: ['a', 'b'], additionalProperties: false },
      [
        { a: 1, b: 2 },
        { b: [], a: 3 },
      ],
      [{ a: 1 }, { a: 'x', b: 1 }, { a: 1, b: 2, c: 3 }],
    ],
    [
      '$ref to itself',
      { type: 'object', properties: { next: { $ref: '#' } }, additionalProperties: false },
      [{}, { next: { next: {} } }],
      [{ next: 1 }, { next: { x: 1 } }],
    ],
    ['oneOf that overlaps', { oneOf: [{ type: 'integer' }, { minimum: 2 }] }, [1, 2.5, 'text'], [3, 1.5]],
    [
      'oneOf told apart by a property',
      {
        type: 'object',
        required: ['k'],
        oneOf: [
          { properties: { k: { const: 'a' }, x: { type: 'number' } } },
          { properties: { k: { const: 'b' }, x: { type: 'string' } } },
        ],
      },
      [{ k: 'a', x: 1 }, { k: 'b', x: 't' }, { k: 'a' }],
      [{ k: 'a', x: 't' }, { k: 'c' }, {}],
    ],
    [
      'if, then, else',
      {
        if: { properties: { a: { const: 1 } }, required: ['a'] },
        // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
        then: { required: ['b'] },
        else: { required: ['c'] },
      },
      [{ a: 1, b: 0 }, { c: 1 }, { a: 2, c: 0 }, 5],
      [{ a: 1 }, { a: 2 }, {}],
    ],
    [
      'not of an object',
      { type: 'object', not: { required: ['a'], properties: { b: { type: 'string' } } } },
      [{}, { a: 1, b: 2 }, { b: 'x' }],
      [{ a: 1 }, { a: 1, b: 'x' }],
    ],
    [
      'what must not hold, of each alternative of something else',
      { type: 'object', anyOf: [{}, { required: ['x'] }], not: { properties: { a: { type: 'null' }, b: false } } },
      [{ a: 1 }, { b: 1 }, { x: 1, a: 1 }],
      [{}, { a: null }, { x: 1 }],
    ],
    [
      'patternProperties',
      {
        patternProperties: { '^a': { type: 'integer' }, z$: { minimum: 5 } },
        additionalProperties: { type: 'boolean' },
      },
      [{ a: 1, q: true }, { az: 7 }, { bz: 6 }],
      [{ a: 'x' }, { az: 3 }, { q: 1 }],
    ],
    [
      'propertyNames and counts',
      { propertyNames: { maxLength: 2 }, minProperties: 2, maxProperties: 3 },
      [
        { a: 1, b: 2 },
        { a: 1, b: 2, cc: 3 },
      ],
      [{ a: 1 }, { abc: 1, d: 2 }, { a: 1, b: 2, c: 3, d: 4 }],
    ],
    [
      'dependencies',
      { dependencies: { a: ['b'], c: { required: ['d'] } } },
      [{ a: 1, b: 1 }, { b: 1 }, { c: 1, d: 1 }],
      [{ a: 1 }, { c: 1 }],
    ],
    [
      'contains',
      { type: 'array', contains: { type: 'integer' }, maxItems: 3 },
      [[1], ['a', 2], ['a', 'b', 3]],
      [[], ['a'], ['a', 'b', 'c'], ['a', 'b', 'c', 1]],
    ],
    [
      'tuples',
      { prefixItems: [{ type: 'integer' }, { type: 'string' }], items: false, minItems: 1 },
      [[1], [1, 'a']],
      [[], ['a'], [1, 2], [1, 'a', 3]],
    ],
    [
      'numbers within bounds',
      { type: 'number', exclusiveMinimum: -1.5, maximum: 20.25 },
      [-1.4999, 0, 20.25, 20, 1e-7, -1e-9, 0.30000000000000004],
      [-1.5, 20.2500001, -2, 1e21, 21],
    ],
    [
      'integers within bounds',
      { type: 'integer', minimum: -12, maximum: 345 },
      [-12, -9, 0, 99, 345],
      [-13, 346, 1000, 1.5],
    ],
    ['integers of any size', { type: 'integer' }, [1e21, 1e300, 123456789012345680000, -1e21], [1e-7, 1.5, 0.1]],
    ['multiples', { type: 'number', multipleOf: 2.5, minimum: 0 }, [0, 2.5, 5, 12.5, 1000], [1, 2.4, 6, -2.5]],
    [
      'multiples of several, and none of others',
      { type: 'integer', anyOf: [{ multipleOf: 6 }, { multipleOf: 10 }], not: { multipleOf: 4 }, maximum: 1_000_000 },
      [6, 10, 18, 30, -6, -90, 999_990, -1_000_010],
      [0, 4, 12, 15, 20, -60, 1_000_002, 7],
    ],
    [
      'multiples within small bounds',
      { type: 'integer', multipleOf: 33, not: { multipleOf: 6 }, exclusiveMinimum: -300, maximum: 99 },
      [-297, -33, 33, 99],
      [0, -66, -66, 198, -300, 165, 34],
    ],
    ['multiples of a decimal', { type: 'number', multipleOf: 0.01 }, [0, 0.07, 19.99, -3, 1234.5], [0.001, 19.999]],
    [
      'lengths in code points',
      { type: 'string', minLength: 2, maxLength: 3 },
      ['ab', '😀😀', 'é\n"'],
      ['a', '😀', 'abcd', '😀😀😀😀'],
    ],
    [
      'patterns with a length at most, whatever they repeat',
      { type: 'string', pattern: '^([a-c]{1,50}-){1,50}$', maxLength: 7 },
      ['a-', 'a-b-c-', 'abcabc-'],
      ['', 'a', 'abcabca-', 'a-b-c-a-'],
    ],
    [
      'patterns with a length at least that leave gaps',
      { type: 'string', pattern: '^(ab|abcd-){1,2}$', minLength: 4, maxLength: 9 },
      ['abab', 'abcd-', 'ababcd-'],
      ['ab', 'abcd-abcd-', 'abcd'],
    ],
    [
      'patterns within texts',
      { type: 'string', pattern: '^[^x]*"[\\\\/]' },
      ['"\\', 'ab"/ more', 'é"\\x'],
      ['x"\\', 'ab', '"a'],
    ],
    [
      'look-arounds',
      { type: 'string', pattern: '^(?!foo)(?:(?!--).)*(?<=end)$' },
      ['the end', 'a-b-end'],
      ['foo end', 'a--end', 'the end.'],
    ],
    [
      'formats',
      { type: 'string', format: 'date-time' },
      ['2024-02-29T23:59:59Z', '2023-01-31T00:00:00.123+01:00'],
      ['2023-02-29T00:00:00Z', '2023-01-01 00:00:00', 'x'],
    ],
    [
      'constants of any kind',
      { enum: [1, 'a', null, { b: [true, { c: 2 }] }] },
      [1, 'a', null, { b: [true, { c: 2 }] }],
      [2, 'b', {}, { b: [true, { c: 3 }] }, false],
    ],
    [
      'no members beside those of what is put together',
      {
        allOf: [{ $ref: '#/$defs/Base' }, { patternProperties: { '^x-': { type: 'string' } } }],
        properties: { own: { type: 'integer' } },
        required: ['name'],
        anyOf: [{ required: ['own'] }, { minProperties: 1 }],
        unevaluatedProperties: false,
        $defs: { Base: { type: 'object', properties: { name: { type: 'string' } } } },
      },
      [{ name: 'a' }, { name: 'a', own: 1, 'x-1': 'b' }],
      [{ name: 'a', other: 1 }, { own: 1 }, { name: 'a', 'x-1': 2 }, { name: 1 }],
    ],
    [
      'members beside those of what is put together, of a kind; and where that is not so',
      {
        type: 'object',
        properties: {
          a: { allOf: [{ properties: { k: {} } }], unevaluatedProperties: { type: 'integer' } },
          b: { not: { allOf: [{ properties: { k: {} } }], unevaluatedProperties: { type: 'integer' } } },
          c: { allOf: [{ additionalProperties: { type: 'string' } }], unevaluatedProperties: false },
        },
      },
      [{ a: { k: 'x', n: 1 } }, { a: 'x' }, { b: { n: 'x' } }, { c: { n: 'x' } }],
      [{ a: { n: 'x' } }, { b: { k: 'x', n: 1 } }, { b: {} }, { c: { n: 1 } }],
    ],
    ['null beside a type, as OpenAPI 3.0 has it', { type: 'string', nullable: true }, ['a', null], [1]],
    [
      'times and templates of URIs',
      {
        anyOf: [
          { type: 'string', format: 'time' },
          { type: 'string', format: 'uri-template' },
        ],
      },
      ['23:59:60Z', '23:59:59.5+01:30', '/a/{b}{?c,d*}', ''],
      ['{a', '/a b', '{a,}'],
    ],
    ['booleans as schemas', { properties: { a: true, b: false } }, [{}, { a: 1 }], [{ b: 1 }]],
  ]
  test.each(cases)('%s', async (_, schema, valid, invalid) => {
    const constraint = await ofSchema(schema)
    for (const value of valid) expect(acceptsJson(constraint, value), JSON.stringify(value)).toBe(true)
    for (const value of invalid) expect(acceptsJson(constraint, value), JSON.stringify(value)).toBe(false)
  })

  test('integers of answers have no exponent, which a model may write and nobody means; other numbers may', async () => {
    for (const bounds of [{}, { minimum: 3 }, { maximum: 1e9 }, { multipleOf: 7 }]) {
      const constraint = await ofAnswers({ type: 'integer', ...bounds })
      for (const value of [7, 700_000_000]) expect(acceptsJson(constraint, value)).toBe(true)
      for (const text of ['7e+59', '1e+21', '-7e+59', '7.', '7.5']) expect(accepts(constraint, text), text).toBe(false)
    }
    const number = await ofAnswers({ type: 'number' })
    for (const value of [7, 7e59, 1e-7, -0.5]) expect(acceptsJson(number, value)).toBe(true)
  })

  test('white space: single spaces always, more where it was asked for', async () => {
    const schema = { type: 'object', properties: { a: { type: 'array', items: {} } }, required: ['a'] }
    const compact = await ofSchema(schema)
    const flexible = await ofSchema(schema, true)
    const value = { a: [1, { b: [] }, 'x y'] }
    for (const text of [JSON.stringify(value), '{"a": [1, {"b": []}, "x y"]}', '{ "a": [ 1, { "b": [ ] }, "x y" ] }']) {
      expect(accepts(compact, text), text).toBe(true)
      expect(accepts(flexible, text), text).toBe(true)
    }
    for (const text of [JSON.stringify(value, null, 2), '{"a" : [1]}', '{"a":\t[ ]}']) {
      expect(accepts(compact, text), text).toBe(false)
      expect(accepts(flexible, text), text).toBe(true)
    }
    expect(accepts(compact, '{"a":  [1]}')).toBe(false)
  })

  test('names that are few come once each, however they are told', async () => {
    for (const schema of [
      { patternProperties: { '^[ab]$': {} }, additionalProperties: false, minProperties: 2 },
      { propertyNames: { enum: ['a', 'b'] }, minProperties: 2 },
      {
        patternProperties: { '^a|^b': {} },
        propertyNames: { maxLength: 1 },
        additionalProperties: false,
        minProperties: 2,
      },
    ]) {
      const constraint = await ofSchema({ type: 'object', ...schema })
      expect(accepts(constraint, '{"a":1,"b":2}')).toBe(true)
      for (const text of ['{"a":1}', '{"a":1,"a":2}', '{"a":1,"b":2,"b":3}', '{"a":1,"c":2}']) {
        expect(accepts(constraint, text), `${JSON.stringify(schema)} of ${text}`).toBe(false)
      }
    }
    const impossible = await ofSchema({ type: 'object', propertyNames: { enum: ['a', 'b'] }, minProperties: 3 })
    expect(accepts(impossible, '{"a":1,"b":2}')).toBe(false)
  })

  test('as many members as a pattern has names, and none where there must be more', async () => {
    const pairs = (letters: string) => [...letters].flatMap((a) => [...letters].map((b) => a + b))
    const names = pairs('abcdefghijkl')
    const schema = (minProperties: number) => ({
      type: 'object',
      patternProperties: { '^[a-l]{2}$': { type: 'null' } },
      additionalProperties: false,
      minProperties,
    })
    const all = await ofSchema(schema(names.length))
    const text = (own: readonly string[]) => JSON.stringify(Object.fromEntries(own.map((name) => [name, null])))
    expect(accepts(all, text(names))).toBe(true)
    expect(accepts(all, text(names.slice(1)))).toBe(false)
    // Nothing is begun that cannot be ended.
    const program = (one: unknown) => compileTask([{ body: { type: 'schema', schema: one as Json, flexible: false } }])
    expect(program(schema(names.length + 1))).toEqual(program(false))
    await expect(ofSchema(schema(100_000))).rejects.toMatchObject({ code: 'CONSTRAINT_TOO_LARGE' })
  })

  test('what is not held to is refused by name', async () => {
    for (const [schema, name] of [
      [{ uniqueItems: true }, 'uniqueItems'],
      [{ anyOf: [{ properties: { a: {} } }, {}], unevaluatedProperties: false }, 'unevaluatedProperties'],
      [{ $dynamicRef: '#x' }, '$dynamicRef'],
      [{ type: 'number', multipleOf: 1e-12 }, 'multipleOf'],
      [{ $ref: 'https://example.com/other' }, 'https://example.com/other'],
      [{ type: 'string', pattern: '(a)\\1' }, 'back reference'],
    ] as const) {
      await expect(ofSchema(schema)).rejects.toMatchObject({
        code: 'CONSTRAINT_UNSUPPORTED',
        message: expect.stringContaining(name),
      })
    }
  })

  test('schemas made to be too large end in an error', async () => {
    const deep = Array.from({ length: 40 }, (_, index) => ({
      anyOf: [{ required: [`a${index}`] }, { required: [`b${index}`] }, { required: [`c${index}`] }],
    }))
    const alternatives = { type: 'object', allOf: deep }
    const pattern = { type: 'string', pattern: '(a|b)*a(a|b){40}c' }
    const lengths = { type: 'string', pattern: '^([a-c]{1,50}-){1,50}$', minLength: 1500 }
    for (const schema of [alternatives, pattern, lengths]) {
      await expect(ofSchema(schema)).rejects.toMatchObject({ code: 'CONSTRAINT_TOO_LARGE' })
    }
    let nested: object = { type: 'integer' }
    for (let depth = 0; depth < 20_000; depth++) nested = { items: nested }
    const outcome = await ofSchema(nested).catch((error: unknown) => error)
    if (outcome instanceof Error) expect((outcome as { code?: string }).code).toMatch(/^CONSTRAINT_/)
  }, 120_000)
})

/** Masks against tokens tried one by one, in states of all kinds: where whole parts of the vocabulary may come, and where few. */
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { addon, type NativeVocabulary } from '../../../lib/binding.ts'
import { compileTask } from '../../../lib/constraint/compile.ts'
import type { Body, Task } from '../../../lib/constraint/task.ts'
import { loadTokenizer } from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'

let tokenizer: Awaited<ReturnType<typeof loadTokenizer>>
let vocabulary: NativeVocabulary
beforeAll(async () => {
  tokenizer = await loadTokenizer(join(MODELS, 'demo'))
  vocabulary = await addon().createVocabulary(new Uint8Array(tokenizer.pieces.shared))
}, 60_000)
afterAll(() => tokenizer.close())

const schema = (schema: object): Body => ({ type: 'schema', schema: schema as never, flexible: false })
const regex = (source: string, flags = ''): Body => ({ type: 'regex', source, flags })

const cases: [name: string, task: Task, text: string][] = [
  ['names of all kinds', [{ body: schema({ properties: { name: {}, next: {}, né: {} } }) }], '{"name": 1, "nex'],
  [
    'names of a pattern, at most two',
    [{ body: schema({ patternProperties: { '^[a-z-]{1,9}$': {} }, additionalProperties: false, maxProperties: 2 }) }],
    '{"ab-c": 1, "d',
  ],
  [
    'other names that come once each',
    [{ body: schema({ properties: { a: {} }, minProperties: 3, maxProperties: 3 }) }],
    '{"bc": 1, "bd": 2, "b',
  ],
  ['a text', [{ body: schema({ type: 'string' }) }], '"Once upon a "'],
  ['a text of bounded length', [{ body: schema({ type: 'string', minLength: 3, maxLength: 9 }) }], '"Once ups'],
  [
    'a text of two kinds',
    [{ body: schema({ type: 'string', anyOf: [{ maxLength: 4 }, { pattern: '^[a-z]*$' }] }) }],
    '"once',
  ],
  ['a text of a pattern', [{ body: schema({ type: 'string', pattern: '^[A-F\\d]{2,24}$|^[a-z._]+@' }) }], '"ABC1'],
  [
    'a text of a pattern that repeats',
    [{ body: schema({ type: 'string', pattern: '^([a-z]{1,5}-){1,3}x$' }) }],
    '"one-tw',
  ],
  ['a pattern and a length', [{ body: schema({ type: 'string', pattern: '^[^-]*-[^-]*$', maxLength: 8 }) }], '"on-ce'],
  ['an address', [{ body: schema({ type: 'string', format: 'hostname' }) }], '"once.up'],
  ['any expression', [{ body: regex('[^x]*(?<!once)') }], 'On once'],
  ['words', [{ body: regex('(\\w+ ){1,3}end', 'i') }], 'once upon e'],
  ['a text without a literal', [{ without: ['<call>'] }], 'Once <ca'],
  ['a text up to a literal', [{ until: ['and', '', 'then'] }, { body: regex('.{0,3}') }], 'Once and then'],
]

test.each(cases)(
  '%s',
  async (_, task, text) => {
    const constraint = addon().createConstraint(compileTask(task), vocabulary)
    const tokens = await tokenizer.encode(text, { specialTokens: false })
    const { taken, masks } = constraint.trace(tokens)
    expect(taken).toBe(tokens.length)
    for (const at of [0, Math.floor(tokens.length / 2), tokens.length]) {
      const wrong: string[] = []
      for (let token = 0; token < tokenizer.pieces.size; token++) {
        const isTaken = constraint.trace(Int32Array.of(...tokens.subarray(0, at), token)).taken === at + 1
        const isSet = ((masks[at]![token >> 5]! >>> (token & 31)) & 1) === 1
        if (isTaken !== isSet) wrong.push(`${token} ${JSON.stringify(tokenizer.decode(Int32Array.of(token)))}`)
      }
      expect(wrong, `behind ${at} tokens`).toEqual([])
    }
  },
  120_000,
)

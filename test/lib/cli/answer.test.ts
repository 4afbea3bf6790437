/** How answers are shown: what goes where, and when. */
import { expect, test } from 'vitest'
import { AnswerView } from '../../../lib/cli/answer.ts'
import type { ChatPart, FinishReason, GeneratedToolCall } from '../../../lib/index.ts'

async function shown(
  chunks: (string | ChatPart<FinishReason>[])[],
  { reasoning = true, dim = true, calls = [] as GeneratedToolCall[] } = {},
): Promise<string[]> {
  const written: string[] = []
  const write = (where: string) => async (text: string) => {
    written.push(`${where}: ${text}`)
  }
  const view = new AnswerView({ answer: write('out'), reasoning: reasoning ? write('err') : undefined, dim })
  for (const chunk of chunks) {
    await view.show(typeof chunk === 'string' ? { text: chunk } : { text: '', parts: chunk })
  }
  await view.end(calls)
  return written
}

const THOUGHT: ChatPart<FinishReason>[][] = [
  [{ type: 'reasoning', text: 'I ' }],
  [
    { type: 'reasoning', text: 'see.' },
    { type: 'text', text: 'Yes' },
  ],
  [
    { type: 'text', text: '.' },
    { type: 'finish', reason: 'stop' },
  ],
]

test('text alone, with the end of its last line', async () => {
  expect(await shown(['a', '', 'b'])).toEqual(['out: a', 'out: b', 'out: \n'])
  expect(await shown(['a\n'])).toEqual(['out: a\n'])
  expect(await shown([])).toEqual(['out: \n'])
})

test('reasoning while it comes, dim, and apart from the answer', async () => {
  expect(await shown(THOUGHT)).toEqual([
    ...['err: \u001b[2mI ', 'err: see.', 'err: \u001b[22m\n\n', 'out: Yes', 'out: .', 'out: \n'],
  ])
})

test('without escape sequences where nobody reads them, or not at all', async () => {
  expect(await shown(THOUGHT, { dim: false })).toEqual([
    ...['err: I ', 'err: see.', 'err: \n\n', 'out: Yes', 'out: .', 'out: \n'],
  ])
  expect(await shown(THOUGHT, { reasoning: false })).toEqual(['out: Yes', 'out: .', 'out: \n'])
})

test('an answer that ends while it thinks leaves the terminal as it was', async () => {
  expect(await shown([[{ type: 'reasoning', text: 'Hm' }]])).toEqual([
    'err: \u001b[2mHm',
    'err: \u001b[22m\n\n',
    'out: \n',
  ])
})

test('calls, a line each', async () => {
  const call = (name: string, written: string) => ({
    id: name,
    type: 'function' as const,
    function: { name, arguments: written },
  })
  const calls = [call('look', '{"a": 1}'), call('see', '{"a":')]
  const lines = ['out: {"name":"look","arguments":{"a":1}}\n', 'out: {"name":"see","arguments":"{\\"a\\":"}\n']
  expect(await shown([], { calls })).toEqual(lines)
  expect(await shown([[{ type: 'text', text: 'So' }]], { calls })).toEqual(['out: So', 'out: \n', ...lines])
})

/** Where no thread can be started, tokenizers work in this one. */
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { loadTokenizer } from '../../../lib/index.ts'
import { plain } from '../../../lib/text/tokenizer/messages.ts'
import { MODELS } from '../../models.ts'

vi.mock('node:worker_threads', async (original) => ({
  ...(await original<object>()),
  Worker: class {
    constructor() {
      throw new Error('no thread may be started')
    }
  },
}))

test('tokenises, decodes and refuses as a thread does', async () => {
  const tokenizer = await loadTokenizer(join(MODELS, 'demo'))
  const tokens = await tokenizer.encode('Once upon a time')
  expect([...tokens]).toEqual([0, 559, 590, 259, 433])
  expect(tokenizer.decode(tokens)).toBe('Once upon a time')
  const message = { role: 'user', content: 'Hi', call() {} }
  expect(tokenizer.decode(await tokenizer.encodeChat([message]))).toBe('Hi')
  await expect(loadTokenizer('/nowhere')).rejects.toMatchObject({ code: 'TOKENIZER_INVALID' })
  const pending = tokenizer.encode('Once')
  tokenizer.close()
  await expect(pending).rejects.toMatchObject({ code: 'MODEL_CLOSED' })
})

test('messages are sent without what cannot be sent', () => {
  const message: Record<string, unknown> = { content: 'Hi', call() {}, list: [1, () => 2], at: new Date(0) }
  message.self = message
  const copy = plain(message) as Record<string, unknown>
  const { self, ...rest } = structuredClone(copy)
  expect(rest).toEqual({ content: 'Hi', list: [1, undefined], at: new Date(0).toJSON() })
  expect(self).toMatchObject({ content: 'Hi' })
})

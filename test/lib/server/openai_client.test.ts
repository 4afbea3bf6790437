/** The official client of OpenAI, as it is. */
import OpenAI from 'openai'
import { beforeAll, describe, expect, test } from 'vitest'
import type { Server } from '../../../lib/server/index.ts'
import { checked } from './checked_fetch.ts'
import { complaintsOf, hasSchema } from './openai_schema.ts'
import { start } from './server.ts'

let server: Server
let client: OpenAI
beforeAll(async () => {
  server = await start()
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
})

const messages = [{ role: 'user' as const, content: 'Tell me a story about a curious otter and a paper plane.' }]

describe('chat', () => {
  test('streams what it also answers at once', async () => {
    const whole = await client.chat.completions.create({ model: 'demo', messages, max_tokens: 24 })
    const stream = await client.chat.completions.create({
      model: 'demo',
      messages,
      max_tokens: 24,
      stream: true,
      stream_options: { include_usage: true },
    })
    let text = ''
    let usage: OpenAI.CompletionUsage | null | undefined
    const reasons: (string | null)[] = []
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? ''
      usage = chunk.usage
      for (const choice of chunk.choices) reasons.push(choice.finish_reason)
    }
    expect(text).toBe(whole.choices[0]!.message.content)
    expect(text.length).toBeGreaterThan(40)
    expect(usage).toEqual(whole.usage)
    expect(usage!.completion_tokens).toBe(24)
    expect(reasons.filter((reason) => reason !== null)).toEqual(['length'])
    expect(whole.choices[0]!.finish_reason).toBe('length')
  })

  test.skipIf(!hasSchema)("every event of it was held to OpenAI's schema, which complains of others", async () => {
    // A role, the text in one piece at least, an end and the usage.
    expect(checked.get('CreateChatCompletionStreamResponse')).toBeGreaterThanOrEqual(4)
    expect(checked.get('CreateChatCompletionResponse')).toBeGreaterThan(0)
    expect(complaintsOf('CreateChatCompletionStreamResponse', { id: 1, choices: [] })).toHaveLength(1)
    expect(complaintsOf('CreateChatCompletionResponse', { choices: [{ finish_reason: 'bored' }] })).toHaveLength(1)
  })
})

/** Structured output of the AI SDK: runs where chat() takes constraints. */
import { join } from 'node:path'
import { generateObject, generateText, jsonSchema, Output, streamObject, tool } from 'ai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { millrace } from '../../lib/ai/index.ts'
import { load, type Model } from '../../lib/index.ts'
import { chatOptions } from '../../lib/options/request.ts'
import { collect } from '../collect.ts'
import { folderOf, QWEN } from '../lib/model/qwen.ts'
import { MODELS } from '../models.ts'

const SAMPLED = { temperature: 1.5, seed: 7, maxOutputTokens: 400 }
const schema = z.object({
  name: z.string().max(8),
  age: z.number().int().min(0).max(99),
  tags: z.array(z.enum(['a', 'b'])).max(2),
})

describe.runIf('constraint' in chatOptions.shape)('structured output', () => {
  let model: Model
  beforeAll(async () => {
    model = await load(join(MODELS, 'demo'))
  })
  afterAll(() => model.close())
  const ask = () => ({ model: millrace(model), prompt: 'A person', ...SAMPLED })

  test('generateObject', async () => {
    const { object, finishReason } = await generateObject({ ...ask(), schema })
    expect(schema.parse(object)).toEqual(object)
    expect(finishReason).toBe('stop')
  })

  test('streamObject', async () => {
    const { partialObjectStream, object } = streamObject({ ...ask(), schema })
    expect((await collect(partialObjectStream)).length).toBeGreaterThan(0)
    expect(schema.safeParse(await object).success).toBe(true)
  })

  test('a choice, an array and any JSON', async () => {
    const choice = await generateObject({ ...ask(), output: 'enum', enum: ['yes', 'no'] })
    expect(['yes', 'no']).toContain(choice.object)
    const { object } = await generateObject({ ...ask(), output: 'array', schema: z.enum(['a', 'b']) })
    for (const item of object) expect(['a', 'b']).toContain(item)
  })

  test('generateText with an output', async () => {
    const { output } = await generateText({ ...ask(), output: Output.object({ schema }) })
    expect(schema.parse(output)).toEqual(output)
  })

  test('a tool that must be called', async () => {
    await using talker = await load(await folderOf(QWEN))
    const inputSchema = jsonSchema<{ place: string }>({
      type: 'object',
      properties: { place: { enum: ['Oslo', 'Rome'] } },
      required: ['place'],
      additionalProperties: false,
    })
    for (const toolChoice of ['required', { type: 'tool', toolName: 'look' }] as const) {
      const { toolCalls } = await generateText({
        ...{ model: millrace(talker), prompt: 'Weather?', ...SAMPLED, toolChoice },
        tools: { look: tool({ description: 'Looks', inputSchema }) },
      })
      expect(['Oslo', 'Rome']).toContain((toolCalls[0]!.input as { place: string }).place)
    }
  })
})

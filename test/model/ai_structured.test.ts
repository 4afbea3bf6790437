/** Structured output of the AI SDK. Lists without an end are the SDK's own form of arrays: a small model finds none. */
import { join } from 'node:path'
import { generateObject, generateText, Output, streamObject } from 'ai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { millrace } from '../../lib/ai/index.ts'
import { load, type Model } from '../../lib/index.ts'
import { collect } from '../collect.ts'
import { MODELS } from '../models.ts'

const SAMPLED = { temperature: 1.5, seed: 7, maxOutputTokens: 400 }
const schema = z.object({
  name: z.string().max(8),
  age: z.number().int().min(0).max(99),
  tags: z.array(z.enum(['a', 'b'])).max(2),
})

describe('structured output', () => {
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

  test('a choice', async () => {
    const choice = await generateObject({ ...ask(), output: 'enum', enum: ['yes', 'no'] })
    expect(['yes', 'no']).toContain(choice.object)
  })

  test('generateText with an output', async () => {
    const { output } = await generateText({ ...ask(), output: Output.object({ schema }) })
    expect(schema.parse(output)).toEqual(output)
  })
})

/** A model on several devices: twins here, each with threads and streams of its own. */
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { load, type Model } from '../../lib/index.ts'
import { MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
const PROMPTS = ['Once upon a time', 'The cat sat on', 'A very long story begins with a very long sentence, and then']
const tell = (model: Model) =>
  Promise.all(
    PROMPTS.map(async (prompt, seed) => {
      const options = { maxTokens: 30, ignoreEos: true, logprobs: true, temperature: 0.9, seed }
      const { tokens, logprobs } = await model.generate(prompt, options).result
      return { tokens, logprobs }
    }),
  )

test('answers are those of one device; memory and stats add up', async () => {
  await using alone = await load(demo, { device: 'cpu', contextLength: 128 })
  const expected = await tell(alone)
  for (const device of [
    ['cpu', 'cpu'],
    ['cpu', 'cpu', 'cpu'],
  ]) {
    for (const placement of ['resident', 'streamed'] as const) {
      await using model = await load(demo, { device, placement, contextLength: 128, poison: true, threads: 1 })
      expect(await tell(model)).toEqual(expected)
      const { memory, stats } = model
      expect(memory.devices).toHaveLength(device.length)
      expect(memory.kvBytes).toBe(alone.memory.kvBytes)
      for (const name of ['ringBytes', 'kvBytes', 'workspaceBytes'] as const) {
        expect(memory.devices.reduce((sum, one) => sum + one[name], 0)).toBe(memory[name])
      }
      expect(memory.devices.map(({ ringBytes }) => ringBytes)).toEqual(
        model.plan.devices.map(({ ringBytes }) => ringBytes),
      )
      const copied = stats.streaming.devices.map(({ copiedBytes }) => copiedBytes)
      expect(copied.reduce((sum, bytes) => sum + bytes, 0)).toBe(stats.streaming.copiedBytes)
      expect(copied.every((bytes) => bytes > 0)).toBe(placement === 'streamed')
    }
  }
})

test('no two kinds of device', async () => {
  await expect(load(demo, { device: ['cpu', 'cuda:0'] })).rejects.toMatchObject({ code: 'DEVICE_UNAVAILABLE' })
  await expect(load(demo, { device: ['gpu'] })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})

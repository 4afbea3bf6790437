/** Streaming as its user sees it: models that share memory, and the trace of a pass. */
import { readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { load, type Model } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'
import { MODELS } from '../models.ts'

afterAll(removeFolders)

const demo = join(MODELS, 'demo')
const tell = async (model: Model, seed: number) => {
  const options = { maxTokens: 40, ignoreEos: true, logprobs: true, temperature: 0.9, seed }
  const { tokens, logprobs } = await model.generate('Once upon a time', options).result
  return { tokens, logprobs }
}

test('models that share an arena too small for them answer as one that is alone', async () => {
  await using alone = await load(demo, { contextLength: 128 })
  const expected = await Promise.all([1, 2, 3].map((seed) => tell(alone, seed)))
  const bytes = alone.plan.units.reduce((sum, unit) => sum + unit.bytes, 0)
  const shared = { contextLength: 128, placement: 'shared' as const, arena: Math.round(1.2 * bytes), turnMs: 20 }
  await using first = await load(demo, shared)
  await using second = await load(demo, shared)
  const found = await Promise.all([1, 2, 3].flatMap((seed) => [tell(first, seed), tell(second, seed)]))
  found.forEach((answer, index) => {
    expect(answer).toEqual(expected[Math.floor(index / 2)])
  })
  const half = await first.setBudget(Math.round(bytes / 2))
  expect(half.arenaBytes).toBe(Math.round(bytes / 2))
  expect(await tell(first, 2)).toEqual(expected[1])
  expect(first.memory.sharedBytes + second.memory.sharedBytes).toBeLessThanOrEqual(bytes / 2)
  expect(first.stats.arena.switches).toBeGreaterThan(0)
  expect(first.memory.sharedBytes + second.memory.sharedBytes).toBeLessThanOrEqual(1.2 * bytes)
})

test('a trace holds every copy and every unit of a pass, and is closed with the model', async () => {
  const path = join(tmpdir(), `millrace-trace-${process.pid}.json`)
  const model = await load(demo, { contextLength: 64, placement: 'streamed' })
  const layers = model.spec.layers
  await expect(model.trace('/no/such/folder/trace.json')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  await model.trace(path)
  const { usage } = await model.generate('Once', { maxTokens: 5, ignoreEos: true }).result
  expect(usage.completionTokens).toBe(5)
  await model.close()
  const events = JSON.parse(await readFile(path, 'utf8')) as { ph: string; tid: number; name: string; dur: number }[]
  await rm(path)
  const spans = (tid: number) => events.filter((event) => event.ph === 'X' && event.tid === tid)
  expect(spans(1)).toHaveLength(5) // steps: the prompt's and four more
  for (const kind of ['attention', 'feed-forward']) {
    for (let layer = 0; layer < layers; layer++) {
      const name = `${kind} ${layer}`
      expect(spans(2).filter((event) => event.name === name)).toHaveLength(5)
      expect(spans(2).filter((event) => event.name === `wait for ${name}`)).toHaveLength(5)
      expect(spans(3).filter((event) => event.name === name).length).toBeGreaterThanOrEqual(4)
    }
  }
  expect(spans(2).filter((event) => event.name === 'head')).toHaveLength(5)
  expect(events.every((event) => event.ph === 'M' || event.dur >= 0)).toBe(true)
})

test("a trace of experts on demand tells where each pass's experts were read, and how many it copied", async () => {
  const path = join(tmpdir(), `millrace-trace-experts-${process.pid}.json`)
  const folder = familyFolder('qwen3-moe-gptq-g32')
  const options = { contextLength: 64, prefixReuse: false, experts: 'demand' as const, expertCache: '8MiB' }
  await using model = await load(folder, { ...options, device: 'cpu', threads: 2 })
  await model.trace(path)
  await model.generate([1, 2, 3], { maxTokens: 12, ignoreEos: true }).result
  await model.trace(null)
  const { hits, mapped, promotedBytes } = model.stats.experts
  await model.generate([4, 5, 6], { maxTokens: 4, ignoreEos: true }).result // nobody traces any more
  type Event = { ph: string; name: string; args: Record<string, number> }
  const events = JSON.parse(await readFile(path, 'utf8')) as Event[]
  await rm(path)
  const passes = events.filter(({ ph, name }) => ph === 'C' && name === 'experts').map(({ args }) => args)
  const sum = (key: string) => passes.reduce((all, args) => all + args[key]!, 0)
  expect(hits + mapped).toBeGreaterThan(0)
  expect(sum('in frames')).toBe(hits)
  expect(sum('in RAM')).toBe(mapped)
  const [unit] = model.plan.units.filter(({ experts }) => experts)
  expect(sum('copied')).toBeGreaterThan(0)
  expect(promotedBytes / sum('copied')).toBeCloseTo(unit!.experts!.bytes / unit!.experts!.count, -3)
})

test('a trace that does not fit is told as it is ended, and costs no answer', async () => {
  await using model = await load(demo, { contextLength: 64, placement: 'streamed' })
  const expected = await tell(model, 1)
  await model.trace('/dev/full')
  expect(await tell(model, 1)).toEqual(expected)
  await expect(model.trace(null)).rejects.toMatchObject({
    code: 'WRITE_FAILED',
    message: expect.stringContaining("'/dev/full'"),
    remedy: expect.stringContaining('room'),
  })
  expect(await tell(model, 1)).toEqual(expected)
  await model.trace(null)
})

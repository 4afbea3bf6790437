/** Weights that have no room in RAM: through the real addon. */
import { closeSync, existsSync, openSync, readdirSync, rmSync, statSync, truncateSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, expect, test } from 'vitest'
import { type LoadOptions, load, type Model, plan } from '../../lib/index.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
const base = { device: 'cpu', threads: 2, contextLength: 256, maxSequences: 2, kvSwap: 0 } as const
const prompt = 'Once upon a time there was'

let cache = ''
beforeEach(async () => {
  cache = await temporaryFolder({})
})

/** A budget that about half of the layers have no room in. */
async function halfBudget(): Promise<number> {
  const { hostBytes, kvBytes, units } = await plan(demo, base)
  const layers = units.reduce((sum, { kind, bytes }) => sum + (kind === 'head' ? 0 : bytes), 0)
  return hostBytes + kvBytes - Math.floor(layers / 3)
}

async function answers(model: Model) {
  const { tokens } = await model.generate(prompt, { maxTokens: 24, temperature: 0.8, seed: 3, ignoreEos: true }).result
  const { perplexity } = await model.score(prompt)
  return { tokens: [...tokens], perplexity }
}

const options = (more: LoadOptions = {}): LoadOptions => ({ ...base, cache, ...more })

test('answers are those of a model that is all in RAM, and the second load reads the file of the first', async () => {
  const ramBudget = await halfBudget()
  await using whole = await load(demo, { ...base, cache: false })
  const expected = await answers(whole)
  for (const more of [{}, { placement: 'streamed' as const }]) {
    await using model = await load(demo, options({ ramBudget, ...more }))
    expect(model.plan.fileBytes).toBeGreaterThan(0)
    expect(model.plan.fileBytesPerPass).toBe(model.plan.fileBytes)
    expect(await answers(model)).toEqual(expected)
    const { steps, streaming } = model.stats
    expect(streaming.fileBytes).toBeGreaterThanOrEqual(steps * model.plan.fileBytes)
  }
  expect(readdirSync(cache)).toHaveLength(1)
  const [name] = readdirSync(cache)
  const { ino } = statSync(join(cache, name!))
  await using again = await load(demo, options({ ramBudget }))
  await expect.poll(() => again.cache!.state).toBe('read')
  expect(statSync(join(cache, name!)).ino).toBe(ino)
})

test('a plan says which units stay there, and load() does it', async () => {
  const ramBudget = await halfBudget()
  const planned = await plan(demo, { ...base, ramBudget })
  const inFile = planned.units.filter(({ inFile }) => inFile)
  expect(inFile.length).toBeGreaterThan(0)
  expect(inFile.every(({ kind }) => kind !== 'head')).toBe(true)
  await using model = await load(demo, options({ ramBudget }))
  expect(model.plan).toEqual(planned)
})

test('without a file to leave them in it is refused, with the remedy', async () => {
  const ramBudget = await halfBudget()
  await expect(load(demo, { ...base, ramBudget, cache: false })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringContaining('beyond ramBudget'),
    remedy: expect.stringContaining('cache: true'),
  })
  await expect(load(demo, { ...base, ramBudget, cache: join(demo, 'config.json') })).rejects.toMatchObject({
    code: 'WRITE_FAILED',
    remedy: expect.stringContaining('MILLRACE_CACHE'),
  })
})

test.each(['cut short', 'written to'])(
  'a file that is %s while it serves fails requests until it is loaded again',
  async (what) => {
    const ramBudget = await halfBudget()
    const before = await (async () => {
      await using model = await load(demo, options({ ramBudget }))
      const before = await answers(model)
      const { path } = model.cache!
      if (what === 'cut short') {
        truncateSync(path, 64 * 1024)
      } else {
        const file = openSync(path, 'r+')
        // All of it: whatever units were read ahead, the next ones were not.
        writeSync(file, Buffer.alloc(statSync(path).size - 65536, 1), 0, undefined, 65536)
        closeSync(file)
      }
      for (let request = 0; request < 2; request++) {
        const failure = await model.generate(prompt, { maxTokens: 24 }).result.catch((error) => error)
        expect(failure).toMatchObject({
          code: 'READ_FAILED',
          message: expect.stringContaining(path),
          remedy: expect.stringContaining('load the model again'),
        })
      }
      expect(existsSync(path)).toBe(what === 'cut short')
      return before
    })()
    await using model = await load(demo, options({ ramBudget }))
    expect(await answers(model)).toEqual(before)
  },
)

test('a file that is removed while it serves is read on', async () => {
  await using model = await load(demo, options({ ramBudget: await halfBudget() }))
  const before = await answers(model)
  rmSync(model.cache!.path)
  expect(await answers(model)).toEqual(before)
})

test('a request is cancelled and a model closed while it reads', async () => {
  const model = await load(demo, options({ ramBudget: await halfBudget() }))
  const controller = new AbortController()
  const cancelled = model.generate(prompt, { maxTokens: 200, ignoreEos: true, signal: controller.signal })
  const running = model.generate(prompt, { maxTokens: 200, ignoreEos: true })
  const settled = Promise.allSettled([cancelled.result, running.result])
  for await (const _ of cancelled) {
    controller.abort()
    break
  }
  await model.close({ drain: false })
  const codes = (await settled).map((one) => (one.status === 'rejected' ? one.reason.code : one.value.finishReason))
  for (const code of codes) expect(['ABORTED', 'MODEL_CLOSED', 'abort', 'length']).toContain(code)
}, 20_000)

/** Batches and failures that pass: no line is answered for good by what the next run may do better. */
import { cp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { load, MillraceError, type Model } from '../../../lib/index.ts'
import { runBatch } from '../../../lib/server/batch.ts'
import { temporaryFolder } from '../folder.ts'
import { DEMO } from './server.ts'

const ids = ['a', 'b', 'c', 'd', 'e']
const line = (custom_id: string, model = 'demo') =>
  JSON.stringify({ custom_id, url: '/v1/completions', body: { model, prompt: `${custom_id} day`, max_tokens: 3 } })
const answersOf = async (path: string): Promise<{ custom_id: string; response: { status_code: number } }[]> =>
  (await readFile(path, 'utf8'))
    .split('\n')
    .slice(0, -1)
    .map((text) => JSON.parse(text))
const idsOf = async (path: string) => (await answersOf(path)).map(({ custom_id }) => custom_id)

async function files(lines: string[]) {
  const folder = await temporaryFolder({ 'in.jsonl': `${lines.join('\n')}\n` })
  return { folder, input: join(folder, 'in.jsonl'), output: join(folder, 'out.jsonl') }
}

/** A model that fails from its third request on. */
function failing(model: Model, error: Error): Model {
  let asked = 0
  return new Proxy(model, {
    get(target, name) {
      const value = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      return (...given: unknown[]) => {
        if (name === 'generate' && ++asked > 2) throw error
        return value.apply(target, given)
      }
    },
  })
}

test('a GPU that is lost ends the run, and the next one goes on', async () => {
  const { input, output } = await files(ids.map((id) => line(id)))
  await using model = await load(DEMO, { device: 'cpu', threads: 1 })
  const lost = failing(model, new MillraceError('GPU_LOST', { message: 'the GPU is lost' }))
  await expect(runBatch({ models: { demo: lost } }, { input, output, concurrency: 1 })).rejects.toMatchObject({
    code: 'GPU_LOST',
    message: 'the batch has ended at "c": the GPU is lost',
    remedy: expect.stringContaining('run the same command again'),
  })
  expect(await idsOf(output)).toEqual(['a', 'b'])
  const progress = await runBatch({ models: { demo: model } }, { input, output })
  expect(progress).toMatchObject({ done: 5, answered: 3, failed: 0 })
  expect((await idsOf(output)).sort()).toEqual(ids)
})

test("a text that is too large for memory is its line's failure alone", async () => {
  const { input, output } = await files(ids.map((id) => line(id)))
  await using model = await load(DEMO, { device: 'cpu', threads: 1 })
  const short = failing(model, new MillraceError('OUT_OF_MEMORY', { message: 'the text is too large' }))
  const progress = await runBatch({ models: { demo: short } }, { input, output, concurrency: 1 })
  expect(progress).toMatchObject({ done: 5, answered: 5, failed: 3 })
})

test('a model that does not load when its first line comes ends the run by what it failed by', async () => {
  const { folder, input, output } = await files([line('a'), line('b', 'other'), line('c')])
  const other = join(folder, 'other')
  await cp(DEMO, other, { recursive: true })
  const tokenizer = await readFile(join(other, 'tokenizer.json'))
  await writeFile(join(other, 'tokenizer.json'), '{')
  const models = { models: { demo: DEMO, other }, lazy: true, load: { device: 'cpu', threads: 1 } }
  await expect(runBatch(models, { input, output, concurrency: 1 })).rejects.toMatchObject({
    code: 'TOKENIZER_INVALID',
    message: expect.stringMatching(/^other: .*tokenizer\.json/),
  })
  expect(await idsOf(output)).toEqual(['a'])
  await writeFile(join(other, 'tokenizer.json'), tokenizer)
  expect(await runBatch(models, { input, output })).toMatchObject({ done: 3, answered: 2, failed: 0 })
})

test('failures that pass are asked again, in the same file; others stay as they are', async () => {
  const { folder, input, output } = await files(ids.map((id) => line(id)))
  const record = (custom_id: string, status_code: number, code?: string) =>
    JSON.stringify({ custom_id, response: { status_code, body: { error: { code } } }, kept: true })
  const before = [record('a', 429), record('b', 400), record('c', 504), record('d', 500, 'MODEL_NOT_LOADED')]
  const place = join(folder, 'elsewhere.jsonl')
  await writeFile(place, `${[...before, record('e', 500, 'INTERNAL')].join('\n')}\n`, { mode: 0o640 })
  await symlink(place, output)
  // A run that asks nothing leaves all as it is.
  await expect(runBatch({ models: { demo: '/nowhere' } }, { input, output })).rejects.toThrow()
  expect(await idsOf(place)).toEqual(ids)
  const models = { models: { demo: DEMO }, load: { device: 'cpu', threads: 1 } }
  expect(await runBatch(models, { input, output })).toMatchObject({ done: 5, total: 5, answered: 3, failed: 2 })
  const answers = await answersOf(place)
  expect(answers.slice(0, 2).map((answer) => JSON.stringify(answer))).toEqual([before[1], record('e', 500, 'INTERNAL')])
  expect(answers.slice(2).map(({ custom_id, response }) => [custom_id, response.status_code])).toEqual(
    expect.arrayContaining(['a', 'c', 'd'].map((id) => [id, 200])),
  )
  expect(answers).toHaveLength(5)
  expect((await stat(place)).mode & 0o777).toBe(0o640)
  await rm(output)
})

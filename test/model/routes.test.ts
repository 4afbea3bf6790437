/** What tokens choose of a mixture: a log of it, and a log that is replayed. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load } from '../../lib/index.ts'
import { findShape } from '../../lib/model/shapes.ts'
import { loadSynthetic } from '../../lib/model/synthetic.ts'
import { parseRoutes, uniformRoutes } from '../../lib/plan/routes.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'

const shape = findShape('millrace-demo-moe')!
const sizes = { mixtures: 6, experts: 32, chosen: 4 }
const options = { device: 'cpu', threads: 2, contextLength: 64, maxSequences: 4, batch: 4, prefixReuse: false } as const
let folder = ''

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-routes-'))
})
afterAll(async () => {
  await rm(folder, { recursive: true, force: true })
  removeFolders()
})

describe('routes', () => {
  test('that are drawn are those that the log then has', async () => {
    const drawn = uniformRoutes(sizes, 50)
    const drawnRoutes = { entries: 50, experts: drawn.ids }
    await using model = await loadSynthetic('demo-moe', shape, { ...options, drawnRoutes })
    const path = join(folder, 'drawn.log')
    await model.traceRoutes(path)
    const asked = { maxTokens: 10, ignoreEos: true, temperature: 0 }
    const first = await model.generate(Int32Array.of(5, 6, 7), asked).result
    await model.traceRoutes(null)
    await model.generate(Int32Array.of(9), asked).result // is not in it
    const found = parseRoutes(await readFile(path), path)
    // Three rows of the prompt, then nine: of the tenth token there is no pass.
    expect(found).toMatchObject({ ...sizes, entries: 12 })
    expect([...found.passes]).toEqual([0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    expect(found.ids).toEqual(drawn.ids.subarray(0, 12 * 24))
    // Routers choose otherwise.
    await using own = await loadSynthetic('demo-moe', shape, options)
    expect((await own.generate(Int32Array.of(5, 6, 7), asked).result).tokens).not.toEqual(first.tokens)
  })

  test('of a model of one kind give its own bits when they are replayed', async () => {
    await using model = await loadSynthetic('demo-moe', shape, options)
    const path = join(folder, 'own.log')
    const ask = { maxTokens: 12, ignoreEos: true, temperature: 0, logprobs: true }
    await model.traceRoutes(path)
    const expected = await model.generate(Int32Array.of(1, 2, 3, 4), ask).result
    await model.traceRoutes(null)
    const { entries, ids } = parseRoutes(await readFile(path), path)
    await using again = await loadSynthetic('demo-moe', shape, { ...options, drawnRoutes: { entries, experts: ids } })
    const { tokens, logprobs } = await again.generate(Int32Array.of(1, 2, 3, 4), ask).result
    expect(tokens).toEqual(expected.tokens)
    expect(logprobs).toEqual(expected.logprobs)
  })

  test('that cannot be are refused', async () => {
    const refused = { code: 'INVALID_ARGUMENT' }
    const twice = { entries: 1, experts: new Uint16Array(24) }
    await expect(loadSynthetic('demo-moe', shape, { ...options, drawnRoutes: twice })).rejects.toMatchObject(refused)
    const few = { entries: 2, experts: uniformRoutes(sizes, 1).ids }
    await expect(loadSynthetic('demo-moe', shape, { ...options, drawnRoutes: few })).rejects.toMatchObject(refused)
    await using dense = await load(familyFolder('glm4-bf16'), { device: 'cpu', threads: 1, cache: false })
    await expect(dense.traceRoutes(join(folder, 'none.log'))).rejects.toMatchObject(refused)
    await using model = await loadSynthetic('demo-moe', shape, options)
    await expect(model.traceRoutes(join(folder, 'no', 'folder.log'))).rejects.toMatchObject(refused)
    await expect(model.traceRoutes('')).rejects.toMatchObject(refused)
  })
})

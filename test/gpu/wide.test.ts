/**
 * Many decode rows at once, in shapes that the kernels for few rows and those for many (linear_decode_shared, linear_decode_wide:
 * from 4096 x 4096 and 33 rows on) share between them: right, and a row's bits do not tell how many there were. Needs a
 * device; elsewhere it says why it does not run.
 */
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Model, probe } from '../../lib/index.ts'
import { type Lab, type LabBuffer, openLab, operations, verify } from '../../lib/lab/index.ts'
import { SHAPES } from '../../lib/model/shapes.ts'
import { loadSynthetic } from '../../lib/model/synthetic.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

/** Row blocks of 64 features: k is cut into four parts, two or none; groups within a chunk of 128 features and others. */
const WIDE: Record<string, number>[] = [
  { n: 4096, k: 4096 },
  { n: 4096, k: 4224, group: 32, zeros: 1, scaleType: 1, epilogue: 1 },
  { n: 4160, k: 4352, group: 64, epilogue: 1 },
  { n: 4160, k: 4096, group: 0, zeros: 1 },
  { n: 12288, k: 4096, group: 128, zeros: 1 },
  { n: 17408, k: 4096, group: 64, epilogue: 2 },
]
/** Where a launch's tiles of rows are full, nearly full and nearly empty. */
const ROWS = [33, 64, 100, 128, 200, 256]
/** Kernels for a few rows, for some and for many. */
const NUMBERS = [1, 2, 3, 8, 9, 16, 17, 32, 33, 64, 65, 100, 128, 129, 192, 193, 255, 256]
const SMALL: Record<string, number>[] = [
  { n: 576, k: 576, group: 64 },
  { n: 1536, k: 1024, group: 128, zeros: 1, epilogue: 1 },
  { n: 592, k: 1000, group: 208, epilogue: 2 },
  { n: 576, k: 576, group: 64, permuted: 1 },
]

describe.skipIf(gpus.length === 0)('decode rows', () => {
  let lab: Lab
  beforeAll(async () => {
    lab = await openLab({ device: 'cuda' })
  })
  afterAll(() => lab?.close())

  test.each(WIDE)('of %j agree with the CPU twin', { timeout: 120_000 }, async (shape) => {
    for (const rows of ROWS) {
      const { ok, outputs } = await verify(lab, 'gemv_q4', { rows, ...shape })
      expect(ok, `${rows} rows: ${JSON.stringify(outputs)}`).toBe(true)
    }
  })

  /** Of one input, the first rows' results must be the same bytes for any number of rows. */
  const expectSameBits = async (operation: string, shape: Record<string, number>) => {
    const work = await lab.prepare(operation, { rows: 256, ...shape })
    const y = work.buffers.y as LabBuffer
    const before = new Uint8Array(await y.read()) // what the epilogue adds to, else NaNs
    const stream = await lab.stream()
    const resultOf = async (rows: number) => {
      await y.write(before)
      await stream.launch({ ...work, dimensions: { ...work.dimensions, rows } })
      await stream.synchronize()
      return Buffer.from(await y.read())
    }
    const most = await resultOf(256)
    expect(most.equals(before)).toBe(false)
    for (const rows of NUMBERS) {
      const found = await resultOf(rows)
      const bytes = (most.length / 256) * rows
      expect(found.subarray(0, bytes).equals(most.subarray(0, bytes)), `${rows} rows`).toBe(true)
      expect(found.subarray(bytes).equals(before.subarray(bytes)), `behind ${rows} rows`).toBe(true)
    }
    for (const thing of [stream, ...Object.values(work.buffers)]) await (thing as LabBuffer).release()
  }

  test.each([...WIDE, ...SMALL])('of %j have the same bits in any number', { timeout: 120_000 }, async (shape) => {
    await expectSameBits('gemv_q4', shape)
  })

  test.each(['gemv_f16', 'gemv_bf16', 'gemv_f32'])('of %s have the same bits in any number', async (operation) => {
    await expectSameBits(operation, { n: 1000, k: 576 })
  })

  // Registers or shared memory written while products still read them give other bits now and then.
  const prompts = operations().flatMap(({ name }) => (name.startsWith('gemm_') ? [name] : []))
  test.each(prompts)('%s gives the same bits whenever it runs', { timeout: 60_000 }, async (operation) => {
    const work = await lab.prepare(operation, { rows: 300, n: 640, k: 2304 })
    const y = work.buffers.y as LabBuffer
    const stream = await lab.stream()
    const found = new Set<string>()
    for (let launch = 0; launch < 100; launch++) {
      await stream.launch(work)
      await stream.synchronize()
      found.add(
        createHash('sha256')
          .update(new Uint8Array(await y.read()))
          .digest('hex'),
      )
    }
    for (const thing of [stream, ...Object.values(work.buffers)]) await (thing as LabBuffer).release()
    expect(found.size).toBe(1)
  })
})

describe.skipIf(gpus.length === 0)('a model of wide linears', () => {
  let model: Model
  beforeAll(async () => {
    const spec = { ...SHAPES['llama3-8b']!, layers: 2, vocab: 2048 }
    model = await loadSynthetic('wide', spec, {
      device: 'cuda',
      placement: 'resident',
      contextLength: 96,
      maxSequences: 160,
      batch: 160,
    })
  })
  afterAll(() => model?.close())
  const ask = async (r: number) => {
    const prompt = Array.from({ length: 5 + (r % 30) }, (_, i) => (r * 37 + i * 11) % 2048)
    const sampling = { maxTokens: 50, ignoreEos: true, logprobs: true, temperature: r % 2, seed: r }
    const { tokens, logprobs } = await model.generate(prompt, sampling).result
    return { tokens, logprobs }
  }

  test.each([40, 70, 150])('a crowd of %i has the bits of each alone', { timeout: 120_000 }, async (crowd) => {
    const before = model.stats
    const together = await Promise.all(Array.from({ length: crowd }, (_, r) => ask(r)))
    const { stats } = model
    // Most passes had rows of nearly all.
    expect((stats.rows.decode - before.rows.decode) / (stats.steps - before.steps)).toBeGreaterThan(crowd / 2)
    for (let r = 0; r < crowd; r += 7) expect(await ask(r), `request ${r}`).toEqual(together[r])
  })
})

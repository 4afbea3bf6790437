/**
 * The lab on a GPU (test/lab has it on the CPU): every operation against the CPU twin, kernels of one's own by themselves and in whole models, and
 * memory that does not suffice. Needs a device; elsewhere it says why it does not run.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { NativeKernelImage } from '../../lib/binding.ts'
import { load, probe } from '../../lib/index.ts'
import { type Lab, openLab, operations, verify } from '../../lib/lab/index.ts'
import { SHAPES } from '../../lib/model/shapes.ts'
import { loadSynthetic } from '../../lib/model/synthetic.ts'
import { AWKWARD, sizesOf } from '../lab/sizes.ts'
import { IDLE, idle } from './kernels.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)
/** Those of examples/kernels, as the build with CUDA makes them. */
const exampleOf = (name: string) => join(root, `build/Release/kernels/${name}.fatbin`)
const example = exampleOf('gemv_q4')

const loadMixture = (name: string, experts: 'resident' | 'demand', kernels: NativeKernelImage[] = []) => {
  const cache = experts === 'demand' ? { expertCache: '1MiB' } : {}
  const options = { device: 'cuda', contextLength: 128, experts, kernels, ...cache }
  return loadSynthetic(name, { ...SHAPES['millrace-demo-moe']!, layers: 2 }, options)
}

describe.skipIf(gpus.length === 0)('the lab on a GPU', () => {
  let lab: Lab
  beforeAll(async () => {
    lab = await openLab({ device: 'cuda' })
  })
  afterAll(() => lab?.close())

  test.each(operations().map(({ name }) => name))('%s agrees with the CPU twin', async (operation) => {
    for (const dimensions of sizesOf(operation)) {
      const { ok, outputs } = await verify(lab, operation, dimensions)
      expect(ok, `${JSON.stringify(dimensions)}: ${JSON.stringify(outputs)}`).toBe(true)
    }
  })

  test('launches, copies and fills are timed by events', async () => {
    const [begin, end, stream] = [await lab.event(), await lab.event(), await lab.stream()]
    const work = await lab.prepare('gemv_q4', { n: 4096, k: 4096 })
    await stream.record(begin)
    for (let i = 0; i < 10; i++) await stream.launch(work)
    await stream.record(end)
    expect(await begin.until(end)).toBeGreaterThan(0)
    for (const us of await lab.time(work, { repeats: 3 })) expect(us).toBeGreaterThan(0)
    expect(await lab.readBandwidth()).toBeGreaterThan(1e10)
  })

  test('an image that is none, or lacks the kernel, says so', async () => {
    const rejection = (code: string, message: RegExp) => ({ code, message: expect.stringMatching(message) })
    await expect(lab.loadKernel('gemv_q4', Buffer.from('no PTX'))).rejects.toMatchObject(
      rejection('INVALID_ARGUMENT', /loading the kernel of gemv_q4/),
    )
    await expect(lab.loadKernel('gemv_f16', IDLE)).rejects.toMatchObject(
      rejection('INVALID_ARGUMENT', /no kernel extern "C" gemv_f16/),
    )
  })

  test('a kernel that does nothing is found out', async () => {
    const kernel = await lab.loadKernel('gemv_q4', IDLE)
    const { ok, outputs } = await verify(lab, 'gemv_q4', { rows: 2, n: 64, k: 64 }, { kernel })
    expect(ok).toBe(false)
    expect(outputs).toMatchObject([{ name: 'y', notNumbers: 128 }])
    await kernel.release()
  })

  describe.skipIf(!existsSync(example))('examples/kernels/gemv_q4.cu', () => {
    test.each([...AWKWARD.linear!, ...AWKWARD.q4!])('%j', async (dimensions) => {
      const kernel = await lab.loadKernel('gemv_q4', example)
      const { ok, outputs } = await verify(lab, 'gemv_q4', dimensions, { kernel })
      expect(ok, JSON.stringify(outputs)).toBe(true)
      await kernel.release()
    })

    test('runs in whole models, its graphs too, alone and in a crowd', async () => {
      const folder = join(root, 'models/demo')
      await using ours = await load(folder, { device: 'cuda', contextLength: 256 })
      await using theirs = await load(folder, { device: 'cuda', contextLength: 256, kernels: { gemv_q4: example } })
      const text = Array.from({ length: 60 }, (_, i) => (i * 37 + 11) % 400)
      const [expected, found] = [await ours.score(text), await theirs.score(text)]
      expect(found.perplexity / expected.perplexity).toBeCloseTo(1, 3)
      const alone = await theirs.generate(text.slice(0, 9), { maxTokens: 40 }).result
      const crowd = await Promise.all(
        Array.from({ length: 9 }, (_, i) => theirs.generate(text.slice(0, 9 + (i % 3)), { maxTokens: 40 }).result),
      )
      expect(crowd[0]!.tokens).toEqual(alone.tokens)
      expect(alone.tokens).toEqual((await ours.generate(text.slice(0, 9), { maxTokens: 40 }).result).tokens)
    })
  })

  describe.skipIf(!existsSync(exampleOf('experts_q4')))('kernels in the place of mixtures', () => {
    test.each(['experts_q4', 'combine'])('examples/kernels/%s.cu', async (name) => {
      const kernel = await lab.loadKernel(name, exampleOf(name))
      for (const dimensions of sizesOf(name)) {
        const { ok, outputs } = await verify(lab, name, dimensions, { kernel })
        expect(ok, `${JSON.stringify(dimensions)}: ${JSON.stringify(outputs)}`).toBe(true)
      }
      await kernel.release()
    })

    test.each(['resident', 'demand'] as const)('run in whole models, experts %s', async (experts) => {
      const kernels = ['experts_q4', 'combine'].map((operation) => {
        return { operation, source: operation, image: Uint8Array.from(readFileSync(exampleOf(operation))) }
      })
      await using ours = await loadMixture('ours', experts)
      await using theirs = await loadMixture('theirs', experts, kernels)
      const text = Array.from({ length: 60 }, (_, i) => (i * 37 + 11) % 400)
      const [expected, found] = [await ours.score(text), await theirs.score(text)]
      expect(found.perplexity / expected.perplexity).toBeCloseTo(1, 3)
      const tokens = async (of: typeof ours) => (await of.generate(text.slice(0, 9), { maxTokens: 30 }).result).tokens
      expect(await tokens(theirs)).toEqual(await tokens(ours))
    })
  })

  test.each([
    ['experts_q4', 'experts'],
    ['route', 'route'],
    ['combine', 'combine'],
  ] as const)('%s that does nothing is found out, alone and in a model', async (name, kind) => {
    const image = idle(name, kind)
    const kernel = await lab.loadKernel(name, image)
    const { ok } = await verify(lab, name, sizesOf(name)[0]!, { kernel })
    expect(ok).toBe(false)
    await kernel.release()
    await using ours = await loadMixture('ours', 'resident')
    const kernels = [{ operation: name, source: name, image: Uint8Array.from(image) }]
    await using theirs = await loadMixture('theirs', 'resident', kernels)
    const tokens = async (of: typeof ours) => (await of.generate([1, 2, 3], { maxTokens: 8 }).result).tokens
    expect(await tokens(theirs)).not.toEqual(await tokens(ours))
  })

  test("a kernel of one's own is really what runs", async () => {
    const spec = { ...SHAPES['smollm2-135m']!, layers: 2 }
    const kernels = [{ operation: 'gemv_q4', source: 'idle', image: Uint8Array.from(IDLE) }]
    await using model = await loadSynthetic(
      'idle',
      spec,
      { device: 'cuda', contextLength: 64, kernels },
      { head: 'q4' },
    )
    await using ours = await loadSynthetic('ours', spec, { device: 'cuda', contextLength: 64 }, { head: 'q4' })
    const tokens = async (of: typeof model) => (await of.generate([1, 2, 3], { maxTokens: 8 }).result).tokens
    expect(await tokens(model)).not.toEqual(await tokens(ours))
  })

  test('memory that does not suffice is told by name and size, and what was loaded goes on', async () => {
    await using model = await load(join(root, 'models/demo'), { device: 'cuda', contextLength: 128 })
    await expect(lab.buffer(2 ** 44)).rejects.toMatchObject({
      code: 'OUT_OF_MEMORY',
      message: expect.stringMatching(
        /a buffer of the lab needs [\d.]+ MiB of GPU memory; [\d.]+ of [\d.]+ MiB are free/,
      ),
    })
    await expect(
      load(join(root, 'models/demo'), { device: 'cuda', contextLength: 128, kvTokens: 2 ** 30 }),
    ).rejects.toMatchObject({ code: 'OUT_OF_MEMORY', message: expect.stringMatching(/KV cache/) })
    expect((await model.generate('Once', { maxTokens: 4 }).result).tokens).toHaveLength(4)
  })
})

import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import type { ModelSource } from '../../../lib/binding.ts'
import { type LoadProgress, load } from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'
import type { FakeAddon } from './fake_addon.ts'
import { FakeModel } from './fake_addon.ts'

const fake = vi.hoisted(() => ({ addon: undefined as unknown as FakeAddon }))
vi.mock('../../../lib/binding.ts', async (original) => {
  const { FakeAddon } = await import('./fake_addon.ts')
  fake.addon = new FakeAddon()
  return { ...(await original<object>()), addon: () => fake.addon }
})

const demo = join(MODELS, 'demo')

afterEach(() => {
  fake.addon.onLoad = undefined
  expect(fake.addon.refs).toBe(0)
})

describe('load', () => {
  test('hands over what was planned', async () => {
    const model = await load(demo, {
      placement: 'streamed',
      ring: 3,
      contextLength: 100,
      kvTokens: 500,
      threads: 1,
      poison: true,
    })
    expect(fake.addon.loads.at(-1)).toMatchObject({
      paths: [join(demo, 'model.safetensors')],
      homes: [...new Array(16).fill('streamed'), 'resident'],
      devices: ['cpu'],
      unitDevices: [],
      ringBytes: [3 * 2048],
      contextLength: 100,
      kvBlocks: [32],
      threads: 1,
      poison: true,
    })
    expect(model.plan).toMatchObject({ device: 'cpu', ringBytes: 3 * 2048, contextLength: 100, threads: 1 })
    await model.close()
  })

  test('the same files give the same identity', async () => {
    await using _a = await load(demo)
    await using _b = await load(demo, { placement: 'streamed' })
    const [a, b] = fake.addon.loads.slice(-2)
    expect(a).toHaveProperty('identity')
    expect((a as { identity: string }).identity).toBe((b as { identity: string }).identity)
    expect(a!.loadId).not.toBe(b!.loadId)
  })

  test('a head of 4 bits is another identity', async () => {
    await using _a = await load(demo)
    await using _b = await load(demo, { head: 'q4' })
    await using _c = await load(demo, { head: 'stored' })
    const [a, b, c] = fake.addon.loads.slice(-3).map((request) => request as { identity: string; source: ModelSource })
    expect(a!.identity).not.toBe(b!.identity)
    expect(a!.identity).toBe(c!.identity)
    expect([a!, b!].map(({ source }) => source.units.at(-1)!.linears[0]![0]!.makeBits)).toEqual([0, 4])
  })

  test('memory that is not free now is told before any is taken, but not asked for twice', async () => {
    await using _a = await load(demo)
    const { identity } = fake.addon.loads.at(-1) as { identity: string }
    const loads = fake.addon.loads.length
    fake.addon.memoryAvailableBytes = 30_000 // the fake model's weights take 32,768 bytes
    try {
      await expect(load(demo, { contextLength: 16, maxSequences: 1 })).rejects.toMatchObject({
        code: 'OUT_OF_MEMORY',
        message: expect.stringContaining('0.0 MB are free'),
      })
      expect(fake.addon.loads.length).toBe(loads)
      fake.addon.held.add(identity)
      await using _b = await load(demo, { contextLength: 16, maxSequences: 1 })
    } finally {
      fake.addon.memoryAvailableBytes = 8 * 1024 ** 3
      fake.addon.held.clear()
    }
  })

  test('reports progress in bytes of this load alone', async () => {
    const seen: LoadProgress[] = []
    fake.addon.onLoad = async (request) => {
      fake.addon.emit({ type: 'progress', load: request.loadId, done: 1, total: 2 })
      fake.addon.emit({ type: 'progress', load: request.loadId + 1000, done: 9, total: 9 })
      return new FakeModel(fake.addon, 99)
    }
    await using _ = await load(demo, { onProgress: (progress) => seen.push(progress) })
    expect(seen.filter(({ stage }) => stage === 'weights')).toEqual([{ stage: 'weights', done: 1, total: 2 }])
    expect(seen[0]!.stage).toBe('checkpoint')
  })

  test('a failing onProgress ends the load with its error', async () => {
    const failure = new Error('mine')
    fake.addon.onLoad = async (request) => {
      fake.addon.emit({ type: 'progress', load: request.loadId, done: 1, total: 2 })
      expect(fake.addon.cancelledLoads).toContain(request.loadId)
      throw Object.assign(new Error('cancelled'), { code: 'ABORTED' })
    }
    const onProgress = ({ stage }: LoadProgress) => {
      if (stage === 'weights') throw failure
    }
    await expect(load(demo, { onProgress })).rejects.toBe(failure)
  })

  test('a signal cancels it', async () => {
    const controller = new AbortController()
    fake.addon.onLoad = async (request) => {
      controller.abort()
      expect(fake.addon.cancelledLoads).toContain(request.loadId)
      throw Object.assign(new Error('cancelled'), { code: 'ABORTED' })
    }
    await expect(load(demo, { signal: controller.signal })).rejects.toMatchObject({
      code: 'ABORTED',
      message: 'the load was aborted',
    })
  })

  test('a signal that comes too late closes what was loaded', async () => {
    const controller = new AbortController()
    const native = new FakeModel(fake.addon, 98)
    fake.addon.onLoad = async () => {
      controller.abort()
      return native
    }
    await expect(load(demo, { signal: controller.signal })).rejects.toMatchObject({ code: 'ABORTED' })
    expect(native.closes).toEqual([{ drain: false, timeoutMs: 0 }])
  })

  test('rejects, and loads nothing, where anything is wrong', async () => {
    const before = fake.addon.loads.length
    await expect(load(demo, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' })
    await expect(load(demo, { contextlength: 5 } as never)).rejects.toThrow(/did you mean 'contextLength'/)
    await expect(load(demo, { device: 'cuda' })).rejects.toMatchObject({
      code: 'DEVICE_UNAVAILABLE',
      message: expect.stringContaining('there is none in a test'),
    })
    await expect(load(join(MODELS, 'nothing'))).rejects.toMatchObject({ code: 'CHECKPOINT_NOT_FOUND' })
    expect(fake.addon.loads.length).toBe(before)
  })

  test('errors of the addon keep their code', async () => {
    fake.addon.onLoad = () =>
      Promise.reject(Object.assign(new Error('too large'), { code: 'OUT_OF_MEMORY', remedy: 'less' }))
    await expect(load(demo)).rejects.toMatchObject({ name: 'MillraceError', code: 'OUT_OF_MEMORY', remedy: 'less' })
  })
})

describe('setBudget', () => {
  test('moves units, in turns, and the plan follows', async () => {
    fake.addon.gpus = [
      {
        index: 0,
        name: 'a GPU',
        computeCapability: '9.0',
        memoryBytes: 8e10,
        memoryFreeBytes: 8e10,
        link: 'PCIe 5 x16',
      },
    ]
    await using model = await load(demo, { device: 'cuda', contextLength: 64, maxSequences: 1 })
    const native = fake.addon.models.at(-1)!
    expect(model.plan.units.every((unit) => unit.home === 'resident')).toBe(true)
    const { kvBytes, workspaceBytes } = model.plan
    const [less, more] = [kvBytes + workspaceBytes + 18 * 2 ** 20, '50%']
    const [small, large] = await Promise.all([model.setBudget(less), model.setBudget(more)])
    expect(native.moved).toHaveLength(2)
    expect(small.units.map((unit) => unit.home)).toEqual(native.moved[0]!.homes)
    expect([small.ringBytes]).toEqual(native.moved[0]!.ringBytes)
    expect(small.ringBytes).toBeGreaterThan(0)
    expect(small.vramBudgetBytes).toBe(less)
    expect(small.prediction.single.tokensPerSecond).toBeLessThan(large.prediction.single.tokensPerSecond)
    expect(large.units.every((unit) => unit.home === 'resident')).toBe(true)
    expect(model.plan).toBe(large)
    await expect(model.setBudget(1000)).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
    await expect(model.setBudget('a lot')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(model.plan).toBe(large)
    fake.addon.gpus = []
  })

  test('is the size of the arena where units are shared; nothing on the CPU', async () => {
    await using model = await load(demo)
    await expect(model.setBudget('1GiB')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})

describe('sleep and wake', () => {
  const gpu = { index: 0, name: 'a GPU', computeCapability: '9.0', memoryBytes: 8e10, memoryFreeBytes: 8e10, link: '' }

  test('resident weights leave the GPU and come back; a new budget wakes', async () => {
    fake.addon.gpus = [gpu]
    await using model = await load(demo, { device: 'cuda', contextLength: 64, maxSequences: 1 })
    const native = fake.addon.models.at(-1)!
    const awake = model.plan
    await Promise.all([model.sleep(), model.sleep()])
    expect(model.asleep).toBe(true)
    expect(native.moved).toHaveLength(1)
    expect(model.plan.residentBytes).toBeLessThan(awake.residentBytes)
    expect(native.moved[0]!.homes.slice(0, -1).every((home) => home === 'streamed')).toBe(true)
    await model.wake()
    expect(model.asleep).toBe(false)
    expect(native.moved[1]!.homes).toEqual(awake.units.map(({ home }) => home))
    expect(native.moved[1]!.ringBytes).toEqual(awake.devices.map(({ ringBytes }) => ringBytes))
    expect(model.plan).toEqual(awake)
    await model.wake()
    expect(native.moved).toHaveLength(2)
    await model.sleep()
    await model.setBudget('50%')
    expect(model.asleep).toBe(false)
    fake.addon.gpus = []
  })

  test('on the CPU there is nothing to move; after close() it is MODEL_CLOSED', async () => {
    const model = await load(demo)
    const native = fake.addon.models.at(-1)!
    await model.sleep()
    expect(model.asleep).toBe(true)
    await model.wake()
    expect(native.moved).toEqual([])
    const closed = model.close()
    native.finishClose()
    await closed
    await expect(model.sleep()).rejects.toMatchObject({ code: 'MODEL_CLOSED' })
  })
})

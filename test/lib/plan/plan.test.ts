import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { buildDecoder } from '../../../lib/checkpoint/decoder.ts'
import type { PlacementHome, PlanOptions } from '../../../lib/options/model.ts'
import { checkMemory } from '../../../lib/plan/memory.ts'
import { KV_BLOCK_TOKENS, type Machine, makePlan } from '../../../lib/plan/plan.ts'
import * as fixture from './fixture.ts'

const { program, shape, slabs, machine, gpu, unitsOf } = fixture
const plan = (options: PlanOptions = {}, on: Partial<Machine> = {}) =>
  makePlan(program, slabs, options, { ...machine, ...on })

describe('placement', () => {
  test('auto is resident on the CPU, with no ring', () => {
    const { device, units, ringBytes, streamedBytesPerPass, threads } = plan()
    expect(device).toBe('cpu')
    expect(units.every((unit) => unit.home === 'resident')).toBe(true)
    expect({ ringBytes, streamedBytesPerPass, threads }).toEqual({ ringBytes: 0, streamedBytesPerPass: 0, threads: 3 })
  })

  test('streamed streams every layer and keeps the head', () => {
    const { units, ringBytes, streamedBytesPerPass } = plan({ placement: 'streamed' })
    expect(units.map((unit) => unit.home)).toEqual([...new Array(8).fill('streamed'), 'resident'])
    expect(streamedBytesPerPass).toBe(4 * (1024 + 3072))
    expect(ringBytes).toBe(2 * 3072)
  })

  test('an array gives both units of a layer their home', () => {
    const { units, streamedBytesPerPass } = plan({ placement: ['resident', 'streamed', 'cpu', 'streamed'] })
    expect(units.filter((unit) => unit.home === 'streamed').map((unit) => unit.layer)).toEqual([1, 1, 3, 3])
    expect(streamedBytesPerPass).toBe(2 * (1024 + 3072))
    expect(() => plan({ placement: ['resident'] })).toThrow(/one home a layer \(4\) or a unit \(9\) for placement/)
  })

  test('an array of all units is taken as it is', () => {
    const homes: PlacementHome[] = [
      'streamed',
      'cpu',
      'resident',
      'resident',
      'streamed',
      'streamed',
      'resident',
      'cpu',
      'streamed',
    ]
    const { units, ringBytes } = plan({ placement: homes, device: 'cuda', ring: 1 }, { gpus: [gpu] })
    expect(units.map((unit) => unit.home)).toEqual(homes)
    expect(ringBytes).toBe(9728)
    expect(() => plan({ placement: homes.with(0, 'cpu'), device: 'cuda' }, { gpus: [gpu] })).toThrow(
      /for placement\[0\]/,
    )
  })

  test('beside a GPU the CPU takes feed-forwards, and the ring has room for them', () => {
    const { units, ringBytes } = plan({ placement: 'cpu', device: 'cuda', ring: 1 }, { gpus: [gpu] })
    expect(units.slice(0, 8).map((unit) => unit.home)).toEqual(new Array(4).fill(['streamed', 'cpu']).flat())
    expect(ringBytes).toBe(3072)
  })
})

describe('ring', () => {
  test('counts the largest units, or bytes', () => {
    expect(plan({ placement: 'streamed', ring: 1 }).ringBytes).toBe(3072)
    expect(plan({ placement: 'streamed', ring: '1MiB' }).ringBytes).toBe(1048576)
    expect(plan({ ring: 5 }).ringBytes).toBe(0)
  })
  test('in bytes that hold no head: the head stays, whatever the budget', () => {
    const { kvBytes, workspaceBytes } = plan({ placement: 'streamed', device: 'cuda' }, { gpus: [gpu] })
    const rest = kvBytes + workspaceBytes
    const head = slabs.units.at(-1)!.bytes
    const { units, ringBytes } = plan({ ring: '6KB', device: 'cuda', vramBudget: rest + head + 9000 }, { gpus: [gpu] })
    expect(units.at(-1)!.home).toBe('resident')
    expect(ringBytes).toBeLessThanOrEqual(6000)
    expect(units.some((unit) => unit.home === 'streamed')).toBe(true)
    expect(() =>
      plan({ ring: '6KB', device: 'cuda', maxSequences: 4, vramBudget: kvBytes + head }, { gpus: [gpu] }),
    ).toThrow(expect.objectContaining({ code: 'OUT_OF_MEMORY' }))
  })
  test('is never larger than all that is streamed, and never smaller than one unit', () => {
    expect(plan({ placement: 'streamed', ring: 4096 }).ringBytes).toBe(8 * 3072)
    expect(() => plan({ placement: 'streamed', ring: '3KB' })).toThrow(
      /at least the largest streamed unit \(3072 bytes\)/,
    )
  })
})

describe('context and KV cache', () => {
  test('defaults: at most 4096 tokens, four contexts', () => {
    expect(plan()).toMatchObject({ contextLength: 4096, kvTokens: 4 * 4096, kvBytes: 4 * 4096 * 512 })
    const short = makePlan({ ...program, maxPosition: 512 }, slabs, {}, machine)
    expect(short).toMatchObject({ contextLength: 512, kvTokens: 2048 })
  })
  test('maxSequences and kvTokens', () => {
    expect(plan({ contextLength: 100, maxSequences: 3 }).kvTokens).toBe(3 * 112)
    expect(plan({ contextLength: 100, kvTokens: 1000 }).kvTokens).toBe(1008)
    expect(plan({ contextLength: 1000, kvTokens: 16 }).kvTokens).toBe(1008)
    expect(() => plan({ kvTokens: 16, maxSequences: 1 })).toThrow(/one of kvTokens and maxSequences/)
  })
  test('heads that no kernel of the GPU takes', () => {
    const wide = buildDecoder({ ...shape, layer: (index) => ({ ...shape.layer(index), headDim: 320 }) }).program
    expect(makePlan(wide, slabs, { device: 'cpu' }, machine).device).toBe('cpu')
    expect(() => makePlan(wide, slabs, { device: 'cuda' }, { ...machine, gpus: [gpu] })).toThrow(
      expect.objectContaining({ code: 'CHECKPOINT_UNSUPPORTED' }),
    )
  })
  test('64 sequences run at once, or as many as are asked for', () => {
    expect(plan({}).maxLogitRows).toBe(64)
    expect(plan({ maxSequences: 100 }).maxLogitRows).toBe(128)
    expect(plan({ batch: 4000 })).toMatchObject({ maxLogitRows: 256, batch: 256 })
  })
  test('a step has no more rows than the cache has room for', () => {
    const on = { gpus: [gpu] }
    const [short, long] = [88, 4096].map((contextLength) =>
      plan({ device: 'cuda', placement: 'streamed', maxSequences: 1, contextLength }, on),
    )
    expect(short!.maxRows).toBe(64 + 128)
    expect(long!.maxRows).toBeGreaterThan(1984)
    expect(short!.workspaceBytes).toBeLessThan(long!.workspaceBytes)
  })

  test('the context is at most what the model was made for', () => {
    expect(plan({ contextLength: 8192 }).contextLength).toBe(8192)
    expect(() => plan({ contextLength: 8193 })).toThrow(/at most the 8192 positions/)
  })
})

test('a model that this machine can never hold is refused with the figures', () => {
  const needed = plan().hostBytes + plan().kvBytes
  expect(plan({}, { memoryLimitBytes: needed }).kvBytes).toBe(4 * 4096 * 512)
  expect(() => plan({}, { memoryLimitBytes: needed - 1 })).toThrowError(
    expect.objectContaining({ code: 'OUT_OF_MEMORY', message: expect.stringContaining('KV cache 8.4 MB') }),
  )
})

describe('RAM for preempted requests', () => {
  const block = 16 * 512
  const { hostBytes, kvBytes } = plan()
  const needed = hostBytes + kvBytes
  /** Free, so that `bytes` are left beside the model and what it needs to work in. */
  const leaves = (bytes: number) => Math.ceil(needed + needed / 8 + bytes)

  test('is as large as the KV cache where there is enough', () => {
    expect(plan().kvSwapBytes).toBe(kvBytes)
    expect(plan({ device: 'cuda' }, { gpus: [gpu] }).kvSwapBytes).toBe(kvBytes)
    const large = { ...program, maxPosition: 2 ** 20 }
    const made = makePlan(large, slabs, { contextLength: 2 ** 20, maxSequences: 64 }, machine)
    expect(made.kvBytes).toBe(64 * 2 ** 20 * 512)
    expect(made.kvSwapBytes).toBe(4 * 2 ** 30)
  })

  test('takes by default a quarter of what is free at most, in whole blocks, and never makes a model too large', () => {
    expect(plan({}, { memoryAvailableBytes: leaves(4e6) }).kvSwapBytes).toBe(Math.floor(1e6 / block) * block)
    expect(plan({}, { memoryLimitBytes: leaves(4e6) }).kvSwapBytes).toBe(Math.floor(1e6 / block) * block)
    expect(plan({ ramBudget: leaves(4e6) }, { memoryAvailableBytes: 1 }).kvSwapBytes).toBeGreaterThan(0.9e6)
    for (const free of [0, 1e5, 1e6, 1e7, 1e8, 1e9]) {
      const on = { memoryAvailableBytes: leaves(free) }
      const made = plan({}, on)
      checkMemory(made, { limitBytes: machine.memoryLimitBytes, availableBytes: on.memoryAvailableBytes }, false)
    }
    expect(plan({}, { memoryAvailableBytes: 0 }).kvSwapBytes).toBe(0)
  })

  test('is what kvSwap names, and then counts', () => {
    expect(plan({ kvSwap: 0 }).kvSwapBytes).toBe(0)
    expect(plan({ kvSwap: 3 * block + 1 }).kvSwapBytes).toBe(3 * block)
    expect(plan({ kvSwap: '1MiB' }).kvSwapBytes).toBe(2 ** 20)
    expect(plan({ kvSwap: '2GiB' }).kvSwapBytes).toBe(2 * 2 ** 30)
    for (const device of ['cpu', 'cuda']) {
      const on = { memoryLimitBytes: 1e9, gpus: [gpu] }
      expect(() => plan({ device, kvSwap: '2GiB' }, on)).toThrowError(
        expect.objectContaining({ code: 'OUT_OF_MEMORY', message: expect.stringContaining('kvSwap 2147 MB') }),
      )
      expect(() => plan({ device, ramBudget: '1GiB', kvSwap: '2GiB' }, { gpus: [gpu] })).toThrowError(/ramBudget is/)
    }
  })
})

test('cuda is unavailable, for the reason that was found', () => {
  for (const device of ['cuda', 'cuda:1']) {
    expect(() => plan({ device })).toThrowError(
      expect.objectContaining({ code: 'DEVICE_UNAVAILABLE', message: expect.stringContaining('no NVIDIA driver') }),
    )
  }
  expect(plan({ device: 'auto' }).device).toBe('cpu')
})

describe('budgets', () => {
  const on = (options: PlanOptions, memoryFreeBytes = 1e12) =>
    plan({ device: 'cuda', contextLength: 64, maxSequences: 1, ...options }, { gpus: [{ ...gpu, memoryFreeBytes }] })

  test('auto is resident where all fits, and says what it takes', () => {
    const made = on({})
    expect(made.units.every((unit) => unit.home === 'resident')).toBe(true)
    expect(made.vramBytes).toBe(made.residentBytes + made.ringBytes + made.kvBytes + made.workspaceBytes)
    expect(made).toMatchObject({ vramBudgetBytes: 0.9e12, pinnedBytes: slabs.embeddingBytes, ringBytes: 0 })
  })

  test('bytes, sizes and shares of what is free', () => {
    expect(on({ vramBudget: '80%' }).vramBudgetBytes).toBe(0.8e12)
    expect(on({ vramBudget: '2GiB' }).vramBudgetBytes).toBe(2 ** 31)
    expect(on({ vramBudget: 3e9 }).vramBudgetBytes).toBe(3e9)
    expect(on({ vramBudget: 3e12 }).vramBudgetBytes).toBe(1e12)
  })

  test('what does not fit is refused before it is loaded, with figures', () => {
    const options = { contextLength: 8192, placement: 'resident' as const }
    expect(() => on({ ...options, vramBudget: '1MiB' })).toThrowError(
      expect.objectContaining({
        code: 'OUT_OF_MEMORY',
        message: expect.stringMatching(/at least .* MB of memory on a GPU \(resident weights .* the budget is 1\.0 MB/),
        remedy: expect.stringContaining("placement: 'auto'"),
      }),
    )
    expect(() => on({ vramBudget: '8GiB' }, 1e6)).toThrow(/1\.0 MB are free on it/)
  })

  test('keys and values of 8 bits take what the native side says of them, where layers can have it', () => {
    const kv = [
      { layers: 3, window: 0, bytesPerToken: 384, q8BytesPerToken: 204, bytesPerSequence: 0 },
      { layers: 1, window: 0, bytesPerToken: 100, bytesPerSequence: 0 },
      { layers: 2, window: 0, bytesPerToken: 0, bytesPerSequence: 4096 },
    ]
    const of = (type: 'f16' | 'q8' | undefined) =>
      makePlan(program, { ...slabs, kv, kvBytesPerToken: 484 }, { device: 'cpu', kv: type }, machine)
    expect(of(undefined)).toEqual(of('f16'))
    expect(of('f16')).toMatchObject({ kvType: 'f16', kvBytesPerToken: 484 })
    expect(of('f16').kv.map(({ type }) => type)).toEqual(['f16', 'f16', 'f32'])
    expect(of('q8')).toMatchObject({ kvType: 'q8', kvBytesPerToken: 304 })
    expect(of('q8').kv.map(({ type }) => type)).toEqual(['q8', 'f16', 'f32'])
  })

  test('keys and values of 8 bits are refused on a GPU, where whole models have not been tried', () => {
    expect(() => plan({ device: 'cuda', kv: 'q8' }, { gpus: [gpu] })).toThrowError(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining("kv: 'q8'") }),
    )
  })

  test('default sizes give way, wishes do not', () => {
    const kv = [{ layers: 4, window: 0, bytesPerToken: 1e5, bytesPerSequence: 0 }]
    const tight = makePlan(
      { ...program, maxPosition: 8192 },
      { ...slabs, kv, kvBytesPerToken: 1e5 },
      { device: 'cuda', vramBudget: 6e8 },
      { ...machine, gpus: [gpu] },
    )
    expect(tight.kvTokens).toBe(4096)
    expect(tight.vramBytes).toBeLessThanOrEqual(6e8)
    expect(() =>
      makePlan(
        program,
        { ...slabs, kv, kvBytesPerToken: 1e5 },
        { device: 'cuda', vramBudget: 6e8, maxSequences: 4 },
        { ...machine, gpus: [gpu] },
      ),
    ).toThrow(/KV cache 1638 MB/)
  })

  test('ramBudget stands in for what the system says, in both directions', () => {
    const { hostBytes } = on({})
    const small = { gpus: [gpu], memoryLimitBytes: hostBytes - 1 }
    expect(() => plan({ device: 'cuda' }, small)).toThrow(/of RAM .*, this process may use/)
    expect(plan({ device: 'cuda', ramBudget: hostBytes }, small).hostBytes).toBe(hostBytes)
    expect(on({ ramBudget: hostBytes - 1 })).toMatchObject({ fileBytesPerPass: 0 }) // what the GPU has for good
    expect(() => on({ ramBudget: 1000 })).toThrow(/ramBudget is/)
  })

  test('a prediction comes with the plan', () => {
    const { prediction } = on({ batch: 8, placement: 'streamed' })
    expect(prediction).toMatchObject({
      calibrated: false,
      single: { batch: 1, boundBy: 'gpu' },
      batch: { batch: 8 },
      prefill: { tokens: 64 },
    })
    expect(prediction.batch.tokensPerSecond).toBeGreaterThan(prediction.single.tokensPerSecond)
    expect(plan({ batch: 8 }).prediction.batch).toMatchObject({ batch: 8, boundBy: 'cpu' })
  })
})

test('whatever the options, the plan is consistent', () => {
  const home = fc.constantFrom('resident' as const, 'streamed' as const, 'cpu' as const)
  const options = fc.record({
    placement: fc.oneof(home, fc.array(home, { minLength: 4, maxLength: 4 })),
    ring: fc.integer({ min: 1, max: 40 }),
    contextLength: fc.integer({ min: 1, max: 8192 }),
    maxSequences: fc.integer({ min: 1, max: 40 }),
    threads: fc.integer({ min: 1, max: 64 }),
  })
  fc.assert(
    fc.property(options, (options) => {
      const made = plan(options)
      const streamed = made.units.filter((unit) => unit.home === 'streamed')
      const largest = Math.max(0, ...streamed.map((unit) => unit.bytes))
      expect(made.ringBytes).toBeGreaterThanOrEqual(largest)
      expect(made.streamedBytesPerPass).toBe(streamed.reduce((sum, unit) => sum + unit.bytes, 0))
      expect(made.kvTokens % KV_BLOCK_TOKENS).toBe(0)
      expect(made.kvTokens).toBeGreaterThanOrEqual(options.contextLength * options.maxSequences)
      expect(made.units.map(({ kind, layer, bytes }) => ({ kind, layer, bytes }))).toEqual(
        slabs.units.map(({ kind, layer, bytes }) => ({ kind, layer, bytes })),
      )
      expect(made.threads).toBe(options.threads)
    }),
  )
})

test('adaptive: the CPU serves as many as it serves no slower than the link', () => {
  const large = { ...slabs, units: unitsOf(shape.layers, 20e6, 90e6, 100e6) }
  const options = { device: 'cuda', placement: 'cpu' as const, contextLength: 64, maxSequences: 1, threads: 16 }
  const made = (more: PlanOptions) => makePlan(program, large, { ...options, ...more }, { ...machine, gpus: [gpu] })
  const fixed = made({})
  expect(fixed.cpuRows).toBe(2 ** 31 - 1)
  const { cpuRows } = made({ adaptive: true })
  expect(cpuRows).toBeGreaterThan(0)
  expect(cpuRows).toBeLessThan(64)
  const seconds = (batch: number, adaptive: boolean) => made({ batch, adaptive }).prediction.batch.passSeconds
  expect(seconds(cpuRows, true)).toBe(seconds(cpuRows, false))
  expect(seconds(cpuRows + 1, true)).toBeLessThan(seconds(cpuRows + 1, false))
  expect(made({ adaptive: true, placement: 'streamed' }).cpuRows).toBe(2 ** 31 - 1)
})

import { describe, expect, test } from 'vitest'
import type { Home } from '../../../lib/binding.ts'
import { buildDecoder } from '../../../lib/checkpoint/decoder.ts'
import type { PlanOptions } from '../../../lib/options/model.ts'
import { withinBudgets } from '../../../lib/plan/budget.ts'
import { deviceIndices } from '../../../lib/plan/devices.ts'
import { type MachineGpu, makePlan } from '../../../lib/plan/plan.ts'
import * as fixture from './fixture.ts'

const { program, slabs, machine, gpu } = fixture
const small = { contextLength: 64, maxSequences: 1 }
const plan = (options: PlanOptions = {}, gpus: readonly MachineGpu[] = [gpu, gpu, gpu]) =>
  makePlan(program, slabs, { device: ['cuda:0', 'cuda:1'], ...small, ...options }, { ...machine, gpus })

describe('several devices', () => {
  test('layers alternate, the head is with the last one', () => {
    const made = plan({ placement: 'streamed' })
    expect(deviceIndices(made)).toEqual([0, 0, 1, 1, 0, 0, 1, 1, 1])
    expect(made.units.map(({ device }) => device.at(-1))).toEqual([...'001100111'])
    expect(made.devices.map(({ device }) => device)).toEqual(['cuda:0', 'cuda:1'])
    expect(made.devices.map(({ streamedBytesPerPass }) => streamedBytesPerPass)).toEqual([8192, 8192])
    expect(made.devices.map(({ ringBytes }) => ringBytes)).toEqual([6144, 6144])
    expect(made.devices.map(({ residentBytes }) => residentBytes)).toEqual([0, 2 ** 21])
    const three = plan({ placement: 'streamed', device: ['cuda:2', 'cuda:0', 'cuda:1'] })
    expect(three.units.map(({ device }) => device.at(-1))).toEqual([...'220011222'])
  })

  test('where all are resident, layers follow each other: rows cross once', () => {
    const made = plan({ placement: 'resident' })
    expect(made.spread).toBe('halves')
    expect(deviceIndices(made)).toEqual([0, 0, 0, 0, 1, 1, 1, 1, 1])
    expect(made.units.map(({ device }) => device.at(-1))).toEqual([...'000011111'])
    expect(plan().spread).toBe('halves') // there is room for all
    expect(plan({ device: ['cuda:2', 'cuda:0', 'cuda:1'] }).units.map(({ device }) => device.at(-1))).toEqual([
      ...'222200111',
    ])
    for (const other of [{ placement: 'streamed' }, { placement: 'cpu' }] as const) {
      expect(plan(other).spread).toBe('alternate')
    }
    // Of budgets that move later each device's own units move, wherever the plan has put them.
    const least = withinBudgets(made, undefined, 'least')
    expect(least.homes).toContain('streamed')
    expect(least.rings).toHaveLength(2)
  })

  test('what a plan says is what its devices take', () => {
    for (const placement of ['auto', 'streamed', 'cpu', ['resident', 'streamed', 'cpu', 'streamed']] as const) {
      const made = plan({ placement })
      const one = plan({ placement, device: 'cuda:1' })
      for (const name of ['ringBytes', 'residentBytes', 'kvBytes', 'workspaceBytes', 'vramBytes'] as const) {
        expect(made[name]).toBe(made.devices.reduce((sum, device) => sum + device[name], 0))
      }
      expect(made.kvBytes).toBe(one.kvBytes)
      expect(made.streamedBytesPerPass).toBe(one.streamedBytesPerPass)
      expect(one.devices).toEqual([expect.objectContaining({ device: 'cuda:1', vramBytes: one.vramBytes })])
    }
  })

  test("each GPU's memory is checked; 'auto' makes resident what each has room for, and leaves nothing to the CPU", () => {
    const all = plan({ placement: 'resident' })
    // A pool of one context, the workspace of few rows: residency in units of 2 MiB.
    const room = (device: number, units: number) => all.devices[device]!.vramBytes - (5 - units) * 2 ** 21
    const made = plan({}, [
      { ...gpu, memoryFreeBytes: 1e12 },
      { ...gpu, memoryFreeBytes: room(1, 3) / 0.9 },
    ])
    const homesOn = (device: string) => made.units.filter((unit) => unit.device === device).map(({ home }) => home)
    expect(homesOn('cuda:0')).toEqual(new Array(4).fill('resident'))
    expect(homesOn('cuda:1')).toContain('streamed')
    expect(homesOn('cuda:1')).not.toContain('cpu')
    for (const device of made.devices) expect(device.vramBytes).toBeLessThanOrEqual(device.vramBudgetBytes)
    expect(() => plan({}, [gpu, { ...gpu, name: 'a small one', memoryFreeBytes: 1e6 }])).toThrow(
      /of memory on cuda:1, a small one \(ring [\d.]+ MB, KV cache/,
    )
  })

  test('a budget is of each', () => {
    const made = plan({ vramBudget: '50%' }, [gpu, { ...gpu, memoryFreeBytes: 20e9 }])
    expect(made.devices.map(({ vramBudgetBytes }) => vramBudgetBytes)).toEqual([39.5e9, 10e9])
    const rest = made.devices.map(({ kvBytes, workspaceBytes }) => kvBytes + workspaceBytes)
    const moved = withinBudgets(made, undefined, [1e12, rest[1]! + 2 ** 21 + 2 * 3072])
    const streamed: Home[] = ['streamed', 'streamed']
    const resident: Home[] = ['resident', 'resident']
    expect(moved.homes).toEqual([resident, resident, streamed, streamed, 'resident'].flat())
    expect(moved.rings).toEqual([0, 2 * 3072])
    expect(() => withinBudgets(made, undefined, [1e12, 1000])).toThrow(/at least 8\.1 MB of memory on the GPU/)
  })

  test('what cannot be spread is refused', () => {
    expect(() => plan({ device: ['cuda:0', 'cuda:3'] })).toThrow(/'cuda:3' cannot be used: there are 3 GPUs/)
    expect(() => plan({ device: ['cuda:0', 'cuda:0'] })).toThrow(/each of them once/)
    expect(() => plan({ device: ['cuda:0', 'cpu'] })).toThrow(/each of them once/)
    expect(() => plan({ placement: 'shared' })).toThrow(/on several devices for placement/)
    const devices = Array.from({ length: 5 }, (_, index) => `cuda:${index}`)
    expect(() => plan({ device: devices }, new Array(5).fill(gpu))).toThrow(/no more devices than .* layers \(4\)/)
    expect(plan({ device: ['cuda:1'] }).device).toBe('cuda:1')
  })

  test('streamed over two links it is nearly twice as fast', () => {
    const layers = 16
    const large = { ...slabs, units: fixture.unitsOf(layers, 25e6, 87e6, 1e9) }
    const deep = buildDecoder({ ...fixture.shape, layers }).program
    const options = { placement: 'streamed' as const, ...small }
    const on = { ...machine, gpus: [gpu, gpu] }
    const one = makePlan(deep, large, { ...options, device: 'cuda:0' }, on).prediction.single
    const two = makePlan(deep, large, { ...options, device: ['cuda:0', 'cuda:1'] }, on).prediction.single
    expect(two.tokensPerSecond / one.tokensPerSecond).toBeGreaterThan(1.9)
  })
})

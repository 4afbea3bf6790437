// Several models on a machine that is described: whether they fit together, what a switch and a load take.
import { expect, test } from 'vitest'
import { planModels } from '../../../lib/model/plan_models.ts'

const machine = { gpu: { memory: '24GiB', link: '25GB', bandwidth: '1008GB' }, cores: 8, ram: '64GiB', dram: '60GB' }
const few = { contextLength: 2048, kvTokens: 4096, kvSwap: 0 }

test('what fits side by side is resident, and no switch costs anything', async () => {
  const made = await planModels(['llama3-8b', 'tinyllama-1.1b'], { machine, ...few })
  expect(made).toMatchObject({ together: 'resident', arenaBytes: 0, problems: [] })
  expect(made.models.map(({ switchBytes }) => switchBytes)).toEqual([0, 0])
  for (const { plan } of made.models) expect(plan!.streamedBytesPerPass).toBe(0)
  expect(made.vramBytes).toBe(made.models[0]!.plan!.vramBytes + made.models[1]!.plan!.vramBytes)
})

test('what does not takes turns in an arena: a switch takes its weights over the link, a load its bytes from the disk', async () => {
  const small = { ...machine, gpu: { ...machine.gpu, memory: '12GiB' }, disk: '5GB' }
  const made = await planModels(['llama3-8b', 'llama3.2-1b', 'llama2-7b'], {
    machine: small,
    ...few,
    vramBudget: '7GiB',
  })
  expect(made.together).toBe('shared')
  for (const { plan, switchBytes, switchSeconds, loadSeconds } of made.models) {
    expect(switchBytes).toBe(plan!.units.reduce((sum, { bytes }) => sum + bytes, 0))
    expect(switchSeconds).toBeCloseTo(switchBytes / 25e9, 9)
    expect(loadSeconds).toBeCloseTo(plan!.hostBytes / 5e9, 9)
  }
  expect(made.vramBytes).toBeLessThanOrEqual(made.vramLimitBytes)
  const own = made.models.reduce((sum, { plan }) => sum + plan!.vramBytes, 0)
  expect(made.arenaBytes).toBe(made.vramLimitBytes - own)
})

test('a model with more weights than the arena is told, with the speed of its copies', async () => {
  const made = await planModels(['llama3-8b', 'llama3-70b'], { machine, ...few })
  expect(made.together).toBe('shared')
  const large = made.models[1]!
  expect(made.problems).toEqual([])
  expect(made.warnings.join()).toContain('llama3-70b has')
  expect(large.tokensPerSecond).toBeCloseTo(25e9 / (large.switchBytes - made.arenaBytes), 6)
})

test('RAM of all is counted, and a model that fits nowhere has its problem', async () => {
  const short = { ...machine, ram: '10GiB' }
  const made = await planModels(['llama3-8b', 'llama2-7b', 'llama3-70b'], { machine: short, ...few })
  expect(made.models[2]).toMatchObject({ model: 'llama3-70b', problem: { code: 'OUT_OF_MEMORY' }, tokensPerSecond: 0 })
  expect(made.models[2]!.plan).toBeUndefined()
  expect(made.hostBytes).toBe(made.models[0]!.plan!.hostBytes + made.models[1]!.plan!.hostBytes)
  const eight = await planModels(['llama3-8b', 'llama2-7b'], { machine: { ...machine, ram: '8GiB' }, ...few })
  expect(eight.problems.join()).toMatch(/of RAM, and there are 8\.6 GB/)
})

test('with the disk named, what RAM has no room for stays there, and a pass waits for it', async () => {
  const short = { ...machine, ram: '24GiB', disk: '5GB' }
  for (const gpu of [false, machine.gpu] as const) {
    const made = await planModels(['llama3-70b'], { machine: { ...short, gpu }, ...few })
    expect(made.problems).toEqual([])
    expect(made.warnings.join()).toMatch(/llama3-70b: .* stay on the disk, .* are read a pass: load it with ramBudget/)
    const { plan, tokensPerSecond } = made.models[0]!
    expect(plan!.hostBytes + plan!.windowBytes + (gpu ? 0 : plan!.kvBytes)).toBeLessThanOrEqual(24 * 2 ** 30)
    expect(plan!.fileBytes).toBeGreaterThan(10e9)
    expect(plan!.prediction.single.diskSeconds).toBeCloseTo(plan!.fileBytesPerPass / 5e9, 9)
    if (gpu) {
      expect(plan!.fileBytesPerPass).toBe(0) // what the GPU has for good needs no RAM
      continue
    }
    expect(plan!.fileBytesPerPass).toBe(plan!.fileBytes)
    expect(plan!.prediction.single.boundBy).toBe('disk')
    expect(tokensPerSecond).toBeCloseTo(5e9 / plan!.fileBytesPerPass, 9)
  }
  const without = await planModels(['llama3-70b'], { machine: { ...short, disk: undefined, gpu: false }, ...few })
  expect(without.models[0]!.problem).toMatchObject({
    code: 'OUT_OF_MEMORY',
    remedy: expect.stringContaining('ramBudget'),
  })
})

test('without a GPU the cores read RAM as fast as it is said to allow', async () => {
  const speed = async (dram: string) => {
    const made = await planModels(['llama3-8b'], { machine: { gpu: false, cores: 32, dram, ram: '64GiB' } })
    expect(made).toMatchObject({ together: 'alone', vramLimitBytes: 0 })
    return made.models[0]!.tokensPerSecond
  }
  expect((await speed('60GB')) / (await speed('30GB'))).toBeCloseTo(2, 1)
})

test('wrong descriptions are refused', async () => {
  await expect(planModels([], { machine })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  for (const wrong of [{ dram: 'fast' }, { gpu: { memory: '24GiB', link: 'USB' } }, { disc: '5GB' }, { cores: 0 }]) {
    await expect(planModels(['llama3-8b'], { machine: wrong as never })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
  }
  await expect(planModels(['llama3-9b'], { machine })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})

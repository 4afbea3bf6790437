/** plan() for a GPU that is not here. */
import { describe, expect, test } from 'vitest'
import { parseGpu } from '../../../lib/cli/options.ts'
import { type ModelPlan, plan } from '../../../lib/index.ts'

const RAM = { ramBudget: '64GiB', threads: 16 } as const

describe('a GPU that is described', () => {
  test('has the model where it fits, and streams where it does not', async () => {
    const large = await plan('llama3-8b', { ...RAM, gpu: { memory: '24GiB' } })
    expect(large.device).toBe('cuda:0')
    expect(large.units.every(({ home }) => home === 'resident')).toBe(true)
    expect(large.vramBytes).toBeLessThanOrEqual(24 * 2 ** 30)
    const small = await plan('llama3-8b', { ...RAM, gpu: { memory: '3GiB' }, coExecute: false })
    expect(small.streamedBytesPerPass).toBeGreaterThan(0)
    expect(small.vramBytes).toBeLessThanOrEqual(3 * 2 ** 30)
    expect(small.prediction.calibrated).toBe(false)
  })

  test('is as fast as its memory and its link are', async () => {
    const speed = (made: ModelPlan) => made.prediction.single.tokensPerSecond
    const resident = (bandwidth: string) => plan('llama3-8b', { ...RAM, gpu: { memory: '24GiB', bandwidth } })
    const [slow, fast] = [speed(await resident('504GB')), speed(await resident('1008GB'))]
    expect(fast / slow).toBeGreaterThan(1.7)
    expect(fast / slow).toBeLessThan(2)
    // No faster than its memory can be read.
    expect(fast).toBeLessThan(1008e9 / 4.5e9)
    const streamed = (link: string) =>
      plan('llama3-8b', { ...RAM, gpu: { memory: '24GiB', link }, placement: 'streamed' })
    const [third, fourth] = [speed(await streamed('PCIe 3.0 x16')), speed(await streamed('PCIe 4.0 x16'))]
    expect(fourth / third).toBeGreaterThan(1.8)
    expect(fourth / third).toBeLessThan(2.01)
  })

  test.each([
    {},
    { memory: 'large' },
    { memory: '24G' },
    { memory: '24GiB', link: 'fast' },
    { memory: '24GiB', link: 'PCIe 4.0 x3' },
    { memory: '24GiB', bandwidth: 'fast' },
    { memory: '24GiB', name: 'x' },
  ])('as %j is refused', async (gpu) => {
    await expect(plan('llama3-8b', { gpu: gpu as never })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  test('is one word of the command', () => {
    expect(parseGpu('24GiB')).toEqual({ memory: '24GiB' })
    expect(parseGpu('24GiB, PCIe 4.0 x16, 1008GB/s')).toEqual({
      memory: '24GiB',
      link: 'PCIe 4.0 x16',
      bandwidth: '1008GB',
    })
    expect(parseGpu('8 GB,pcie3 x8')).toEqual({ memory: '8 GB', link: 'PCIe 3.0 x8' })
    expect(() => parseGpu('24GiB, green')).toThrow(/'green' is neither a link nor a bandwidth/)
  })
})

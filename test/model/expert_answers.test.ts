/** Experts on demand of which the CPU answers some: what a plan says of it, what is counted, and what is refused. */
import { afterAll, describe, expect, test } from 'vitest'
import { load, plan } from '../../lib/index.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'

afterAll(removeFolders)

const mixture = familyFolder('qwen3-moe-gptq-g32')
const options = { device: 'cpu', threads: 2, contextLength: 64, experts: 'demand' } as const

describe('experts that the CPU answers', () => {
  test('are counted, and are not among those read in RAM', async () => {
    await using alone = await load(mixture, options)
    await using answered = await load(mixture, { ...options, expertCpu: true })
    const asked = { maxTokens: 16, ignoreEos: true }
    const expected = await alone.generate([1, 2, 3], asked).result
    const found = await answered.generate([1, 2, 3], asked).result
    expect(found.tokens).toEqual(expected.tokens)
    const { hits, mapped, cpu, hitRate } = answered.stats.experts
    expect(alone.stats.experts.cpu).toBe(0)
    expect(cpu).toBeGreaterThan(0)
    expect(mapped).toBeGreaterThan(0)
    expect(hits).toBe(0)
    expect(hitRate).toBe(0)
    expect(mapped + cpu).toBe(alone.stats.experts.mapped)
  })

  test('are in a plan with their threads and rates, and make it faster', async () => {
    const gpu = { gpu: { memory: '12GiB' }, experts: 'demand', expertCache: 0 } as const
    const without = await plan(mixture, gpu)
    const { experts, prediction } = await plan(mixture, { ...gpu, expertCpu: true, threads: 16 })
    expect(without.experts!.cpu).toBeUndefined()
    expect(experts!.cpu!.threads).toBe(15)
    expect(experts!.cpu!.bytesPerSecond).toBeGreaterThan(0)
    expect(experts!.cpu!.linkBytesPerSecond).toBeGreaterThan(0)
    expect(prediction.single.tokensPerSecond).toBeGreaterThanOrEqual(without.prediction.single.tokensPerSecond)
  })

  test('are none of float weights, and none where experts are not on demand', async () => {
    const float = load(familyFolder('qwen3-moe-bf16'), { ...options, expertCpu: true })
    await expect(float).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/integer weights/),
    })
    const resident = load(mixture, { ...options, experts: 'resident', expertCpu: true })
    await expect(resident).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/on demand/),
    })
    await expect(load(mixture, { ...options, expertCpu: 'yes' as never })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
  })
})
